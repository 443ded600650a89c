"""Number formats of simulated weights, and for each weight the two numbers of its format that lie around it."""

from __future__ import annotations

import dataclasses
import re

import torch

from pipelines.core.errors import SettingsError
from pipelines.quantizers.contract import TINY
from pipelines.quantizers.nf4 import LEVELS as NF4_LEVELS
from pipelines.quantizers.ranges import AffineGroups, search_ranges
from pipelines.quantizers.simulated.floating import FloatGrid
from pipelines.quantizers.simulated.neighbors import Neighbors
from pipelines.quantizers.simulated.tables import fit_binary_levels, fit_twin_log_levels, neighbors_in_table

__all__ = ["FULL", "WEIGHT_FORMATS", "Neighbors", "NumberFormat", "fit_neighbors", "parse_format"]

FULL = "full"
"""The format that changes nothing."""

WEIGHT_FORMATS = (
    FULL,
    *(f"int{bits}" for bits in range(2, 9)),
    *("fp4_e2m1", "fp4_e3m0", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2", "nf4"),
    *("twin_log3", "twin_log4", "binary1", "binary2", "binary3", "binary4"),
)
SHRINKS = 20
"""Ranges that are tried besides the whole one for floating-point and NF4 scales, evenly down to a half."""


@dataclasses.dataclass(frozen=True)
class NumberFormat:
    """Describes a number format.

    Attributes:
        kind: "int", "fp", "nf", "twin_log" or "binary".
        bits: of a code.
        exponent, mantissa: bits of a floating-point number, without its sign.
    """

    kind: str
    bits: int
    exponent: int = 0
    mantissa: int = 0

    @property
    def grid(self) -> FloatGrid:
        """Return the grid of a floating-point format."""
        return FloatGrid(self.exponent, self.mantissa)

    @property
    def scale_bits(self) -> int:
        """Count the bits that a group's range takes beside its codes."""
        return {"int": 32, "fp": 16, "nf": 16, "twin_log": 64, "binary": 16 * self.bits}[self.kind]


def parse_format(name: str) -> NumberFormat | None:
    """Read a format's name: int2 to int8, fp<bits>_e<exponent>m<mantissa>, nf4, twin_log<bits>, binary<bases>.

    Returns:
        The format; None for "full".

    Raises:
        SettingsError: there is no such format.
    """
    if name == FULL:
        return None
    if found := re.fullmatch(r"fp(\d)_e(\d)m(\d)", name):
        bits, exponent, mantissa = map(int, found.groups())
        if bits == 1 + exponent + mantissa and exponent:
            return NumberFormat("fp", bits, exponent, mantissa)
    elif found := re.fullmatch(r"(int|nf|twin_log|binary)(\d)", name):
        kind, bits = found[1], int(found[2])
        if bits in {"int": range(2, 9), "nf": (4,), "twin_log": range(2, 9), "binary": range(1, 5)}[kind]:
            return NumberFormat(kind, bits)
    raise SettingsError(f"There is no number format {name[:40]!r}. Choose one of: {', '.join(WEIGHT_FORMATS)}.")


def fit_neighbors(
    groups: torch.Tensor, form: NumberFormat, search: bool, importance: torch.Tensor | None = None
) -> Neighbors:
    """Fit the format's range to each group of weights and find each weight's neighbors in it.

    Args:
        groups: (R, G, size), float32.
        form: the number format.
        search: find the range of the least squared error; without, it is that of the extremes.
        importance: (G, size) or (R, G, size), of each weight's squared error; None for equal ones.

    Source: int is affine with zero in its range, Jacob et al., arXiv:1712.05877; NF4 is Dettmers et al.,
    arXiv:2305.14314; twin-log is LRQ-DiT; binary bases are Xu et al., arXiv:1802.00150.
    """
    if form.kind == "int":
        return _fit_integers(groups, 2**form.bits, search, importance)
    if form.kind == "twin_log":
        return neighbors_in_table(fit_twin_log_levels(groups, form.bits, search, importance), groups)
    if form.kind == "binary":
        return neighbors_in_table(fit_binary_levels(groups, form.bits), groups)
    return _fit_scaled(groups, form, search, importance)


def _fit_integers(groups: torch.Tensor, levels: int, search: bool, importance: torch.Tensor | None) -> Neighbors:
    if search:
        ranges = search_ranges(groups, levels, importance)
    else:
        low = groups.amin(2, keepdim=True).clamp_max(0)
        scales = ((groups.amax(2, keepdim=True).clamp_min(0) - low) / (levels - 1)).clamp_min(TINY)
        # The zero must be a level, as the affine scheme of integers has it.
        ranges = AffineGroups(scales, -scales * (-low / scales).round())
    position = ((groups - ranges.lowest) / ranges.scales.clamp_min(TINY)).clamp_(0, levels - 1)
    return Neighbors(ranges.decode(position.floor()), ranges.decode(position.ceil()))


def _fit_scaled(groups: torch.Tensor, form: NumberFormat, search: bool, importance: torch.Tensor | None) -> Neighbors:
    """Formats of one scale a group: floating point and NF4."""
    top = form.grid.largest if form.kind == "fp" else 1.0
    whole = (groups.abs().amax(2, keepdim=True) / top).clamp_min(TINY)
    factors = [1 - step / (2 * SHRINKS) for step in range(SHRINKS + 1)] if search else [1.0]
    best, best_error = None, None
    for factor in factors:
        found = _scale_neighbors(groups, form, whole * factor)
        error = (found.nearest(groups) - groups).square()
        error = (error if importance is None else error * importance).sum(2, keepdim=True)
        if best is None or best_error is None:
            best, best_error = found, error
            continue
        better = error < best_error
        best = Neighbors(torch.where(better, found.down, best.down), torch.where(better, found.up, best.up))
        best_error = torch.where(better, error, best_error)
    if best is None:
        raise ValueError("no scale was tried")
    return best


def _scale_neighbors(groups: torch.Tensor, form: NumberFormat, scales: torch.Tensor) -> Neighbors:
    values = groups / scales
    if form.kind == "fp":
        down, up = form.grid.neighbors(values)
        return Neighbors(down * scales, up * scales)
    levels = torch.tensor(NF4_LEVELS, device=groups.device, dtype=groups.dtype)
    found = neighbors_in_table(levels, values)
    return Neighbors(found.down * scales, found.up * scales)
