"""The table of guidance methods: how the branches of one evaluation become one prediction."""

from __future__ import annotations

from pipelines.core.denoiser import Guidance
from pipelines.core.registry import Method, Table
from pipelines.guidance.cfg import Cfg, CfgSettings

__all__ = ["GUIDANCE"]

GUIDANCE: Table[Guidance] = Table(
    "guidance",
    [
        Method(
            "cfg",
            "Classifier-free guidance",
            Cfg,
            CfgSettings,
            paper="Ho & Salimans, arXiv:2207.12598; rescale: Lin et al., arXiv:2305.08891",
            help="Moves the prediction from the negative prompt's towards the prompt's.",
        ),
    ],
)
