"""Every part of the simulated layers by itself: formats, ranges, smoothing, rotation, branch, rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.quantizers.simulated.activations import ACTIVATION_FORMATS, SCOPES, ActivationSpec
from pipelines.quantizers.simulated.formats import WEIGHT_FORMATS
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer
from pipelines.quantizers.simulated.rounding import Annealing
from pipelines.quantizers.simulated.scores import ScoreSpec
from pipelines.quantizers.simulated.splits import list_splits

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Simulated", "SimulatedSettings", "text_layers"]


@dataclasses.dataclass(frozen=True)
class SimulatedSettings:
    weights: str = setting("int8", "Number format of the weights; full leaves them.", choices=WEIGHT_FORMATS)
    weight_ranges: str = setting("channel", "Weights that share a range.", choices=("tensor", "channel", "group"))
    group_size: int = setting(64, "Weights, and channels of inputs, of a group.", choices=(16, 32, 64, 128))
    search: bool = setting(False, "Ranges by the least error; without, by the extremes.")
    activations: str = setting(
        "int8", "Number format of the layers' inputs; full leaves them.", choices=ACTIVATION_FORMATS
    )
    activation_ranges: str = setting(
        "static",
        "One calibrated range, one for each interval of steps, or measured live: by sample, token or group.",
        choices=SCOPES,
    )
    intervals: int = setting(4, "Intervals of steps, with ranges by interval.", low=2, high=50)
    smoothing: float = setting(
        -1.0,
        "Moves the inputs' outliers into the weights by this exponent; -1: not at all, 2: searched layer by layer.",
        low=-1.0,
        high=2.0,
        step=0.05,
    )
    rotation: str = setting(
        "none",
        "Spreads outliers over all channels; auto: layer by layer.",
        choices=("none", "hadamard", "outlier", "auto"),
    )
    rank: int = setting(0, "Rank of a branch in full precision beside the rounded weights.", low=0, high=128)
    split: bool = setting(False, "Of a joined skip connection each half has its own range (U-Nets).")
    first_token: bool = setting(
        False, "The first text token's keys and values stay in full precision (cross-attention)."
    )
    scores: str = setting("full", "Rounding of attention's scores.", choices=("full", "even", "log2"))
    score_bits: int = setting(8, "Bits of a score.", low=2, high=8)
    rounding: str = setting(
        "nearest",
        "To the nearest, with error feedback (GPTQ, integers), or learned (AdaRound): by layer, or by block.",
        choices=("nearest", "feedback", "adaround", "blocks"),
    )
    iterations: int = setting(200, "Of learned rounding, for each layer or block.", low=1, high=20_000)

    def __post_init__(self) -> None:
        _require_possible(self)


def _require_possible(chosen: SimulatedSettings) -> None:
    """Refuse settings that contradict each other, where the form is checked.

    Raises:
        SettingsError: the first such.
    """
    smoothing = chosen.smoothing
    if not 0 <= smoothing <= 1 and smoothing not in (-1, 2):
        raise SettingsError(
            f"Free choice: smoothing is {smoothing:g}. Choose an exponent from 0 to 1, -1 for none or 2 to search it."
        )
    is_integer = chosen.weights == "full" or chosen.weights.startswith("int")
    if chosen.rounding == "feedback" and (not is_integer or chosen.weight_ranges == "tensor"):
        raise SettingsError(
            f"Free choice: error feedback rounds integers by channel or group, not {chosen.weights} by "
            f"{chosen.weight_ranges}. Choose another rounding, number format or ranges."
        )


class Simulated(SimulatedQuantizer):
    """Simulates one way of rounding for all layers.

    With both formats "full" and the scores "full" the network computes what it did, bit for bit.
    """

    def __init__(self, settings: SimulatedSettings = SimulatedSettings()):
        self.settings = settings
        self.scores = ScoreSpec(settings.scores, settings.score_bits, settings.first_token)

    def plan(self, given: Given) -> Plan:
        chosen = self.settings
        splits = list_splits(given.network) if chosen.split else {}
        texts = text_layers(given.layers) if chosen.first_token else frozenset()
        spec = LayerSpec(
            weights=chosen.weights,
            scope=chosen.weight_ranges,
            group_size=chosen.group_size,
            search=chosen.search,
            activations=ActivationSpec(
                chosen.activations, chosen.activation_ranges, chosen.intervals, chosen.group_size, chosen.search
            ),
            smoothing=chosen.smoothing,
            rank=chosen.rank,
            rotation=chosen.rotation,
            rounding="nearest" if chosen.rounding == "blocks" else chosen.rounding,
        )
        if chosen.weights == chosen.activations == "full":
            spec, splits, texts = LayerSpec(), {}, frozenset()
        specs = {
            name: dataclasses.replace(spec, split=splits.get(name, 0), keep_first=name in texts)
            for name in given.layers
        }
        annealing = Annealing(iterations=chosen.iterations)
        return Plan(specs, given.calibration, annealing, blocks=chosen.rounding == "blocks")


def text_layers(layers: Mapping[str, WeightedLayer]) -> frozenset[str]:
    """Find the layers of cross-attention that make keys and values of the text; joint attention has none.

    Their input is the same in every step, so what they make of one token can be computed beforehand.
    """
    return frozenset(name for name in layers if name.endswith(("attn2.to_k", "attn2.to_v")))
