"""Published recipes on simulated layers, a file and a line each."""

from __future__ import annotations

from pipelines.core.registry import Method
from pipelines.quantizers.calibrated import CalibratedQuantizer
from pipelines.quantizers.recipes.dgq import Dgq, DgqSettings
from pipelines.quantizers.recipes.eda_dm import EdaDm, EdaDmSettings
from pipelines.quantizers.recipes.floating_point import Fp4Dit, Fp4DitSettings, FpSearch, FpSearchSettings
from pipelines.quantizers.recipes.free import Simulated, SimulatedSettings
from pipelines.quantizers.recipes.lrq_dit import LrqDit, LrqDitSettings
from pipelines.quantizers.recipes.mixdq import MixDq, MixDqSettings
from pipelines.quantizers.recipes.ptq4dm import Ptq4dm, Ptq4dmSettings
from pipelines.quantizers.recipes.q_diffusion import QDiffusion, QDiffusionSettings
from pipelines.quantizers.recipes.quest import Quest, QuestSettings
from pipelines.quantizers.recipes.six_bit import SixBit, SixBitSettings
from pipelines.quantizers.recipes.sqnr import Sqnr, SqnrSettings
from pipelines.quantizers.recipes.svdquant import SvdQuant, SvdQuantSettings
from pipelines.quantizers.recipes.tfmq import Tfmq, TfmqSettings
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
        "ptq4dm",
        "PTQ4DM (simulated)",
        Ptq4dm,
        Ptq4dmSettings,
        paper="Shang et al., PTQ4DM, arXiv:2211.15736",
        help=f"W8A8: one range of the inputs for all steps, calibrated on times drawn around the middle. {_CLAIM}",
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
        "tfmq",
        "TFMQ-DM (simulated)",
        Tfmq,
        TfmqSettings,
        paper="Huang et al., TFMQ-DM, arXiv:2311.16503",
        help="W4A8 for U-Nets: layers of the time learned apart or cached, ranges by interval of steps. " + _CLAIM,
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
    Method(
        "mixdq",
        "MixDQ (simulated)",
        MixDq,
        MixDqSettings,
        paper="Zhao et al., MixDQ, arXiv:2405.17873",
        help="Four bits a weight on average, as an integer programme spends them; the first text token stays exact. "
        + _CLAIM,
        groups=("simulated",),
    ),
    Method(
        "eda_dm",
        "EDA-DM (simulated)",
        EdaDm,
        EdaDmSettings,
        paper="Liu et al., EDA-DM, arXiv:2401.04585",
        help="W4A8: calibrated on typical, diverse calls; rounding learned with each layer's error; takes minutes. "
        + _CLAIM,
        groups=("simulated",),
    ),
    Method(
        "quest",
        "QuEST without training (simulated)",
        Quest,
        QuestSettings,
        paper="Wang et al., QuEST, arXiv:2402.03666",
        help="W4A4: rounding learned in the layers of the time and the most sensitive ones only; takes minutes. "
        + _CLAIM,
        groups=("simulated",),
    ),
    Method(
        "sqnr",
        "SQNR-guided (simulated)",
        Sqnr,
        SqnrSettings,
        paper="Yang et al., Efficient quantization strategies for latent diffusion models, arXiv:2312.05431",
        help="W4A8: more bits for the blocks that suffer most, smoothing where the inputs do. " + _CLAIM,
        groups=("simulated",),
    ),
    Method(
        "dgq",
        "DGQ (simulated)",
        Dgq,
        DgqSettings,
        paper="Ryu et al., DGQ, arXiv:2501.04304",
        help="W4A6: channels of like magnitude share a range, attention's scores are powers of two. " + _CLAIM,
        groups=("simulated",),
    ),
    Method(
        "lrq_dit",
        "LRQ-DiT (simulated)",
        LrqDit,
        LrqDitSettings,
        paper="Yang et al., LRQ-DiT, arXiv:2508.03485",
        help=f"W3A4: weights on levels that are finer near zero, inputs rotated as suits each layer. {_CLAIM}",
        groups=("simulated",),
    ),
    Method(
        "fp_search",
        "Floating-point search (simulated)",
        FpSearch,
        FpSearchSettings,
        paper="Chen et al., Low-bitwidth floating point quantization for diffusion models, arXiv:2408.06995",
        help=f"Eight, six or four bits of floating point, with the exponent that suits each layer. {_CLAIM}",
        groups=("simulated",),
    ),
    Method(
        "fp4dit",
        "FP4DiT (simulated)",
        Fp4Dit,
        Fp4DitSettings,
        paper="Chen et al., FP4DiT, arXiv:2503.15465",
        help=f"W4A6 in floating point, with learned rounding; takes minutes. {_CLAIM}",
        groups=("simulated",),
    ),
    Method(
        "six_bit",
        "6Bit-Diffusion (simulated)",
        SixBit,
        SixBitSettings,
        paper="Su et al., 6Bit-Diffusion, arXiv:2603.18742",
        help="Inputs in four bits of floating point, or in eight where a transformer block changes much. " + _CLAIM,
        groups=("simulated",),
    ),
]
