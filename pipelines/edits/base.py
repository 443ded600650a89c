"""What an edit is: a way to dress the sampler of a run, and perhaps the network, while the picture is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Conditioning
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level
from pipelines.edits.placing import Placing
from pipelines.edits.words import Words
from pipelines.inversions.unasked import AskedRows

__all__ = ["Edit", "EditContext", "EditPictures", "UnpatchedEdit"]


@dataclasses.dataclass(frozen=True)
class EditPictures:
    """Holds what an edit needs that compares pixels while it draws latents.

    Attributes:
        pixels: (1, 3, H, W), 0 to 1, of the canvas.
        mask: (1, 1, H, W), 1 where the picture may change; None without a mask.
        decode: latents (1, C, h, w) to such pixels, with gradients.
        encode: the way back, without.
    """

    pixels: torch.Tensor
    mask: torch.Tensor | None
    decode: Callable[[torch.Tensor], torch.Tensor]
    encode: Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class EditContext:
    """Says what an edit may use.

    Attributes:
        network: the denoising network, borrowed.
        sampler: of the run; an inversion's own, or the request's.
        image_latents: (1, C, h, w), of the picture.
        noise: (1, C, h, w), the run's initial noise.
        mask: (1, 1, h, w) bool, true where the picture may change; None without a mask.
        pictures: the canvas as pixels, and the way between pixels and latents.
        read_words: a text to its words; raises PromptError where the model has no tokenizer for it.
        encode: a text to what the network takes of it, one row.
        weights: (1, 1, h, w), how much it may change there, 0 to 1; None without a mask.
        source, target: the prompts' words; called only by edits that need them.
        guided: whether each row is evaluated with the negative prompt too, in the same batch.
        asked: of an edit that looks at the prompt alone, what is being evaluated; None where all rows always are.
        moved: (1, 1, h, w) bool each, where the masked object was and will be, of an edit that places it; else None.
    """

    network: torch.nn.Module
    sampler: Sampler
    image_latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor | None
    source: Callable[[], Words]
    target: Callable[[], Words]
    guided: bool
    pictures: EditPictures
    read_words: Callable[[str], Words]
    encode: Callable[[str], Conditioning]
    weights: torch.Tensor | None = None
    moved: tuple[torch.Tensor, torch.Tensor] | None = None
    asked: AskedRows | None = None

    @property
    def drawn_weights(self) -> torch.Tensor:
        """Return `weights` of an edit that cannot be without a mask.

        Raises:
            SettingsError: there is none.
        """
        if self.weights is None:
            raise SettingsError("This edit needs a mask. Draw over what should change.")
        return self.weights

    @property
    def drawn_mask(self) -> torch.Tensor:
        """Return `mask` in the same way."""
        return self.drawn_weights > 0


class Edit(Protocol):
    """Represents one method of the edit table, built with its settings.

    Attributes:
        inverts: whether it consumes an inversion's trajectory; else the run starts from the picture.
        paired: whether it has no inversion and yet draws the source in a first row, beside the edit.
        masked: whether it needs a mask from the person.
        strength: share of the steps that are run, 0 to 1; of an edit that inverts, at most the inversion's.
        source_guidance: guidance scale of the source's row, of an edit that is paired.
        margins: (left, top, right, bottom) pixels by which the canvas grows.
        mask_blur: pixels of the picture over which the mask fades.
        is_cropped: whether only the part around the mask is drawn, at the model's own size.
        padding: pixels around the mask that belong to this part.
        placing: where the masked object goes; None of an edit that moves none.
        keeps_prompt: whether it is drawn with the source's prompt and guidance, what changes being said by `texts`.
        looks_at_source: whether it needs the network's evaluations of the source's row.
        looks_until: share of the steps, from the first, in which it does.
        looks_at_prompt_alone: whether of these it needs that with the source's prompt only.
        texts: further prompts by the name of their branch, which the edit asks for itself.
        takes_reference: whether it needs a reference picture, whose inversion is then the edit's, in the place of the
            source's; the edit's row starts from the noised source.
        reference_prompt: what the reference shows.
        inverts_wordless: whether the picture is inverted with an empty prompt, whatever its source prompt.
        inversions: keys of the inversions that it goes with; empty where it goes with all.
        pastes: whether the object's pixels are put there before the model draws what it leaves.
    """

    inverts: ClassVar[bool]
    paired: ClassVar[bool]
    masked: bool
    strength: float
    source_guidance: float
    margins: tuple[int, int, int, int]
    mask_blur: float
    is_cropped: bool
    padding: int
    placing: Placing | None
    pastes: ClassVar[bool]
    keeps_prompt: ClassVar[bool]
    looks_at_source: ClassVar[bool]
    looks_at_prompt_alone: ClassVar[bool]
    takes_reference: ClassVar[bool]
    reference_prompt: str
    inverts_wordless: ClassVar[bool]
    inversions: ClassVar[tuple[str, ...]]

    @property
    def texts(self) -> Mapping[str, str]: ...

    @property
    def looks_until(self) -> float: ...

    def require_settings(self) -> None:
        """Refuse settings with which there is nothing to do.

        Raises:
            PromptError: what is missing, and what to write.
        """

    def require_prompts(self, source: str, target: str) -> None:
        """Refuse prompts whose words alone show that they do not fit the method, without a model.

        Raises:
            PromptError: what does not fit, and what to do.
        """

    def start(self, image_latents: torch.Tensor, noise: torch.Tensor, level: Level) -> torch.Tensor:
        """Return the latents that a run without an inversion starts from.

        Args:
            image_latents, noise: (1, C, h, w), of the picture and unit normal.
            level: the first of the run.

        Returns:
            (1, C, h, w), or (2, C, h, w) of an edit that is paired.
        """

    def applied(self, context: EditContext) -> AbstractContextManager[Sampler]:
        """Provide the run's sampler while the network is patched.

        Raises:
            PromptError: the prompts do not fit the method.
        """

    def needs_source(self) -> bool:
        """Say whether it cannot work without a prompt of the source picture."""


class UnpatchedEdit:
    """Provides defaults of edits that change neither network nor canvas."""

    inverts: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    masked: bool = False
    strength: float = 1.0
    source_guidance: float = 1.0
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    mask_blur: float = 0.0
    is_cropped: bool = False
    padding: int = 0
    placing: Placing | None = None
    pastes: ClassVar[bool] = False
    keeps_prompt: ClassVar[bool] = False
    looks_at_source: ClassVar[bool] = True
    looks_at_prompt_alone: ClassVar[bool] = False
    takes_reference: ClassVar[bool] = False
    reference_prompt: str = ""
    inverts_wordless: ClassVar[bool] = False
    inversions: ClassVar[tuple[str, ...]] = ()

    @property
    def texts(self) -> Mapping[str, str]:
        return {}

    @property
    def looks_until(self) -> float:
        return 1.0

    def start(self, image_latents: torch.Tensor, noise: torch.Tensor, level: Level) -> torch.Tensor:
        noised = level.alpha * image_latents + level.sigma * noise
        return noised.repeat(2, 1, 1, 1) if self.paired else noised

    def require_settings(self) -> None:
        pass

    def require_prompts(self, source: str, target: str) -> None:
        pass

    def needs_source(self) -> bool:
        return False
