"""Which quantizers the benchmark measures, with which settings, and what each is called in its table."""

from __future__ import annotations

import dataclasses

from pipelines.core.types import Choice
from pipelines.quantizers import QUANTIZERS, Machine

__all__ = ["TIME_AWARE", "Cell", "list_cells", "list_missing"]

OURS = ("int8", "fp8", "int4", "nf4", "calibrated", "dynamic", "onednn_w8a8", "compiled_w8a8", "layerwise")
"""Keys that need no package beside PyTorch and diffusers."""

FOUR_BITS = ("torchao_int4", "quanto_int4", "sdnq_uint4", "gguf_q4_0", "bnb_nf4")
"""Keys of the libraries' four-bit methods."""

TIME_AWARE: dict[str, object] = {"activation_ranges": "interval", "intervals": 8}
"""Of the free choice: calibrated ranges of the inputs for each interval of steps, where by default one serves all."""

_SETTINGS: dict[str, tuple[dict[str, object], ...]] = {
    "int4": ({}, {"search": False}),
    "nf4": ({}, {"block_size": 32}),
    "calibrated": ({"bits": 4.0}, {}),
    "gguf_q4_0": ({}, {"convolutions": True}),
    "gguf_q8_0": ({}, {"convolutions": True}),
    "simulated": tuple({**bits, **ranges} for bits in ({}, {"activations": "int6"}) for ranges in ({}, TIME_AWARE)),
}
"""Settings beside which a method is measured; by default its own alone."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One line of the table.

    Attributes:
        label: in the table.
        choice: the method with its settings.
        library: whether an optional package does it.
        bits: 4 for a library's four-bit weights, beside which ours are compared; else 0.
        simulated: whether only its errors are real, and neither its bytes nor its time.
    """

    label: str
    choice: Choice
    library: bool
    bits: int = 0
    simulated: bool = False


def _name_settings(settings: dict[str, object]) -> str:
    words = [name if value is True else f"{name.replace('_', ' ')} {value}" for name, value in settings.items()]
    return "".join(f", {word}" for word in words).replace("search False", "extremes as ranges").replace("_", " ")


def list_cells(machine: Machine) -> list[Cell]:
    """List what this machine can run, in the order of the table of quantizers."""
    cells, simulated = [], {method.key for method in QUANTIZERS.group("simulated")}
    for method in QUANTIZERS.values():
        if method.fit(machine):
            continue
        known = {field.name for field in dataclasses.fields(method.settings)}
        for settings in _SETTINGS.get(method.key, ({},)):
            if settings.keys() <= known:
                label, is_library = f"{method.label}{_name_settings(settings)}", method.key not in {*OURS, *simulated}
                bits = 4 * (method.key in FOUR_BITS)
                cells.append(Cell(label, Choice(method.key, settings), is_library, bits, method.key in simulated))
    return cells


def list_missing(machine: Machine) -> dict[str, str]:
    """Name what this machine cannot run, with its reason."""
    return {method.label: reason for method in QUANTIZERS.values() if (reason := method.fit(machine))}
