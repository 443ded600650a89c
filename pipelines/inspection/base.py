"""What an inspection is: it looks at a picture or at the network's answers, and changes neither."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from pipelines.core.denoiser import Denoiser, predict_together
from pipelines.core.errors import MethodFitError, PromptError
from pipelines.core.gradients import no_grad
from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning, Prediction, Query
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.edits.words import Words, read_rows
from pipelines.families.base import Family
from pipelines.families.directions import Directions
from pipelines.guidance.cfg import Unguided
from pipelines.requests.encoding import decode, encode_request
from pipelines.requests.prompts import prompt_rules
from pipelines.requests.text_to_image import ResolvedRun, assemble_run

__all__ = ["ComparingInspection", "Finding", "InspectContext", "Inspection", "needs_word_by_word"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Holds what an inspection found.

    Attributes:
        figures: name to number.
        maps: name, such as a word, to (h, w) float values, larger where there is more of it.
        curve: points (x, y) of a probe, with what both axes show; empty without.
        axes: of the curve.
        sentence: what it comes to, for the person.
        pictures: that the probe drew, (N, H, W, 3), uint8; None without.
        words: new words to save, each with its vectors (n, width).
        directions: for sliders, to be saved under the name that the settings say; None for none.
    """

    figures: Mapping[str, float]
    maps: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()
    axes: tuple[str, str] = ("", "")
    sentence: str = ""
    pictures: np.ndarray | None = None
    words: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    directions: Directions | None = None


@dataclasses.dataclass
class InspectContext:
    """Provides an inspection with a model and a picture.

    Attributes:
        family: the model, its LoRAs already applied.
        resolved: the request, settled on the model.
        picture: (H, W, 3), uint8, of the model's size: the one that is given, or the request's own.
        cancelled: polled before every evaluation.
        advance: called after each piece of work.
        evaluations: of the network so far.
    """

    family: Family
    resolved: ResolvedRun
    picture: np.ndarray | None = None
    cancelled: Callable[[], bool] = lambda: False
    advance: Callable[[], None] = lambda: None
    evaluations: float = 0.0

    def encode_picture(self) -> torch.Tensor:
        """Encode the picture into clean latents (1, C, h, w)."""
        if self.picture is None:
            raise MethodFitError("There is no picture to inspect.")
        images = torch.from_numpy(self.picture.copy()).permute(2, 0, 1)[None].float() / 255
        return self.family.encode_images(images)

    def encode_prompt(self, prompt: str) -> Conditioning:
        """Encode a text as the request's prompt would be."""
        request = self.resolved.request.replace(prompt=prompt)
        return encode_request(request, self.family, 1)[0]["positive"]

    def read_words(self) -> Words:
        """Read the prompt's words and their tokens; raises PromptError where they cannot be distinguished."""
        request = self.resolved.request
        together = (request.prompt, request.negative_prompt)
        rows = self.family.list_text_rows(together, prompt_rules(request))
        if not rows:
            raise PromptError("This model has no tokenizer that is known here, so its words cannot be looked at.")
        return read_rows(rows, request.prompt)

    def draw_noised(self, clean: torch.Tensor, draws: int) -> list[tuple[Level, torch.Tensor, torch.Tensor]]:
        """Draw noises of the request's seed at levels spread evenly over the network's time.

        Returns:
            For each draw its level, the noise, and the noisy latents, both (1, C, h, w).
        """
        schedule, source = self.resolved.noise_schedule, NoiseSource([self.resolved.request.seed])
        drawn = []
        for index in range(draws):
            level = schedule.at(schedule.network_time((index + 0.5) / draws))
            noise = source(clean.cpu()).to(clean)
            drawn.append((level, noise, level.alpha * clean + level.sigma * noise))
        return drawn

    @no_grad
    def ask(self, conditionings: Sequence[Conditioning], query: Query) -> list[Prediction]:
        """Ask the network the same with each conditioning, in one batch.

        Raises:
            Cancelled: it was stopped.
        """
        denoisers = [Denoiser(self.family, Unguided(), {"positive": one}, self.cancelled) for one in conditionings]
        predictions = predict_together([(one, query) for one in denoisers])
        self.evaluations += sum(one.evaluations for one in denoisers)
        self.advance()
        return predictions

    def draw_picture(self, noise: torch.Tensor) -> np.ndarray:
        """Run the request on a given unit normal noise (1, C, h, w); returns the picture (H, W, 3), uint8."""
        request = self.resolved.request
        conditionings, plan = encode_request(request, self.family, 1)
        started = noise, NoiseSource([request.seed])
        *_, step = denoise(assemble_run(self.resolved, self.family, started, conditionings, self.cancelled, plan))
        self.evaluations += step.evaluations
        self.advance()
        picture: np.ndarray = decode(self.family, step.latents)[0]
        return picture

    def unit_noise(self, seed: int) -> torch.Tensor:
        """Draw unit normal noise (1, C, h, w), float32, of a seed."""
        request = self.resolved.request
        return NoiseSource([seed])(torch.empty(1, *self.family.latent_shape(request.width, request.height)))


class Inspection(Protocol):
    """An inspection is one line of the table, built with its settings.

    Attributes:
        needs_picture: whether it looks at a picture; the request's own is drawn where none is given.
    """

    needs_picture: bool

    def count_pieces(self) -> int:
        """Count the pieces of work, for each of which `advance` is called."""

    def inspect(self, context: InspectContext) -> Finding:
        """Look.

        Raises:
            Cancelled: it was stopped.
            StepwiseError: the prompt or the model does not fit.
        """


@runtime_checkable
class ComparingInspection(Protocol):
    """Represents an inspection that compares texts, and can say without the model whether they can be compared."""

    def check_texts(self, prompt: str) -> None:
        """Check the texts.

        Args:
            prompt: of the request.

        Raises:
            PromptError: there are none to compare.
        """


def needs_word_by_word(traits: Traits) -> str | None:
    """Say why a model's prompts cannot be looked at word by word."""
    fits = (traits.family in ("sd", "sdxl") and traits.backbone == "unet") or traits.family == "sd3"
    return None if fits else "its attention to single words is not known: choose a UNet or an SD3"


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the root mean square of the difference of two pictures, in colors from 0 to 1."""
    apart: Any = (first.astype(np.float64) - second.astype(np.float64)) / 255
    return float(np.sqrt((apart**2).mean()))
