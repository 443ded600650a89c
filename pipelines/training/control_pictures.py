"""The pictures that the control of the 128 px model learns from: edges, outlines and silhouettes of compositions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from pipelines.controls.edges import find_edges
from pipelines.emoji.composition_captions import describe
from pipelines.emoji.compositions import Composition, sample_composition
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import Placed, Rendering, render
from pipelines.training.latents import encode, to_tensor

__all__ = ["ControlBatch", "ControlPool", "draw_maps", "find_outline", "find_silhouette", "sample_placed"]

OUTLINES, SILHOUETTES, NOTHING = 0.15, 0.4, 0.05
"""Shares of the maps; all others are edges. A map of nothing says nothing."""
THICK, GAPS = 0.3, 0.2
"""Shares of the maps whose lines are three pixels wide, as of a pen, and of which a part is missing."""
THRESHOLDS = (0.04, 0.2)
"""Where a line is followed to, drawn for each picture; it begins at twice that."""
FREE, WIDTHS = 0.4, (0.3, 0.95)
"""The share of single objects of any width and anywhere, which the model's own compositions hardly have."""


@dataclasses.dataclass(frozen=True)
class ControlBatch:
    """Holds what one step learns from.

    Attributes:
        latents: (B, C, h, w), float32, scaled.
        maps: (B, 1, H, W), float32, 0 or 1.
        captions: B texts.
    """

    latents: torch.Tensor
    maps: torch.Tensor
    captions: list[str]


def sample_placed(catalog: Catalog, seed: int, split: str = "train") -> Composition:
    """Draw a composition as `sample_composition` does, or one object of any width anywhere.

    Args:
        catalog: the objects to draw from.
        seed: at least 0; it decides everything.
        split: as of `sample_composition`.
    """
    rng = np.random.default_rng([seed, 2])
    if rng.random() >= FREE:
        return sample_composition(catalog, seed, split)
    composition = sample_composition(catalog, seed, split, "single", sizes=(None,))
    width = rng.uniform(*WIDTHS)
    x, y = 0.5 + (1 - width) / 2 * rng.uniform(-1, 1, 2)
    placed = Placed(composition.scene.objects[0].label, float(x), float(y), float(width))
    return dataclasses.replace(composition, scene=dataclasses.replace(composition.scene, objects=(placed,)))


def find_silhouette(rendering: Rendering) -> torch.Tensor:
    """Find where any object stands: (H, W), bool."""
    opacity = np.maximum.reduce([np.asarray(mask) for mask in rendering.masks])
    return torch.from_numpy(opacity >= 128)


def find_outline(silhouettes: torch.Tensor) -> torch.Tensor:
    """Find the pixels of silhouettes (B, 1, H, W), 0 or 1, that touch what is outside."""
    return silhouettes * F.max_pool2d(1 - silhouettes, 3, stride=1, padding=1)


def draw_maps(edges: torch.Tensor, silhouettes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Draw what the control reads of each picture: its edges, its outline, its silhouette or nothing.

    Args:
        edges, silhouettes: (B, 1, H, W), float32, 0 or 1.
        rng: the source of the choice.

    Returns:
        (B, 1, H, W), float32, 0 or 1; some lines thick, some maps with a gap.
    """
    outlines = find_outline(silhouettes)
    maps = []
    for number in range(len(edges)):
        kind = rng.random()
        one = edges[number]
        if kind < NOTHING:
            one = torch.zeros_like(one)
        elif kind < NOTHING + SILHOUETTES:
            one = silhouettes[number]
        elif kind < NOTHING + SILHOUETTES + OUTLINES:
            one = outlines[number]
        if kind >= NOTHING + SILHOUETTES and rng.random() < THICK:
            one = F.max_pool2d(one, 3, stride=1, padding=1)
        maps.append(_leave_gap(one, rng) if rng.random() < GAPS else one)
    return torch.stack(maps)


def _leave_gap(one: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    side = one.shape[-1]
    wide, high = rng.integers(side // 8, 3 * side // 8, 2)
    left, top = rng.integers(0, side - wide), rng.integers(0, side - high)
    one = one.clone()
    one[:, top : top + high, left : left + wide] = 0
    return one


class ControlPool:
    """Keeps latents, edges and silhouettes of training compositions in memory; new ones join while the run goes on.

    Args:
        vae: encodes.
        catalog: the objects.
        size: pixels.
        first: how many there are before the first step.
        fresh: how many join at each.
        seed: of everything drawn.
        file: keeps them for a run that goes on; None keeps none.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        catalog: Catalog,
        size: int,
        first: int,
        fresh: int,
        seed: int,
        file: Path | None = None,
    ):
        self.vae, self.catalog, self.size, self.file = vae, catalog, size, file
        self.first, self.fresh = first, fresh
        self._base = seed * 1_000_000_000
        self._tensors: dict[str, torch.Tensor] = {}

    def batch(self, step: int, count: int, rng: np.random.Generator, empty: float) -> ControlBatch:
        """Draw a batch.

        Args:
            step: of the run.
            count: how many.
            rng: the source of the choice.
            empty: share of empty captions.
        """
        stop = self.first + step // 16 * 16 * self.fresh
        self._extend_to(stop)
        numbers = rng.choice(stop, size=count, replace=False)
        chosen = {name: values[torch.from_numpy(numbers)].float() for name, values in self._tensors.items()}
        maps = draw_maps(chosen["edges"], chosen["silhouettes"], rng)
        compositions = [sample_placed(self.catalog, self._base + int(number)) for number in numbers]
        captions = [describe(composition, self.catalog, rng, empty) for composition in compositions]
        return ControlBatch(chosen["latents"], maps, captions)

    def _extend_to(self, stop: int) -> None:
        if not self._tensors and self.file is not None and self.file.is_file():
            self._tensors = load_file(self.file)
        before = len(self._tensors["latents"]) if self._tensors else 0
        for start in range(before, stop, 32):
            part = self._render_range(range(start, min(start + 32, stop)))
            old = self._tensors
            self._tensors = {name: torch.cat([old[name], part[name]]) if old else part[name] for name in part}
        if self.file is not None and (before == 0 or stop // 4096 > before // 4096):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(self._tensors, self.file)

    def _render_range(self, numbers: range) -> dict[str, torch.Tensor]:
        return self.render_compositions([sample_placed(self.catalog, self._base + number) for number in numbers])

    def render_compositions(self, compositions: Sequence[Composition]) -> dict[str, torch.Tensor]:
        """Return their "latents" (B, C, h, w), float16, and "edges" and "silhouettes", (B, 1, H, W), bool."""
        pictures, edges, silhouettes = [], [], []
        for composition in compositions:
            rendering = render(composition.scene, self.catalog, self.size)
            low = float(np.random.default_rng([composition.scene.shading_seed, 3]).uniform(*THRESHOLDS))
            pictures.append(to_tensor(rendering.picture))
            edges.append(torch.from_numpy(find_edges(np.asarray(rendering.picture), low, 2 * low)[..., 0] > 0))
            silhouettes.append(find_silhouette(rendering))
        return {
            "latents": encode(self.vae, torch.stack(pictures)).half().cpu(),
            "edges": torch.stack(edges)[:, None],
            "silhouettes": torch.stack(silhouettes)[:, None],
        }
