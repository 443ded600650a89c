"""Where a studio's things are, and how much of the memory its models may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.core.types import Traits
from pipelines.models.cache import ModelCache
from pipelines.models.device_choice import Acceleration, choose_device
from pipelines.models.memory import total_memory
from pipelines.requests.limits import Limits
from studio.results.retention import Housekeeping
from studio.safety.people import EVERYBODY, People
from studio.safety.protection import Protection

__all__ = ["TRAITS", "StudioSettings", "build_caches"]

_SHARE_OF_MEMORY = 0.5
_SHARE_OF_DEVICE = 0.85
_HEADROOM = 0.1
TRAITS = {
    "sd": Traits("sd", "epsilon", "unet"),
    "sdxl": Traits("sdxl", "epsilon", "unet"),
    "sd3": Traits("sd3", "flow", "transformer"),
    "flux": Traits("flux", "flow", "transformer", "embedded"),
    "stock": Traits("stock", "epsilon", "pipeline"),
    "AnimateDiffPipeline": Traits("animatediff", "epsilon", "unet"),
}
"""What a family's models have in common, until one is loaded and says it itself; a pipeline's own line goes before its
family's: AnimateDiff is loaded as a stock pipeline and runs in the studio's loop."""


@dataclasses.dataclass(frozen=True)
class StudioSettings:
    """Says where things are and how much may be used.

    Attributes:
        outputs: folder of the results; None for the person's own data folder.
        models: folder of the person's models; None likewise.
        more_models: further folders of models.
        follow_links: whether links that lead out of the models folders are followed.
        memory_budget: bytes that loaded models may take; None for a share of the device's memory.
        limits: the caps.
        device: "cpu", "cuda", "cuda:1", "mps" or "xpu"; None for the best there is.
        more_devices: further ones, on each of which a worker runs jobs beside those of the first.
        dtype: of the weights, as `Loader` takes it.
        acceleration: what is done to networks when they are loaded.
        gpu: what sends a job to a ZeroGPU Space's GPU (`spaces.GPU`); None where jobs run in this process.
        people: who may see and change what somebody made.
        housekeeping: what is kept of the results.
        audit_log: file of the audit log; None for none.
        protection: what is done to pictures before anybody sees them.
        keeps_queue: whether queued jobs are kept for the next start of the studio, and those of the last one run.
    """

    outputs: Path | None = None
    models: Path | None = None
    more_models: Sequence[Path] = ()
    follow_links: bool = False
    memory_budget: int | None = None
    limits: Limits = Limits()
    device: str | None = None
    more_devices: Sequence[str] = ()
    dtype: str | None = None
    acceleration: Acceleration = Acceleration()
    gpu: Callable[..., Any] | None = None
    people: People = EVERYBODY
    housekeeping: Housekeeping = dataclasses.field(default_factory=Housekeeping)
    audit_log: Path | None = None
    protection: Protection = dataclasses.field(default_factory=Protection)
    keeps_queue: bool = False


def build_caches(settings: StudioSettings, device: str | None = None) -> tuple[ModelCache, ModelCache | None]:
    """Build the cache of a device, and on a GPU one for the computer's own memory beside it.

    Args:
        settings: of the studio; the memory budget is each device's.
        device: None for the settings' first. Several share the computer's memory evenly.
    """
    name = device or settings.device or choose_device()
    memory = int(total_memory() * _SHARE_OF_MEMORY) // (1 + len(settings.more_devices))
    kind = name.partition(":")[0]
    if kind not in ("cuda", "xpu"):
        # Apple's GPU has no memory of its own.
        budget = settings.memory_budget or memory
        return ModelCache(budget, int(budget * _HEADROOM)), None
    # Of what is free now: others may use the card, too.
    free, _ = getattr(torch, kind).mem_get_info(torch.device(name))
    budget = settings.memory_budget or int(free * _SHARE_OF_DEVICE)
    return ModelCache(budget, int(budget * _HEADROOM)), ModelCache(memory)
