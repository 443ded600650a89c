"""Small pictures of the latents of any video pipeline, whatever their layout."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pipelines.core.gradients import no_grad
from pipelines.families.preview import Factors, fitted_to, linear_preview
from pipelines.families.stock import StockPipeline, StockStep
from pipelines.weights.libraries import find_execution_device

if TYPE_CHECKING:
    from pipelines.families.pretrained import Autoencoder, PretrainedModule

__all__ = ["STRIP", "StockVideo", "evenly"]

STRIP = 8
"""Frames of a preview: enough to see the motion, few enough to cost nothing."""

_FRAMES_FIRST = ("CogVideoX", "ConsisID", "StableVideoDiffusion")
"""How the names of pipelines begin whose latents are (B, F, C, h, w). All others' are (B, C, F, h, w)."""

_FITTED: weakref.WeakKeyDictionary[torch.nn.Module, Factors] = weakref.WeakKeyDictionary()
"""Preview factors by VAE, which outlives the object that each job makes of the pipeline."""


def evenly(count: int, most: int = STRIP) -> list[int]:
    """Return indices of at most `most` of `count` frames, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


class StockVideo(StockPipeline):
    """Runs a video pipeline through its own call; its steps show at most eight latent frames, (n, C, h, w)."""

    def _unpack(self, latents: torch.Tensor, keywords: Mapping[str, object]) -> torch.Tensor | None:
        clips = self._unpack_clip(latents, keywords) if latents.ndim == 3 else latents
        if clips is None or clips.ndim != 5:
            return None
        channels = self._count_channels()
        # By the class and not by the shape: a clip may have as many frames as there are channels.
        if type(self.pipe).__name__.startswith(_FRAMES_FIRST):
            clips = clips.transpose(1, 2)
        if clips.shape[1] < channels:  # channels last, as Kandinsky has them, or what else there may be
            return None
        clip = clips[0, :channels].detach().transpose(0, 1)
        return clip[evenly(len(clip))].clone()

    def _unpack_clip(self, latents: torch.Tensor, keywords: Mapping[str, Any]) -> torch.Tensor | None:
        """(B, C, F, h, w) of LTX's rows of tokens."""
        pipe, unpack = self.pipe, getattr(self.pipe, "_unpack_latents", None)
        space, time = (getattr(pipe, f"vae_{what}_compression_ratio", None) for what in ("spatial", "temporal"))
        frames, width, height = (keywords.get(name) for name in ("num_frames", "width", "height"))
        if space is None or time is None or frames is None or width is None or height is None:
            return None
        if unpack is None or len(inspect.signature(unpack).parameters) != 6:
            return None
        patches = [getattr(pipe, f"transformer_{what}_patch_size", 1) for what in ("spatial", "temporal")]
        return unpack(latents, (frames - 1) // time + 1, height // space, width // space, *patches)

    def _count_channels(self) -> int:
        config = self.pipe.vae.config
        return int(config.get("latent_channels") or config.get("z_dim") or 0)

    def preview(self, step: StockStep) -> torch.Tensor | None:
        if step.latents is None or self._factors is None or step.latents.shape[1] != len(self._factors.factors):
            return None
        latents = step.latents.float()
        # Stable Video Diffusion counts noise in sigmas, up to 700: shown at the scale of clean latents.
        return linear_preview(latents / latents.std().clamp(min=1.0), self._factors)

    @no_grad
    def _fit_preview(self) -> None:
        vae = getattr(self.pipe, "vae", None)
        if vae is None or self.watched == "none":
            return
        if vae not in _FITTED:
            _FITTED[vae] = self._fit_factors(vae)
        self._factors = _FITTED[vae]

    def _fit_factors(self, vae: Autoencoder) -> Factors:
        clips = "Temporal" not in type(vae).__name__ and type(vae).__name__ != "AutoencoderKL"

        def encode(images: torch.Tensor) -> torch.Tensor:
            pixels = (2 * images - 1).to(find_execution_device(vae), vae.dtype)
            rows = [vae.encode(row[:, :, None] if clips else row).latent_dist.mode() for row in pixels.split(1)]
            latents = torch.cat(rows).float()
            return _scale_latents(latents[:, :, 0] if clips else latents, vae)

        scale = next(
            (
                getattr(self.pipe, name)
                for name in ("vae_spatial_compression_ratio", "vae_scale_factor_spatial", "vae_scale_factor")
                if hasattr(self.pipe, name)
            ),
            8,
        )
        return fitted_to(encode, scale)


def _scale_latents(latents: torch.Tensor, vae: PretrainedModule) -> torch.Tensor:
    """Latents (B, C, h, w) as the network sees them."""
    config = vae.config
    mean, std = (
        config.get(name) if config.get(name) is not None else getattr(vae, name, None)
        for name in ("latents_mean", "latents_std")
    )
    scale = config.get("scaling_factor") or 1.0
    if mean is not None and std is not None:
        mean, std = (torch.as_tensor(one, dtype=torch.float32).to(latents.device)[:, None, None] for one in (mean, std))
        return (latents - mean) * scale / std
    return latents * scale
