"""Prompt-to-prompt: the edit looks where the source looked, by taking over its attention maps."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.edits.attention import is_optimized_alone, opened_attention
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.local_blend import LocalBlend, WordMaps
from pipelines.edits.map_controller import MapController
from pipelines.edits.words import (
    Words,
    align,
    equalizer,
    phrases,
    replacement,
    require_equal_counts,
    split_words,
)
from pipelines.guidance.joint_attention import find_joint_layers
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.inversions.unasked import AskedRows

__all__ = [
    "Counting",
    "PromptToPrompt",
    "Refine",
    "RefineSettings",
    "Replace",
    "ReplaceSettings",
    "Reweight",
    "ReweightSettings",
    "SharedMaps",
    "fits_attention_maps",
    "fits_unet",
]

_LARGEST_SELF = 32**2
_JOINT = ("sd3", "flux")
"""Families whose transformer has one attention for text and picture."""
_CROSS = "Share of the steps, from the first, in which the edit's words look where the source's looked."
_SELF = "Share of the steps in which the picture's parts relate to each other as in the source: keeps its layout."
_BLEND = (
    "Words, apart by commas, of either prompt: what lies away from where they look stays the source. Empty for none."
)
ChangeCross = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""From the cross maps of source and edit, each (heads, queries, L), to the edit's new ones."""


@dataclasses.dataclass(frozen=True)
class ReplaceSettings:
    cross_until: float = setting(0.8, _CROSS, low=0, high=1, step=0.05)
    self_until: float = setting(0.4, _SELF, low=0, high=1, step=0.05)
    blend: str = setting("", _BLEND, label="Local blend")


@dataclasses.dataclass(frozen=True)
class RefineSettings:
    cross_until: float = setting(0.4, _CROSS, low=0, high=1, step=0.05)
    self_until: float = setting(0.6, _SELF, low=0, high=1, step=0.05)
    blend: str = setting("", _BLEND, label="Local blend")


@dataclasses.dataclass(frozen=True)
class ReweightSettings:
    words: str = setting(
        "", "Which words count for more or less, e.g. red=2, background=0.5.", label="Words and factors"
    )
    cross_until: float = setting(0.8, _CROSS, low=0, high=1, step=0.05)
    self_until: float = setting(0.4, _SELF, low=0, high=1, step=0.05)
    blend: str = setting("", _BLEND, label="Local blend")


def fits_unet(traits: Traits) -> str | None:
    """Say why not, or return None: a method that changes features of a UNet's own blocks."""
    return None if traits.backbone == "unet" else "it changes the features of a UNet, which this model has none of"


def fits_attention_maps(traits: Traits) -> str | None:
    """Say why not, or return None: of a transformer the joint attention of text and picture has both kinds of maps."""
    if traits.backbone == "unet" or traits.family in _JOINT:
        return None
    return "it changes attention maps of the prompt's words, which are known of UNets, SD3 and FLUX only"


class SharedMaps(MapController):
    """A controller that gives the edit's conditional row maps of the source's.

    The rows of an evaluation are (source, edit), with guidance (source, edit, source, edit), conditional last.

    Args:
        change_cross: the edit's new cross maps.
        cross_until, self_until: shares of the steps.
        rows: that an evaluation has.
        words: collects where words look; None without a local blend.
        asked: what is being evaluated; of the edit's row alone nothing is changed. None where all rows always are.
        largest_self: places from which on self-attention is left alone.
    """

    changed_rows = slice(-1, None)

    def __init__(
        self,
        change_cross: ChangeCross,
        cross_until: float,
        self_until: float,
        rows: int,
        words: WordMaps | None = None,
        asked: AskedRows | None = None,
        largest_self: float = _LARGEST_SELF,
    ):
        self.change_cross, self.cross_until, self.self_until = change_cross, cross_until, self_until
        self.rows, self.words, self.asked = rows, words, asked
        self.largest_self = largest_self
        self.share_done = 0.0

    def is_needed(self, layer: str, cross: bool, queries: int) -> bool:
        if self.asked is not None and self.asked.rows == 1:
            return False
        if cross:
            return self.words is not None or self.share_done < self.cross_until
        return self.share_done < self.self_until and queries <= self.largest_self

    def change(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        if is_optimized_alone(maps) or (self.asked is not None and self.asked.rows == 1):
            return maps
        if len(maps) != self.rows:
            raise SettingsError(
                f"Prompt-to-prompt needs all {self.rows} rows of an evaluation at once; it was given {len(maps)}. "
                "Let the model evaluate more rows together."
            )
        source, edit = maps[SOURCE - 2], maps[TARGET - 2]
        if cross and self.words is not None:
            self.words.add(maps[-2:])
        if cross and self.share_done < self.cross_until:
            edit = self.change_cross(source, edit)
        elif not cross and self.share_done < self.self_until and maps.shape[2] <= self.largest_self:
            edit = source
        else:
            return maps
        return torch.cat([maps[:-1], edit[None]])


class HasProgress(Protocol):
    """Describes what wants to know how far a run is, as a share of its steps."""

    share_done: float


class Counting:
    """A sampler that tells the controller how far the run is."""

    def __init__(self, inner: Sampler, controller: HasProgress):
        self.inner, self.controller = inner, controller

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        self.controller.share_done = context.index / context.num_steps
        return (yield from self.inner.step(state, level, next_level, context))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


class PromptToPrompt(UnpatchedEdit):
    """Says what replace, refine and reweight share.

    Source: Hertz et al., Prompt-to-prompt image editing with cross-attention control, arXiv:2208.01626, algorithm 1.
    Differs: self-attention of up to 32 x 32 places is taken over (their code: 16 x 16). In a transformer's joint
    attention, image to text is the cross map and image to image the self map, of any size, since all layers have the
    same; a changed row is brought back to a sum of one, and the text's own rows are left alone.
    """

    inverts = True
    looks_at_prompt_alone = True

    def __init__(self, settings: ReplaceSettings | RefineSettings | ReweightSettings):
        self.settings = settings

    @property
    def looks_until(self) -> float:
        settings = self.settings
        return 1.0 if phrases(settings.blend) else max(settings.cross_until, settings.self_until)

    def needs_source(self) -> bool:
        return True

    def require_prompts(self, source: str, target: str) -> None:
        self.require_words(split_words(source), split_words(target))

    def require_words(self, source: Words, target: Words) -> None:
        """Refuse words that do not fit the method.

        Raises:
            PromptError: what does not fit, and what to do.
        """
        for phrase in phrases(self.settings.blend):
            if not source.find(phrase) and not target.find(phrase):
                raise PromptError(
                    f"Neither prompt has {phrase[:60]!r}, which the local blend names. Choose words of the prompts."
                )

    def build_cross_change(self, source: Words, target: Words, like: torch.Tensor) -> ChangeCross:
        """Build the method's own change of the cross maps, its tensors on the device and in the dtype of `like`."""
        raise NotImplementedError

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        source, target, settings = context.source(), context.target(), self.settings
        self.require_words(source, target)
        parameter = next(context.network.parameters())
        words = _build_word_maps(settings.blend, source, target, context.image_latents)
        controller = SharedMaps(
            self.build_cross_change(source, target, parameter),
            settings.cross_until,
            settings.self_until,
            4 if context.guided else 2,
            words,
            context.asked,
            math.inf if find_joint_layers(context.network) else _LARGEST_SELF,
        )
        sampler: Sampler = Counting(context.sampler, controller)
        if words is not None or context.mask is not None:
            sampler = LocalBlend(sampler, context.mask, words)
        with opened_attention(context.network, controller):
            yield sampler


def _build_word_maps(blend: str, source: Words, target: Words, latents: torch.Tensor) -> WordMaps | None:
    blend_phrases = phrases(blend)
    if not blend_phrases:
        return None
    first, second = (
        tuple(place for phrase in blend_phrases for place in words.find(phrase)) for words in (source, target)
    )
    return WordMaps(first, second, (latents.shape[-2], latents.shape[-1]))


class Replace(PromptToPrompt):
    """Swaps words one for one: M_src times the mapper. Source: arXiv:2208.01626, section 3.2, word swap."""

    def __init__(self, settings: ReplaceSettings = ReplaceSettings()):
        super().__init__(settings)

    def require_words(self, source: Words, target: Words) -> None:
        super().require_words(source, target)
        require_equal_counts(source, target)

    def build_cross_change(self, source: Words, target: Words, like: torch.Tensor) -> ChangeCross:
        matrix = replacement(source, target).to(like)
        return lambda source_maps, edit: source_maps @ matrix


class Refine(PromptToPrompt):
    """Adds words: common words look where the source's did, new ones freely. Source: section 3.2, equation 6."""

    def __init__(self, settings: RefineSettings = RefineSettings()):
        super().__init__(settings)

    def build_cross_change(self, source: Words, target: Words, like: torch.Tensor) -> ChangeCross:
        places, has_source = align(source, target)
        places, has_source = places.to(like.device), has_source.to(like) > 0
        return lambda source_maps, edit: torch.where(has_source, source_maps[..., places], edit)


class Reweight(Refine):
    """Makes words count more or less: the refined maps times a factor each. Source: section 3.2, re-weighting."""

    def __init__(self, settings: ReweightSettings = ReweightSettings()):
        PromptToPrompt.__init__(self, settings)
        self.weighted_words = settings.words

    def require_settings(self) -> None:
        if not self.weighted_words.strip():
            raise PromptError("Reweight has no words to weigh. Write e.g. red=2, background=0.5.")

    def require_words(self, source: Words, target: Words) -> None:
        super().require_words(source, target)
        equalizer(target, self.weighted_words)

    def build_cross_change(self, source: Words, target: Words, like: torch.Tensor) -> ChangeCross:
        refined, factors = (
            super().build_cross_change(source, target, like),
            equalizer(target, self.weighted_words).to(like),
        )
        return lambda source_maps, edit: refined(source_maps, edit) * factors
