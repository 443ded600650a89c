"""What an edit, a control or a steering picture asks of a model: latents, texts, and one network."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from pipelines.core.prediction import Conditioning, Network
from pipelines.core.types import Traits
from pipelines.families.prompt_tokens import TextRow
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING
from pipelines.prompts.rules import HERE, PromptRules

if TYPE_CHECKING:
    from pipelines.families.pretrained import PretrainedModule

__all__ = ["LatentModel"]


@runtime_checkable
class LatentModel(Network, Protocol):
    """Describes a family that denoises latents with one network, as an edit needs it.

    Attributes:
        network: the denoising network, which an edit may patch while its context lasts.
        traits, identity, components, pictures: as in `Family`.
    """

    network: PretrainedModule
    traits: Traits
    identity: tuple[tuple[str, Hashable], ...] | None
    components: dict[str, Any]
    pictures: Mapping[str, np.ndarray]

    @property
    def device(self) -> torch.device:
        """Where the network runs."""

    def encode_prompts(
        self,
        prompt: str,
        negative_prompt: str,
        batch_size: int,
        size: tuple[int, int],
        weighting: str = DEFAULT_WEIGHTING,
        rules: PromptRules = HERE,
    ) -> dict[str, Conditioning]:
        """Make conditionings as in `Family`."""

    def encode_texts(
        self,
        texts: Mapping[str, str],
        batch_size: int,
        size: tuple[int, int],
        weighting: str = DEFAULT_WEIGHTING,
        rules: PromptRules = HERE,
    ) -> dict[str, Conditioning]:
        """Make conditionings as in `Family`."""

    def list_text_rows(self, texts: Iterable[str], rules: PromptRules = HERE) -> list[TextRow]:
        """Describe the rows of prompts as in `Family`."""

    def embed_guidance(self, conditionings: dict[str, Conditioning], guidance_scale: float) -> dict[str, Conditioning]:
        """Add the guidance scale as in `Family`."""

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images as in `Family`."""

    def decode_with_gradients(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode with gradients as in `Family`."""
