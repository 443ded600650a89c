"""What all latent-diffusion families share: the VAE, the preview, LoRAs, and where the network runs."""

from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from diffusers.utils.torch_utils import get_module_execution_device

from pipelines.core.denoiser import Conditioning
from pipelines.core.errors import ModelError
from pipelines.core.schedule import DiscreteSchedule, FlowSchedule
from pipelines.families.base import Autoencoder, Family, PretrainedModule
from pipelines.families.preview import Factors, fitted_to, linear_preview, parse_factors
from pipelines.weights.embeddings import (
    applied_embeddings,
    bundled_embeddings,
    named_embeddings,
    read_bundled,
    read_embedding,
)
from pipelines.weights.lora import applied_loras
from pipelines.weights.part_identity import file_stamp
from pipelines.weights.patching import in_dtype

__all__ = ["LatentFamily", "discrete_schedule", "embed_scale", "has_edm_times", "shifted_schedule", "with_embeddings"]

T = TypeVar("T")

_FITTED: weakref.WeakKeyDictionary[torch.nn.Module, Factors] = weakref.WeakKeyDictionary()
"""Preview factors by VAE: it outlives the family object, of which each job makes its own."""

_SMALLEST_ALPHA = 2.0**-24
"""Stands for an alphas_cumprod of zero (a terminal level without signal), as diffusers' Euler has it."""


class LatentFamily(Family):
    """A family that denoises a VAE's latents with one network.

    Attributes:
        network_name: the denoising network's name among the components.
        encoder_names: those of the text encoders, which LoRAs may change too.
        default_guidance_scale: of networks that take it as an input, until `embed_guidance` is called.
        vae_scale_factor: pixels to a latent pixel.
        embeddings: what prompts may name: key to an embedding's file, or to its vectors by part.
    """

    network_name: ClassVar[str]
    encoder_names: ClassVar[tuple[str, ...]]
    default_guidance_scale: ClassVar[float] = 7.5

    def __init__(self, components: Mapping[str, Any]):
        super().__init__(components)
        missing = [name for name in (self.network_name, "vae", "scheduler") if self.components.get(name) is None]
        if missing:
            raise ModelError(
                f"The model has no {missing[0]}. Put the complete diffusers folder into the models folder."
            )
        self.network: PretrainedModule = self.components[self.network_name]
        # Asking diffusers for it walks all modules, a few per cent of a small network's evaluation.
        self.network_dtype: torch.dtype = self.network.dtype
        self.vae: Autoencoder = self.components["vae"]
        self.vae_scale_factor = 2 ** (len(_blocks(self.vae.config)) - 1)
        self._factors: Factors | None = None
        self.embeddings: dict[str, Any] = dict(self.components.pop("embeddings", None) or {})
        self._require_channels()

    def _require_channels(self) -> None:
        takes, makes = self.network_channels, self.vae.config.latent_channels
        tiny = self.components.get("tiny_vae")
        if tiny is not None and tiny.config.latent_channels != makes:
            raise ModelError(
                f"The tiny decoder for previews reads {tiny.config.latent_channels} channels and the model's latents "
                "have "
                f"{makes}. Remove its folder tiny_vae, or put the one for this model there."
            )
        if takes != makes:
            raise ModelError(
                f"The network takes {takes} channels and the VAE makes {makes}: this is no text-to-image model "
                "(perhaps one for inpainting). Choose another."
            )

    @property
    def network_channels(self) -> int:
        """Latent channels that the network takes."""
        return self.network.config.in_channels

    @property
    def device(self) -> torch.device:
        return get_module_execution_device(self.network)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return (self.network_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        # Row by row, so that a batch needs no more memory than one picture and changes none.
        with self._sound_vae() as dtype:
            device = get_module_execution_device(self.vae)
            rows = [self._posterior_mean((2 * row - 1).to(device, dtype)).float() for row in images.split(1)]
        mean, std = self._latent_statistics(rows[0])
        return ((torch.cat(rows) - mean) / std).to(self.device)

    def _posterior_mean(self, pixels: torch.Tensor) -> torch.Tensor:
        encoded = self.vae.encode(pixels)
        return encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        with self._sound_vae() as dtype:
            device = get_module_execution_device(self.vae)
            mean, std = self._latent_statistics(latents)
            rows = (latents.float() * std + mean).to(device, dtype).split(1)
            images = torch.cat([self.vae.decode(row, return_dict=False)[0].float().cpu() for row in rows])
        return (images / 2 + 0.5).clamp(0, 1)

    @contextlib.contextmanager
    def _sound_vae(self) -> Iterator[torch.dtype]:
        """The VAE in a dtype in which it does not overflow: float16 ones that say so run in float32."""
        dtype = self.vae.dtype
        if dtype == torch.float16 and self.vae.config.get("force_upcast", True):
            dtype = torch.float32
        with in_dtype(self.vae, dtype):
            yield dtype

    def _latent_statistics(self, like: torch.Tensor) -> tuple[Any, Any]:
        """(mean, std) with vae_latents = latents * std + mean."""
        config = self.vae.config
        scale = config.get("scaling_factor") or 1.0
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean, std = (like.new_tensor(one, dtype=torch.float32)[:, None, None] for one in (mean, std))
            return mean, std / scale
        return config.get("shift_factor") or 0.0, 1 / scale

    @torch.no_grad()
    def preview(self, denoised: torch.Tensor) -> torch.Tensor:
        """Through the component "tiny_vae" where there is one, else through linear factors.

        The factors are those of the component "preview", or are fitted once, at first use.
        """
        tiny = self.components.get("tiny_vae")
        if tiny is not None:
            images = tiny.decode(denoised.to(tiny.device, tiny.dtype), return_dict=False)[0]
            return (images.float().cpu() / 2 + 0.5).clamp(0, 1)
        if self._factors is None:
            plain = self.components.get("preview")
            self._factors = self._fitted() if plain is None else parse_factors(plain, self.vae.config.latent_channels)
        return linear_preview(denoised, self._factors)

    def _fitted(self) -> Factors:
        if self.vae not in _FITTED:
            _FITTED[self.vae] = fitted_to(self.encode_images, self.vae_scale_factor)
        return _FITTED[self.vae]

    @contextlib.contextmanager
    def loras(self, choices: Sequence[tuple[Any, float]]) -> Iterator[None]:
        networks = {name: self.components.get(name) for name in (self.network_name, *self.encoder_names)}
        networks = {name: network for name, network in networks.items() if network is not None}
        before, embeddings = self.identity, self.embeddings
        with applied_loras(networks, choices, self.key):
            self.identity = (before, tuple(_lora_identity(*choice) for choice in choices)) if choices else before
            self.embeddings = embeddings | _bundled(choices)
            try:
                yield
            finally:
                self.identity, self.embeddings = before, embeddings

    @contextlib.contextmanager
    def embedded(self, *texts: str) -> Iterator[None]:
        """The model with the embeddings that these prompts name.

        Raises:
            PromptError: an embedding is not there, or belongs to another model.
        """
        named = list(dict.fromkeys(key for text in texts for key in self._named_in(text)))
        if not named:
            yield
            return
        vectors = {key: self._vectors(key) for key in named}
        components = self.components
        with applied_embeddings(components, vectors) as replaced:
            self.components = {**components, **replaced}
            try:
                yield
            finally:
                self.components = components

    def _named_in(self, text: str) -> list[str]:
        fitting = [key for key, source in self.embeddings.items() if getattr(source, "family", "") in {"", self.key}]
        return named_embeddings(text, self.embeddings, fitting)

    def _vectors(self, key: str) -> Mapping[str, torch.Tensor]:
        source = self.embeddings[key]
        return source if isinstance(source, Mapping) else read_embedding(getattr(source, "path", source))


def with_embeddings(encode: Callable[..., T]) -> Callable[..., T]:
    """An encoder of prompts that knows the embeddings which they name.

    Args:
        encode: a family's method that takes the prompt and the negative prompt, or a mapping of texts.
    """

    @functools.wraps(encode)
    def encoded(self: LatentFamily, first: Any, *rest: Any, **options: Any) -> T:
        texts = first.values() if isinstance(first, Mapping) else [first, *rest[:1]]
        with self.embedded(*(text for text in texts if isinstance(text, str))):
            return encode(self, first, *rest, **options)

    return encoded


def _bundled(choices: Sequence[tuple[Any, float]]) -> dict[str, Any]:
    """The embeddings that LoRAs' files bring along."""
    found: dict[str, Any] = {}
    for source, _ in choices:
        found |= bundled_embeddings(source, "The LoRA") if isinstance(source, Mapping) else read_bundled(Path(source))
    return found


def _lora_identity(source: Any, weight: float) -> Hashable:
    """Of a LoRA at its weight; tensors that came from no file are equal to nothing else."""
    return (object() if isinstance(source, Mapping) else file_stamp(Path(source))), weight


def _blocks(config: Any) -> Sequence[int]:
    """A VAE's channels at each resolution."""
    return config.get("block_out_channels") or config["encoder_block_out_channels"]


def embed_scale(conditionings: Mapping[str, Conditioning], guidance_scale: float) -> dict[str, Conditioning]:
    """Conditionings with the guidance scale as the tensor "guidance", (B,), float32."""
    embedded = {}
    for name, one in conditionings.items():
        like = one.tensors["prompt_embeds"]
        scale = torch.full((len(like),), float(guidance_scale), device=like.device)
        embedded[name] = Conditioning({**one.tensors, "guidance": scale})
    return embedded


def discrete_schedule(scheduler: Any) -> DiscreteSchedule:
    """The noise schedule of a scheduler with `alphas_cumprod`.

    Raises:
        ModelError: it has none.
    """
    if has_edm_times(scheduler):
        # Log-linear, so that the index of a level and the network's time, ln(sigma) / 4, are linear in each other.
        config = scheduler.config
        sigmas = np.geomspace(config.sigma_min, config.sigma_max, config.num_train_timesteps)
        return DiscreteSchedule(1 / (1 + sigmas**2))
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise ModelError(
            f"The scheduler {type(scheduler).__name__} has no alphas_cumprod. Use a model with a DDIM scheduler."
        )
    values = np.maximum(np.asarray(alphas_cumprod, dtype=np.float64), _SMALLEST_ALPHA)
    return DiscreteSchedule(values, scheduler.config.get("steps_offset", 0))


def has_edm_times(scheduler: Any) -> bool:
    """Whether a network takes EDM's time, ln(sigma / alpha) / 4, with data of unit deviation (CosXL).

    Source: Karras et al., EDM, arXiv:2206.00364, table 1. With unit deviation its preconditioning is v-prediction.
    """
    return type(scheduler).__name__.startswith("EDM") and scheduler.config.get("sigma_data") == 1.0


def shifted_schedule(scheduler: Any, image_tokens: int, max_shift: float) -> FlowSchedule:
    """The noise schedule of a flow-matching scheduler with its shift, fixed or growing with the picture.

    Args:
        scheduler: its configuration gives the shift.
        image_tokens: of the picture, (width * height) / (pixels to a token)^2.
        max_shift: of pictures of 4096 tokens, where the configuration has none.

    Source: a growing one is exp(mu), mu linear in the number of tokens, as in diffusers' `calculate_shift`.
    """
    config = scheduler.config
    total = config.get("num_train_timesteps", 1000)
    if not config.get("use_dynamic_shifting"):
        return FlowSchedule(total, config.get("flow_shift", config.get("shift", 1.0)))
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    return FlowSchedule(total, math.exp(low + (high - low) * (image_tokens - few) / (many - few)))
