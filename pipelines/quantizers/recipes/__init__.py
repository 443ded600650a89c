"""Published recipes on simulated layers, a file and a line each."""

from __future__ import annotations

from pipelines.core.registry import Method
from pipelines.quantizers.calibrated import CalibratedQuantizer
from pipelines.quantizers.recipes.free import Simulated, SimulatedSettings
from pipelines.quantizers.recipes.q_diffusion import QDiffusion, QDiffusionSettings
from pipelines.quantizers.recipes.svdquant import SvdQuant, SvdQuantSettings
from pipelines.quantizers.recipes.vidit_q import ViditQ, ViditQSettings

__all__ = ["RECIPES"]

_CLAIM = "Simulated: shows the pictures, saves neither time nor memory."

RECIPES: list[Method[CalibratedQuantizer]] = [
    Method(
        "simulated",
        "Free choice (simulated)",
        Simulated,
        SimulatedSettings,
        paper="Nagel et al., A white paper on neural network quantization, arXiv:2106.08295",
        help=f"Any rounding of weights, inputs and attention's scores, put together by hand. {_CLAIM}",
        groups=("simulated",),
    ),
    Method(
        "q_diffusion",
        "Q-Diffusion (simulated)",
        QDiffusion,
        QDiffusionSettings,
        paper="Li et al., Q-Diffusion, arXiv:2302.04304",
        help="W4A8 for U-Nets: searched ranges, a range for each half of a joined skip connection, rounding learned "
        f"block by block; takes minutes. {_CLAIM}",
        groups=("simulated",),
    ),
    Method(
        "vidit_q",
        "ViDiT-Q (simulated)",
        ViditQ,
        ViditQSettings,
        paper="Zhao et al., ViDiT-Q, arXiv:2406.02540",
        help=f"W8A8 and below: channels balanced and rotated, inputs measured live by token. {_CLAIM}",
        groups=("simulated",),
    ),
    Method(
        "svdquant",
        "SVDQuant (simulated)",
        SvdQuant,
        SvdQuantSettings,
        paper="Li et al., SVDQuant, arXiv:2411.05007",
        help="W4A4: outliers move into the weights and from there into a branch of low rank in full precision. "
        f"{_CLAIM}",
        groups=("simulated",),
    ),
]
