"""What the tests of comparison share."""

from __future__ import annotations

from pipelines.core.types import Traits

SD, FLOW, EMBEDDED = (
    Traits("sd", "epsilon", "unet"),
    Traits("sd3", "flow", "transformer"),
    Traits("flux", "flow", "transformer", "embedded"),
)
