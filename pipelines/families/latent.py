"""What all latent-diffusion families share: the VAE, the preview, LoRAs, and where the network runs."""

from __future__ import annotations

import abc
import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

from pipelines.core.errors import ModelError, ModelFileError, describe_overflow
from pipelines.core.gradients import no_grad
from pipelines.families.base import Family
from pipelines.families.control_lora import ControlLora
from pipelines.families.lora_sources import identify_lora, read_bundled_embeddings
from pipelines.families.preview import Factors, fitted_to, linear_preview, parse_factors
from pipelines.families.prompt_tokens import TextRow, clip_text_rows, most_chunks
from pipelines.families.tiny_decoders import decode_tiny
from pipelines.families.vae_gradients import decode_in_dtype_of
from pipelines.families.vae_memory import call_within_memory, estimate_vae_memory
from pipelines.prompts.rules import HERE, PromptRules
from pipelines.weights.embedding_files import fits_width, read_embedding
from pipelines.weights.embeddings import applied_embeddings, named_embeddings
from pipelines.weights.libraries import find_execution_device
from pipelines.weights.lora import applied_loras
from pipelines.weights.patching import in_dtype

if TYPE_CHECKING:
    from pipelines.families.pretrained import Autoencoder, PretrainedModule

__all__ = ["LatentFamily", "with_embeddings"]

T = TypeVar("T")

_FITTED: weakref.WeakKeyDictionary[torch.nn.Module, Factors] = weakref.WeakKeyDictionary()
"""Preview factors by VAE: it outlives the family object, of which each job makes its own."""


class LatentFamily(Family):
    """Represents a family that denoises a VAE's latents with one network.

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
        if isinstance(control := self.components.get("controlnet"), ControlLora):
            control.complete(self.network)
        # Asking diffusers for it walks all modules, a few per cent of a small network's evaluation.
        self.network_dtype: torch.dtype = self.network.dtype
        self.vae: Autoencoder = self.components["vae"]
        self.vae_scale_factor = 2 ** (len(_read_block_channels(self.vae.config)) - 1)
        self._factors: Factors | None = None
        self.embeddings: dict[str, Any] = dict(self.components.pop("embeddings", None) or {})
        self._require_channels()

    @classmethod
    @abc.abstractmethod
    def fits(cls, components: Mapping[str, Any]) -> bool:
        """Say whether the family is made of such components, by their classes."""

    def list_text_rows(self, texts: Iterable[str], rules: PromptRules = HERE) -> list[TextRow]:
        # Of one CLIP; none where there is no tokenizer of one.
        tokenizer = self.components.get("tokenizer")
        return [] if tokenizer is None else clip_text_rows(tokenizer, most_chunks([tokenizer], texts, rules))

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
                f"The network takes {takes} channels and the VAE makes {makes}: this is not a text-to-image model "
                "(perhaps one for inpainting). Choose another."
            )

    @property
    def network_channels(self) -> int:
        """Latent channels that the network takes."""
        return self.network.config.in_channels

    @property
    def device(self) -> torch.device:
        return find_execution_device(self.network)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return (self.network_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)

    @no_grad
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        # Row by row, so that a batch needs no more memory than one picture and changes none.
        with self._upcast_vae() as dtype:
            device = find_execution_device(self.vae)
            rows = [self._encode_row((2 * row - 1).to(device, dtype)).float() for row in images.split(1)]
        mean, std = self._read_latent_statistics(rows[0])
        return ((torch.cat(rows) - mean) / std).to(self.device)

    def encode_with_gradients(self, images: torch.Tensor) -> torch.Tensor:
        with self._upcast_vae() as dtype:
            latents = self._encode_mean((2 * images - 1).to(find_execution_device(self.vae), dtype)).float()
        mean, std = self._read_latent_statistics(latents)
        return ((latents - mean) / std).to(self.device)

    def _encode_row(self, pixels: torch.Tensor) -> torch.Tensor:
        sides = (pixels.shape[-2] // self.vae_scale_factor, pixels.shape[-1] // self.vae_scale_factor)
        call = functools.partial(self._encode_mean, pixels)
        each = estimate_vae_memory(self.vae, decodes=False)
        return call_within_memory(call, self.vae, sides, self.vae_scale_factor, pixels.device, each)[0]

    def _encode_mean(self, pixels: torch.Tensor) -> torch.Tensor:
        encoded = self.vae.encode(pixels)
        return encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents

    @no_grad
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.notes = []
        if not bool(latents.isfinite().all()):
            raise ModelError(describe_overflow(self.network_dtype))
        with self._upcast_vae() as dtype:
            images = self._decode_rows(latents, dtype)
        if not bool(images.isfinite().all()) and dtype != torch.float32:
            with in_dtype(self.vae, torch.float32):
                images = self._decode_rows(latents, torch.float32)
            self.notes.append("The VAE overflowed in half precision: the picture was decoded in float32.")
        if not bool(images.isfinite().all()):
            raise ModelError("The VAE returns NaN in place of colors. Its file may be broken: download it again.")
        return (images / 2 + 0.5).clamp(0, 1)

    def decode_with_gradients(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._read_latent_statistics(latents)
        dtype = self._decoding_dtype
        rows = (latents.float() * std + mean).to(find_execution_device(self.vae), dtype)
        # The VAE itself keeps its dtype: what comes back through it is computed later, when it has its own again.
        images = (
            decode_in_dtype_of(self.vae, rows)
            if dtype != self.vae.dtype
            else self.vae.decode(rows, return_dict=False)[0]
        )
        return images.float().cpu() / 2 + 0.5

    def _decode_rows(self, latents: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(B, 3, H, W) on the CPU, row by row, each in tiles where memory does not hold it whole."""
        device = find_execution_device(self.vae)
        mean, std = self._read_latent_statistics(latents)
        images, tiles = [], 0
        for row in (latents.float() * std + mean).to(device, dtype).split(1):

            def call(row: torch.Tensor = row) -> torch.Tensor:
                return self.vae.decode(row, return_dict=False)[0]

            sides = (row.shape[-2], row.shape[-1])
            each = estimate_vae_memory(self.vae, decodes=True)
            image, side = call_within_memory(call, self.vae, sides, self.vae_scale_factor, device, each)
            images.append(image.float().cpu())
            tiles = tiles or side
        if tiles:
            pixels = tiles * self.vae_scale_factor
            self.notes.append(f"Memory did not hold the whole picture: it was decoded in tiles of {pixels} pixels.")
        return torch.cat(images)

    @contextlib.contextmanager
    def _upcast_vae(self) -> Iterator[torch.dtype]:
        """The VAE in a dtype in which it does not overflow."""
        dtype = self._decoding_dtype
        with in_dtype(self.vae, dtype):
            yield dtype

    @property
    def _decoding_dtype(self) -> torch.dtype:
        """That of the VAE's weights; float16 ones that say so run in float32."""
        upcast = self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast", True)
        return torch.float32 if upcast else self.vae.dtype

    def _read_latent_statistics(self, like: torch.Tensor) -> tuple[Any, Any]:
        """(mean, std) with vae_latents = latents * std + mean."""
        config = self.vae.config
        scale = config.get("scaling_factor") or 1.0
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean, std = (like.new_tensor(one, dtype=torch.float32)[:, None, None] for one in (mean, std))
            return mean, std / scale
        return config.get("shift_factor") or 0.0, 1 / scale

    @no_grad
    def paint(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode through the component "tiny_vae" where there is one, else through linear factors."""
        tiny = self.components.get("tiny_vae")
        return self.sketch(latents) if tiny is None else (decode_tiny(tiny, latents).float() / 2 + 0.5).clamp(0, 1)

    @property
    def paints_twice(self) -> bool:
        return {"tiny_vae", "preview"} <= self.components.keys()

    @no_grad
    def sketch(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents to colors by linear factors: those of the component "preview", or fitted once, at first use."""
        if self._factors is None:
            plain = self.components.get("preview")
            self._factors = (
                self._fit_preview_factors() if plain is None else parse_factors(plain, self.vae.config.latent_channels)
            )
        self._factors = self._factors.on(latents.device)
        return linear_preview(latents, self._factors)

    def _fit_preview_factors(self) -> Factors:
        if self.vae not in _FITTED:
            _FITTED[self.vae] = fitted_to(self.encode_images, self.vae_scale_factor)
        return _FITTED[self.vae]

    @contextlib.contextmanager
    def loras(self, choices: Sequence[tuple[Any, float]]) -> Iterator[None]:
        parts = {name: self.components.get(name) for name in (self.network_name, *self.encoder_names)}
        networks = {name: network for name, network in parts.items() if network is not None}
        before, embeddings = self.identity, self.embeddings
        with applied_loras(networks, choices, self.key):
            if before is not None and choices:
                self.identity = (*before, ("loras", tuple(identify_lora(*choice) for choice in choices)))
            self.embeddings = embeddings | read_bundled_embeddings(choices)
            try:
                yield
            finally:
                self.identity, self.embeddings = before, embeddings

    @contextlib.contextmanager
    def apply_embeddings(self, *texts: str) -> Iterator[None]:
        """Provide the model with the embeddings that these prompts name.

        Raises:
            PromptError: an embedding is not there, or belongs to another model.
            ModelFileError: its file is broken.
        """
        keys = list(dict.fromkeys(key for text in texts for key in self._find_named(text)))
        if not keys:
            yield
            return
        vectors = {key: self._read_vectors(key) for key in keys}
        components = self.components
        with applied_embeddings(components, vectors) as replaced:
            self.components = {**components, **replaced}
            try:
                yield
            finally:
                self.components = components

    def _find_named(self, text: str) -> list[str]:
        width = self.components[self.encoder_names[0]].get_input_embeddings().weight.shape[1]
        fitting = [
            key
            for key, source in self.embeddings.items()
            if not getattr(source, "problem", "")
            and getattr(source, "family", "") in {"", self.key}
            and fits_width(getattr(source, "base", ""), width)
        ]
        return named_embeddings(text, self.embeddings, fitting)

    def _read_vectors(self, key: str) -> Mapping[str, torch.Tensor]:
        source = self.embeddings[key]
        if problem := getattr(source, "problem", ""):
            raise ModelFileError(f"The embedding {key!r} cannot be used: {problem}")
        return source if isinstance(source, Mapping) else read_embedding(getattr(source, "path", source))


def with_embeddings(encode: Callable[..., T]) -> Callable[..., T]:
    """Return an encoder of prompts that knows the embeddings which they name.

    Args:
        encode: a family's method that takes the prompt and the negative prompt, or a mapping of texts.
    """

    @functools.wraps(encode)
    def encoded(self: LatentFamily, first: Any, *rest: Any, **options: Any) -> T:
        texts = first.values() if isinstance(first, Mapping) else [first, *rest[:1]]
        with self.apply_embeddings(*(text for text in texts if isinstance(text, str))):
            return encode(self, first, *rest, **options)

    return encoded


def _read_block_channels(config: Any) -> Sequence[int]:
    """A VAE's channels at each resolution."""
    return config.get("block_out_channels") or config["encoder_block_out_channels"]
