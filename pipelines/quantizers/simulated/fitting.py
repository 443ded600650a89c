"""From a full-precision layer, what it is to become and what it was given, to the simulated layer's tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pipelines.core.errors import SettingsError
from pipelines.quantizers.error_feedback import quantize_with_feedback
from pipelines.quantizers.ranges import fit_group_size, split_groups
from pipelines.quantizers.simulated.activations import ActivationSpec, round_to_range
from pipelines.quantizers.simulated.formats import NumberFormat, fit_neighbors, parse_format
from pipelines.quantizers.simulated.layer_spec import LayerParts, LayerSpec
from pipelines.quantizers.simulated.neighbors import Neighbors
from pipelines.quantizers.simulated.rotations import build_hadamard, build_outlier_rotation
from pipelines.quantizers.simulated.rounding import ANNEALING, Annealing, round_adaptively
from pipelines.quantizers.simulated.statistics import LayerInputs

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Basis", "compute_factors", "find_basis", "fit_layer", "fit_rows", "transform_rows", "transform_weight"]

ALPHAS = tuple(step / 20 for step in range(21))
"""Exponents that a search of the smoothing tries."""

TRIAL_VECTORS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Basis:
    """Holds what is done to a layer's inputs, and undone in its weights, before both are rounded.

    Attributes:
        factors: (C,), or None.
        rotation: (C, C), float32, or None.
        rotation_bits: that the rotation would take; a Hadamard matrix takes none.
    """

    factors: torch.Tensor | None = None
    rotation: torch.Tensor | None = None
    rotation_bits: int = 0


def compute_factors(peaks: torch.Tensor, weight: torch.Tensor, alpha: float) -> torch.Tensor:
    """Compute the factors by which input channels are divided and weights are multiplied.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha); a channel that is always zero keeps its scale.

    Args:
        peaks: max|X_j|, (C,).
        weight: (R, C, ...).
        alpha: 0 to 1.

    Source: Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4.
    """
    weights = weight.movedim(1, -1).flatten(0, -2).abs().amax(0)
    factors = peaks.pow(alpha) / weights.clamp_min(1e-12).pow(1 - alpha)
    return torch.where((peaks > 0) & (weights > 0), factors, 1.0).clamp(1e-5, 1e5)


def transform_weight(weight: torch.Tensor, basis: Basis) -> torch.Tensor:
    """Return the weights (R, C, ...) for inputs in another basis: (W diag(s)) R."""
    if basis.factors is not None:
        weight = weight * basis.factors.reshape(1, -1, *[1] * (weight.dim() - 2))
    if basis.rotation is not None:
        weight = (weight.movedim(1, -1) @ basis.rotation).movedim(-1, 1)
    return weight.contiguous()


def transform_rows(rows: torch.Tensor, basis: Basis, channels: int) -> torch.Tensor:
    """Return input vectors (N, K), K a multiple of the channels, in another basis."""
    parts = rows.unflatten(1, (channels, -1))
    if basis.factors is not None:
        parts = parts / basis.factors[:, None]
    if basis.rotation is not None:
        parts = torch.einsum("nck,cd->ndk", parts, basis.rotation)
    return parts.flatten(1)


def find_basis(layer: WeightedLayer, spec: LayerSpec, inputs: LayerInputs | None) -> Basis:
    """Find smoothing and rotation of a layer; those that are searched are chosen by the error of its outputs.

    A convolution in groups keeps its basis.

    Raises:
        SettingsError: what was asked for needs inputs, and none were recorded.
    """
    if getattr(layer, "groups", 1) > 1 or (spec.smoothing < 0 and spec.rotation == "none"):
        return Basis()
    weight = layer.weight.detach().float()
    basis = Basis()
    if spec.smoothing >= 0:
        if inputs is None:
            return Basis()
        alphas = ALPHAS if spec.smoothing > 1 else (spec.smoothing,)
        tried = [Basis(compute_factors(inputs.peaks, weight, alpha)) for alpha in alphas]
        basis = _choose([Basis(), *tried], weight, spec, inputs) if len(tried) > 1 else tried[0]
    if spec.rotation == "none":
        return basis
    rotations = [_rotate(kind, basis, weight, inputs) for kind in ("hadamard", "outlier") if _wants(spec, kind)]
    if spec.rotation != "auto" or inputs is None:
        return rotations[0]
    return _choose([basis, *rotations], weight, spec, inputs)


def _wants(spec: LayerSpec, kind: str) -> bool:
    return spec.rotation in (kind, "auto")


def _rotate(kind: str, basis: Basis, weight: torch.Tensor, inputs: LayerInputs | None) -> Basis:
    size = weight.shape[1]
    if kind == "hadamard" or inputs is None:
        matrix, bits = build_hadamard(size), 0
    else:
        peaks = inputs.peaks if basis.factors is None else inputs.peaks / basis.factors
        matrix, bits = build_outlier_rotation(peaks), 16 * size * size
    return Basis(basis.factors, matrix.to(weight), bits)


def _choose(candidates: list[Basis], weight: torch.Tensor, spec: LayerSpec, inputs: LayerInputs) -> Basis:
    rows = inputs.rows[:: max(1, len(inputs.rows) // TRIAL_VECTORS)]
    expected = rows @ weight.flatten(1).T
    quick = dataclasses.replace(spec, search=False)

    def error(basis: Basis) -> float:
        changed = transform_weight(weight, basis)
        rounded, _ = fit_rows(changed.flatten(1), quick)
        given = _round_rows(transform_rows(rows, basis, weight.shape[1]), spec.activations)
        return float((given @ rounded.T - expected).square().sum())

    return min(candidates, key=error)


def _round_rows(rows: torch.Tensor, spec: ActivationSpec) -> torch.Tensor:
    """Round vectors about as the layer's inputs will be: a patch of a convolution counts as a token."""
    form = parse_format(spec.form)
    if form is None:
        return rows
    if spec.scope == "group":
        parts = rows.split(spec.group_size, 1)
        return torch.cat([round_to_range(one, form, one.amin(1, True), one.amax(1, True)) for one in parts], 1)
    if spec.scope == "token":
        return round_to_range(rows, form, rows.amin(1, keepdim=True), rows.amax(1, keepdim=True))
    return round_to_range(rows, form, rows.amin(), rows.amax())


def _group_rows(rows: torch.Tensor, spec: LayerSpec) -> torch.Tensor:
    if spec.scope == "tensor":
        return rows.reshape(1, 1, -1)
    size = rows.shape[1] if spec.scope == "channel" else fit_group_size(rows.shape[1], spec.group_size)
    return split_groups(rows, size)


def fit_rows(rows: torch.Tensor, spec: LayerSpec) -> tuple[torch.Tensor, Neighbors | None]:
    """Round weights (R, K) to the nearest numbers of the format; also returns their neighbors, None for "full"."""
    form = parse_format(spec.weights)
    if form is None:
        return rows, None
    groups = _group_rows(rows, spec)
    found = fit_neighbors(groups, form, spec.search)

    def plain(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(rows.shape) if spec.scope == "tensor" else values.flatten(1)[:, : rows.shape[1]]

    return plain(found.nearest(groups)), Neighbors(plain(found.down), plain(found.up))


def _count_bits(
    rows: torch.Tensor, spec: LayerSpec, form: NumberFormat | None, basis: Basis, rank: int, full_bits: int
) -> float:
    count, columns = rows.shape
    if spec.tabled:
        return 16.0 * spec.tabled * count
    if form is None:
        return float(full_bits * rows.numel())
    groups = _group_rows(rows[:1], spec).shape[1]
    ranges = 1 if spec.scope == "tensor" else count * groups
    bits = rows.numel() * form.bits + ranges * form.scale_bits + 16 * rank * (count + columns)
    bits += 16 * (0 if basis.factors is None else len(basis.factors)) + basis.rotation_bits
    # What the full-precision weights make of the first token is the same in every step, and kept in their place.
    return float(bits + (16 * count if spec.keep_first else 0))


def fit_layer(
    layer: WeightedLayer,
    spec: LayerSpec,
    inputs: LayerInputs | None,
    annealing: Annealing = ANNEALING,
    cancelled: Callable[[], bool] = lambda: False,
) -> LayerParts:
    """Compute the tensors of the simulated layer.

    Args:
        layer: in full precision.
        spec: what it is to become.
        inputs: what it was given; None where nothing of it is needed, or where it is never called.
        annealing: of adaptive rounding.
        cancelled: polled while that goes on.

    Raises:
        SettingsError: settings contradict each other.
        Cancelled: the person stopped it.
    """
    form, weight = parse_format(spec.weights), layer.weight.detach().float()
    basis = find_basis(layer, spec, inputs)
    rows = transform_weight(weight, basis).flatten(1)
    is_grouped = getattr(layer, "groups", 1) > 1
    down, up, rest = None, None, rows
    if spec.rank and form is not None and not is_grouped:
        down, up = _split_branch(rows, spec.rank)
        rest = rows - up @ down
    given = None
    if inputs is not None and not is_grouped:
        given = transform_rows(inputs.rows, basis, weight.shape[1])
    rounded = _round(rest, spec, form, given, annealing, cancelled)
    dtype, shape = layer.weight.dtype, layer.weight.shape
    bias = None if layer.bias is None else layer.bias.detach().clone()
    return LayerParts(
        layer.weight.detach().clone() if form is None and basis == Basis() else rounded.reshape(shape).to(dtype),
        bias,
        basis.factors,
        basis.rotation,
        None if down is None else down.reshape(-1, *shape[1:]).to(dtype),
        None if up is None else up.to(dtype),
        layer.weight.detach().clone() if spec.keep_first else None,
        _count_bits(rows, spec, form, basis, 0 if down is None else len(down), 8 * layer.weight.element_size()),
    )


def _split_branch(rows: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of a rank, as (rank, K) and (R, rank); the singular values are shared evenly."""
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def _round(
    rows: torch.Tensor,
    spec: LayerSpec,
    form: NumberFormat | None,
    given: torch.Tensor | None,
    annealing: Annealing,
    cancelled: Callable[[], bool],
) -> torch.Tensor:
    if form is None:
        return rows
    if spec.rounding == "feedback" and given is not None:
        if form.kind != "int" or spec.scope == "tensor":
            raise SettingsError(
                f"Error feedback rounds integers by channel or group, not {spec.weights} by {spec.scope}. "
                "Choose another rounding, format or scope."
            )
        size = rows.shape[1] if spec.scope == "channel" else fit_group_size(rows.shape[1], spec.group_size)
        ranges, codes = quantize_with_feedback(rows, given.T @ given / len(given), size, 2**form.bits)
        return ranges.decode(codes).flatten(1)[:, : rows.shape[1]]
    nearest, neighbors = fit_rows(rows, spec)
    if spec.rounding == "adaround" and given is not None and neighbors is not None:
        return round_adaptively(rows, neighbors, given, annealing, cancelled)
    return nearest
