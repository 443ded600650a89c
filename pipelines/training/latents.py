"""Latents drawn beforehand, and the linear map that previews them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from pipelines.core.gradients import no_grad
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import Scene, render, sample_scene

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["LatentPool", "encode", "fit_preview", "pictures_of", "save_preview", "to_tensor"]


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """Return an RGB picture as (3, H, W), float32 in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def pictures_of(scenes: list[Scene], catalog: Catalog, size: int) -> torch.Tensor:
    """Return the scenes' pictures: (B, 3, size, size), float32 in [0, 1]."""
    return torch.stack([to_tensor(render(scene, catalog, size).picture) for scene in scenes])


@no_grad
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode pictures in [0, 1] to scaled latents, the mean of the posterior.

    Args: images: (B, 3, H, W). Returns: (B, C, H/f, W/f), times the scaling factor.
    """
    weight = next(vae.parameters())
    images = images.to(weight.device, weight.dtype)
    return vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor


class LatentPool:
    """Keeps latents of many training scenes in memory, drawn anew now and then.

    Args:
        vae: encodes.
        catalog: the objects.
        picture_size: pixels.
        count: scenes in memory.
        pairs: share of scenes with two objects, in [0, 1].
        seed: of everything drawn.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        catalog: Catalog,
        picture_size: int,
        count: int,
        pairs: float,
        seed: int,
    ):
        self.vae, self.catalog, self.picture_size = vae, catalog, picture_size
        self.count, self.pairs, self.seed = count, pairs, seed
        self._generation: int | None = None
        self._latents = torch.empty(0)

    def scene(self, generation: int, index: int) -> Scene:
        """Return the scene behind a latent: drawn again when it is needed, never stored."""
        first = (self.seed * 1_000 + generation) * 1_000_000
        objects = 2 if index % 100 < 100 * self.pairs else 1
        return sample_scene(self.catalog, first + index, objects=objects)

    def latents(self, generation: int) -> torch.Tensor:
        """Return (count, C, h, w), float16, scaled. Encodes when the generation is not in memory."""
        if generation != self._generation:
            self._latents = self._draw_latents(generation)
            self._generation = generation
        return self._latents

    def _draw_latents(self, generation: int) -> torch.Tensor:
        # the loop's bfloat16 would coarsen what all later steps learn from
        with torch.autocast(next(self.vae.parameters()).device.type, enabled=False):
            return torch.cat(
                [
                    self._encode_range(generation, start, min(start + 256, self.count))
                    for start in range(0, self.count, 256)
                ]
            )

    def _encode_range(self, generation: int, start: int, stop: int) -> torch.Tensor:
        scenes = [self.scene(generation, index) for index in range(start, stop)]
        images = pictures_of(scenes, self.catalog, self.picture_size)
        return encode(self.vae, images).half().cpu()


def fit_preview(vae: AutoencoderKL, catalog: Catalog, size: int, count: int = 256) -> dict:
    """Fit RGB = latents @ factors + bias by least squares on rendered scenes.

    Returns: {"factors": C rows of 3, "bias": 3 numbers, "rmse": a number}, for scaled latents
        and RGB in [0, 1]. A preview is then one small matrix product and no decoder.
    """
    scenes = [sample_scene(catalog, seed, "all") for seed in range(count)]
    images = pictures_of(scenes, catalog, size)
    latents = encode(vae, images).float().cpu()
    small = torch.nn.functional.interpolate(images, latents.shape[-2:], mode="area")
    inputs = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    outputs = small.permute(0, 2, 3, 1).reshape(-1, 3)
    solution = torch.linalg.lstsq(inputs.double(), outputs.double()).solution
    rmse = (inputs.double() @ solution - outputs).square().mean().sqrt()
    rounded = [[round(value, 5) for value in row] for row in solution.tolist()]
    return {"factors": rounded[:-1], "bias": rounded[-1], "rmse": round(float(rmse), 4)}


def save_preview(preview: dict, folder: Path, **facts: int) -> None:
    """Write `preview.json` beside the model's parts, with further facts that the studio reads there."""
    (folder / "preview.json").write_text(json.dumps(preview | facts, indent=1) + "\n", "utf-8")
