"""What LoRA and its relatives add to one weight, each a formula of its own tensors.

The tensors of one layer stand under short names: "down", "up", "mid", "alpha"; "w1_a" ... of LoHa; "lokr_w1" ... of
LoKr; "dora_scale"; "weight" and "on_input" of (IA)^3; "oft_blocks" and "rescale"; "diff". Computed in float32, or in
the weight's dtype where that is more exact.

Sources: Hu et al., LoRA, arXiv:2106.09685, section 4.1; Hyeon-Woo et al., FedPara (LoHa), arXiv:2108.06098,
equation 5; Yeh et al., LyCORIS (LoKr), arXiv:2309.14859, section 3; Liu et al., DoRA, arXiv:2402.09353, equation 5; Liu
et al., (IA)^3, arXiv:2205.05638, section 3.3; Qiu et al., OFT, arXiv:2306.07280, section 3. Ranks, alphas and the
forms for convolutions are those of LyCORIS' modules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from pipelines.weights.lora_parts import kind_of

__all__ = ["KINDS", "Adapter", "make_adapter"]

Parts = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Describes the change of one layer.

    Attributes:
        parts: its tensors by short name.
        formula: (parts, weight, scale) to what is added, shaped like the weight.
        scale: alpha / rank, or what the kind has in its place.
        rows: which of the rows of the whole change are this layer's; None for all.
        swapped: whether the two halves of the rows stand the other way round than in the layer.
        whole: rows of the whole change, which several layers share.
    """

    parts: Parts
    formula: Callable[[Parts, torch.Tensor, float], torch.Tensor]
    scale: float = 1.0
    rows: slice | None = None
    swapped: bool = False
    whole: int = 0

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Say what is added to a weight, shaped and placed like it, in float32 or better."""
        data = weight.to(torch.promote_types(weight.dtype, torch.float32))
        parts = {
            name: part.to(data.device, data.dtype) if part.is_floating_point() else part
            for name, part in self.parts.items()
        }
        if self.rows is not None:
            parts = _take_rows(parts, self.rows, self.whole)
        if self.swapped:
            data = _swap(data)
        change = self.formula(parts, data, self.scale).reshape(data.shape)
        return _swap(change) if self.swapped else change

    def split(self, weights: Sequence[torch.Tensor], swapped: bool = False) -> list[Adapter]:
        """Return this change in parts, one for each weight, whose rows follow each other; empty if the shapes do not
        fit."""
        rows = [weight.shape[0] for weight in weights]
        if len(weights) == 1:
            shares = [dataclasses.replace(self, swapped=swapped)]
        else:
            ends = [sum(rows[: index + 1]) for index in range(len(rows))]
            shares = [
                dataclasses.replace(self, rows=slice(end - size, end), whole=sum(rows))
                for size, end in zip(rows, ends, strict=True)
            ]
        fit = all(share.fits(weight) for share, weight in zip(shares, weights, strict=True))
        return shares if fit else []

    def fits(self, weight: torch.Tensor) -> bool:
        """Say whether the shapes belong together, tried on tensors without data."""
        meta = torch.empty(weight.shape, device="meta", dtype=torch.float32)
        flags = ("on_input",)
        parts = {name: part if name in flags else part.to("meta", torch.float32) for name, part in self.parts.items()}
        try:
            if self.rows is not None:
                parts = _take_rows(parts, self.rows, self.whole)
            return self.formula(parts, meta, 1.0).numel() == weight.numel()
        except (RuntimeError, IndexError, ValueError):
            return False


def _swap(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat(tuple(reversed(rows.chunk(2))))


_BY_ROW = ("up", "w1_a", "w2_a", "dora_scale", "diff", "oft_blocks", "rescale", "weight", "magnitude")
"""Parts whose first dimension runs along the layer's outputs."""


def _take_rows(parts: Parts, rows: slice, whole: int) -> dict[str, torch.Tensor]:
    """The parts of a layer that is one of several with a common change."""
    if any(name.startswith("lokr") for name in parts) or "mid" in parts or "t1" in parts:
        # A Kronecker product's rows are not those of its factors: it is made whole and cut.
        return {**parts, "rows": torch.tensor([rows.start, rows.stop, whole])}
    if "oft_blocks" in parts:
        size = parts["oft_blocks"].shape[1]
        if rows.start % size or rows.stop % size:
            raise ValueError("a block of rows would reach over two layers")
        blocks = slice(rows.start // size, rows.stop // size)
        rest = {name: part[rows] if name == "rescale" else part for name, part in parts.items()}
        return {**rest, "oft_blocks": parts["oft_blocks"][blocks]}
    if "on_input" in parts and bool(parts["on_input"].reshape(-1)[0]):
        return dict(parts)
    sliced = {}
    for name, part in parts.items():
        is_by_row = name in _BY_ROW and part.ndim and part.shape[0] == whole
        if name in {"up", "w1_a", "diff", "magnitude"} and not is_by_row:
            raise ValueError("its rows are not those of the layers together")
        if name == "dora_scale" and not is_by_row:
            raise ValueError("its norm runs over the rows of several layers")
        sliced[name] = part[rows] if is_by_row else part
    return sliced


def _multiply_factors(up: torch.Tensor, down: torch.Tensor, mid: torch.Tensor | None = None) -> torch.Tensor:
    """up @ down of linear layers and convolutions; with a middle convolution (LoCon's Tucker form)."""
    if mid is not None:
        down = torch.einsum("r s k l, s i -> r i k l", mid, down.flatten(1))
    return up.flatten(1) @ down.flatten(1)


def lora(parts: Parts, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute scale * up @ down."""
    change = scale * _multiply_factors(parts["up"], parts["down"], parts.get("mid"))
    return _cut_rows(change, parts).reshape(weight.shape)


def loha(parts: Parts, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute scale * (w1_a @ w1_b) * (w2_a @ w2_b), elementwise; with t1 and t2 the factors are Tucker products."""
    change = scale * _build_factor(parts, "w1", "t1") * _build_factor(parts, "w2", "t2")
    return _cut_rows(change, parts).reshape(weight.shape)


def _build_factor(parts: Parts, name: str, tucker: str) -> torch.Tensor:
    if tucker in parts:
        rebuilt = torch.einsum("i j k l, j r, i p -> p r k l", parts[tucker], parts[f"{name}_b"], parts[f"{name}_a"])
        return rebuilt
    return parts[f"{name}_a"] @ parts[f"{name}_b"].flatten(1)


def lokr(parts: Parts, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute scale * kron(w1, w2), each factor whole or itself of low rank."""
    first = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        second = parts["lokr_w2"]
    elif "lokr_t2" in parts:
        second = torch.einsum("i j k l, j r, i p -> p r k l", parts["lokr_t2"], parts["lokr_w2_b"], parts["lokr_w2_a"])
    else:
        second = parts["lokr_w2_a"] @ parts["lokr_w2_b"].flatten(1)
        if weight.ndim == 4 and "rows" not in parts:
            second = second.reshape(parts["lokr_w2_a"].shape[0], -1, *weight.shape[2:])
    if second.ndim == 4:
        first = first[..., None, None]
    return _cut_rows(scale * torch.kron(first, second.contiguous()), parts).reshape(weight.shape)


def _cut_rows(change: torch.Tensor, parts: Parts) -> torch.Tensor:
    if "rows" not in parts:
        return change
    begin, end, whole = parts["rows"].tolist()
    flat = change.reshape(change.shape[0], -1)
    if flat.shape[0] != whole:
        raise ValueError("its rows are not those of the layers together")
    return flat[begin:end]


def ia3(parts: Parts, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute weight * scale * w, w along the inputs or the outputs (LyCORIS keeps the difference from one)."""
    vector = parts["weight"].reshape(-1)
    shape = (1, -1) if bool(parts["on_input"].reshape(-1)[0]) else (-1, 1)
    return weight * (scale * vector.reshape(shape + (1,) * (weight.ndim - 2)))


def oft(parts: Parts, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Return (R - 1) weight, R block-diagonal and orthogonal, the Cayley transform of the blocks' skew parts.

    `alpha` times the number of outputs bounds the skew part's norm, as LyCORIS and kohya's scripts train it; a bound of
    0 is none.
    """
    blocks = parts["oft_blocks"]
    count, size = blocks.shape[:2]
    skew = blocks - blocks.transpose(1, 2)
    bound = parts.get("alpha")
    if bound is not None:
        norm = skew.norm()
        limit = bound.reshape(()).to(skew) * (count * size)
        skew = torch.where((limit > 0) & (norm > limit), skew * (limit / norm.clamp_min(1e-8)), skew)
    eye = torch.eye(size, device=blocks.device, dtype=blocks.dtype)
    rotation = torch.linalg.solve((eye - skew).transpose(1, 2), (eye + skew).transpose(1, 2)).transpose(1, 2)
    rotated = torch.einsum("k n m, k n p -> k m p", rotation, weight.reshape(count, size, -1)).reshape(weight.shape)
    if "rescale" in parts:
        rotated = rotated * parts["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return scale * (rotated - weight)


def difference(parts: Parts, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Take the change itself, in full."""
    return scale * parts["diff"].reshape(weight.shape)


def dora(inner: Callable[[Parts, torch.Tensor, float], torch.Tensor]) -> Callable:
    """Make a kind with DoRA's magnitudes: m * (W + change) / |W + change| - W, the norm of each output or each input.

    Differs: at a LoRA's weight other than 1 that fraction of the whole change is added, as ComfyUI does, where PEFT
    scales the change within the norm.
    """

    def formula(parts: Parts, weight: torch.Tensor, scale: float) -> torch.Tensor:
        new_weight = weight + inner(parts, weight, scale)
        if "magnitude" in parts:
            magnitude, dims = parts["magnitude"].reshape(-1, *[1] * (weight.ndim - 1)), tuple(range(1, weight.ndim))
        elif parts["dora_scale"].shape[0] == weight.shape[0]:
            magnitude, dims = parts["dora_scale"].reshape(-1, *[1] * (weight.ndim - 1)), tuple(range(1, weight.ndim))
        else:
            magnitude = parts["dora_scale"].reshape(1, -1, *[1] * (weight.ndim - 2))
            dims = (0, *range(2, weight.ndim))
        norm = torch.linalg.vector_norm(new_weight, dim=dims, keepdim=True)
        return new_weight * (magnitude / norm.clamp_min(torch.finfo(new_weight.dtype).tiny)) - weight

    return formula


def ia3_peft(parts: Parts, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute weight * (l - 1): PEFT keeps the factor of the outputs (out, 1) or of the inputs (1, in)."""
    return scale * weight * (parts["ia3_l"].reshape(*parts["ia3_l"].shape[:2], *[1] * (weight.ndim - 2)) - 1)


KINDS: Mapping[str, Callable[[Parts, torch.Tensor, float], torch.Tensor]] = {
    "lora": lora,
    "loha": loha,
    "lokr": lokr,
    "ia3": ia3,
    "ia3_peft": ia3_peft,
    "oft": oft,
    "difference": difference,
}
"""A kind, as `lora_parts.kind_of` names it, to its formula."""


def _find_rank(parts: Parts) -> int:
    """The rank by which alpha is divided; 0 where the kind has none and alpha says nothing."""
    if "down" in parts:
        return parts["down"].shape[0]
    if "w1_b" in parts:
        return parts["w1_b"].shape[0]
    if "lokr_w2_b" in parts:
        return parts["lokr_w2_b"].shape[0]
    return parts["lokr_w1_b"].shape[0] if "lokr_w1_b" in parts else 0


def make_adapter(parts: Parts, scale_of: Callable[[int], float]) -> Adapter | None:
    """Build a layer's change out of its tensors; None where they make none.

    Args:
        parts: by short name.
        scale_of: rank to scale, for files that have no alpha beside the layer.
    """
    kind = kind_of(parts.keys())
    if kind is None:
        return None
    formula = KINDS[kind]
    rank = _find_rank(parts)
    scale = 1.0
    if rank:
        scale = float(parts["alpha"]) / rank if "alpha" in parts else scale_of(rank)
    tensors = {name: part for name, part in parts.items() if name != "alpha" or formula is oft}
    if "dora_scale" in parts or "magnitude" in parts:
        formula = dora(formula)
    return Adapter(tensors, formula, scale)
