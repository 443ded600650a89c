"""Personalization without backpropagation: a new word for what a picture shows, learned by forward passes alone."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.prediction import Conditioning, Query
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.inspection.base import Finding, InspectContext
from pipelines.inspection.zeroth_order import DescentSettings, ZerothOrderAdam

if TYPE_CHECKING:
    from pipelines.families.latent import LatentFamily

__all__ = ["Personalization", "PersonalizationSettings", "find_start", "fits_one_clip", "named_vectors", "replace_word"]

_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{2,39}")
PART = "clip_l"
MOVE = 0.05
"""Of the vectors along a random direction, in parts of their own size."""

HELD_OUT, CHECKS = 8, 8
"""Draws of noise by which vectors are judged, and how often on the way."""


@dataclasses.dataclass(frozen=True)
class PersonalizationSettings:
    word: str = setting("my-thing", "The new word: small letters, digits and hyphens.")
    start: str = setting("", "The word of the prompt that it begins as; empty takes the first that is no article.")
    steps: int = setting(200, "Steps of the descent; 0 keeps the word it begins as.", low=0, high=5000, step=10)
    directions: int = setting(2, "Random directions a step; each is an evaluation.", low=1, high=16, step=1)
    learning_rate: float = setting(
        0.03, "Of a step, in parts of the vectors' own size.", low=0.001, high=0.5, step=0.001
    )
    memory: int = setting(
        64, "Past steps from which directions of mere noise are found, to be left out; 0 for none.", low=0, high=512
    )
    low: float = setting(0.5, "Least share of the time at which noise is added.", low=0.0, high=0.95, step=0.05)
    high: float = setting(0.9, "Largest share of the time.", low=0.05, high=1.0, step=0.05)
    save: bool = setting(True, "Save the word into the models folder, where every prompt finds it.")

    def __post_init__(self) -> None:
        if not _WORD.fullmatch(self.word):
            raise SettingsError(
                f"The new word is {self.word[:60]!r}. Give 3 to 40 small letters, digits, hyphens and underscores."
            )
        if self.low >= self.high:
            raise SettingsError(f"Times of personalization go from {self.low:g} to {self.high:g}. Give a larger end.")


def fits_one_clip(traits: Traits) -> str | None:
    """Refuse models that read prompts with other encoders than one CLIP."""
    return None if traits.family == "sd" else "it reads prompts with more than one text encoder, and one is learned"


def replace_word(prompt: str, start: str, word: str) -> str:
    """Put the new word into the place of another in a prompt.

    Raises:
        PromptError: the prompt has no such word.
    """
    pattern = re.compile(rf"(?<![\w-]){re.escape(start)}(?![\w-])", re.IGNORECASE)
    if not start or not pattern.search(prompt):
        raise PromptError(
            f"The prompt has no word {start[:60]!r}, whose place the new word could take. Write it into the prompt."
        )
    return pattern.sub(word, prompt, count=1)


def find_start(prompt: str, start: str) -> str:
    """Find the word that is taken: the given one, or else the prompt's first that is no article."""
    words = re.findall(r"[\w-]+", prompt)
    return start.strip() or next((one for one in words if one.lower() not in ("a", "an", "the")), "")


@contextlib.contextmanager
def named_vectors(family: LatentFamily, word: str, vectors: torch.Tensor) -> Iterator[None]:
    """Let prompts name vectors (n, width) by a word while the context lasts."""
    before = family.embeddings
    family.embeddings = {**before, word: {PART: vectors}}
    try:
        yield
    finally:
        family.embeddings = before


class Personalization:
    """Learns the vectors of a new word, so that a prompt with it explains the picture's noise better.

    The network, which may be quantized, is only evaluated: each step compares the error of the noise at the present
    vectors with that at a few randomly moved ones. The best vectors of several checks on draws of their own are kept,
    so the word never explains them worse than the one that it began as.

    Source: Seo et al., Efficient personalization of quantized diffusion model without backpropagation (ZOODiP),
    arXiv:2503.14868: zeroth-order textual inversion, the subspace gradient, and times from 0.5 to 0.9 alone; textual
    inversion is Gal et al., arXiv:2208.01618.
    Differs: one picture and one prompt, where they have a few pictures and templates; steps and moves are in parts of
    the starting vectors' size; the best of the checks is kept.
    """

    needs_picture = True

    def __init__(self, settings: PersonalizationSettings = PersonalizationSettings()):
        self.settings = settings

    def count_pieces(self) -> int:
        return self.settings.steps + HELD_OUT * (1 + self._count_checks()) + 2

    def _count_checks(self) -> int:
        return min(CHECKS, self.settings.steps)

    def inspect(self, context: InspectContext) -> Finding:
        family, chosen, request = context.family, self.settings, context.resolved.request
        from pipelines.families.latent import LatentFamily  # late: it imports diffusers

        if not isinstance(family, LatentFamily):
            raise PromptError("This model reads prompts in a way of its own, which knows no new words. Choose another.")
        start = find_start(request.prompt, chosen.start)
        prompt = replace_word(request.prompt, start, chosen.word)
        vectors = _read_word(family, start)
        clean = context.encode_picture()
        draws = context.draw_noised(clean, HELD_OUT)

        def judge(flat: torch.Tensor) -> float:
            conditioning = _encode(context, prompt, chosen.word, flat.reshape(vectors.shape))
            return sum(_measure(context, [conditioning], *one)[0] for one in draws) / len(draws)

        curve, best = self._descend(context, prompt, vectors, clean, judge)
        learned = best.reshape(vectors.shape)
        noise = context.unit_noise(request.seed)
        pictures = [context.draw_picture(noise)]
        with named_vectors(family, chosen.word, learned):
            resolved = dataclasses.replace(context.resolved, request=request.replace(prompt=prompt))
            other = dataclasses.replace(context, resolved=resolved)
            pictures.append(other.draw_picture(noise))
            context.evaluations = other.evaluations
        before, after = curve[0][1], min(value for _, value in curve)
        return Finding(
            {"error with the word it began as": before, "error with the new word": after, "vectors": len(vectors)},
            curve=curve,
            axes=("Steps", "Error of the noise"),
            sentence=_say(chosen, start, prompt, 1 - after / before),
            pictures=np.stack(pictures),
            words={chosen.word: learned} if chosen.save else {},
        )

    def _descend(
        self,
        context: InspectContext,
        prompt: str,
        start: torch.Tensor,
        clean: torch.Tensor,
        judge: Callable[[torch.Tensor], float],
    ) -> tuple[list[tuple[float, float]], torch.Tensor]:
        """Step from the starting vectors; returns the checks by step and the best vectors of them, flat."""
        chosen, size = self.settings, start.square().mean().sqrt()
        descent = DescentSettings(chosen.learning_rate * float(size), chosen.memory)
        adam = ZerothOrderAdam(start.flatten(), descent)
        generator = torch.Generator().manual_seed(context.resolved.request.seed)
        best, curve = adam.vector, [(0.0, judge(adam.vector))]
        checks = {round(chosen.steps * (one + 1) / self._count_checks()) for one in range(self._count_checks())}
        for step in range(1, chosen.steps + 1):
            directions = torch.randn(chosen.directions, len(adam.vector), generator=generator)
            moved = adam.vector + MOVE * size * directions
            texts = [_encode(context, prompt, chosen.word, one.reshape(start.shape)) for one in (adam.vector, *moved)]
            here, *errors = _measure(context, texts, *self._draw(context, clean, generator))
            adam.step(directions, [(error - here) / (MOVE * float(size)) for error in errors])
            if step in checks:
                curve.append((float(step), judge(adam.vector)))
                best = adam.vector if curve[-1][1] < min(value for _, value in curve[:-1]) else best
        return curve, best

    def _draw(
        self, context: InspectContext, clean: torch.Tensor, generator: torch.Generator
    ) -> tuple[Level, torch.Tensor, torch.Tensor]:
        """A level between the two times, noise, and the noisy latents."""
        schedule, chosen = context.resolved.noise_schedule, self.settings
        share = chosen.low + (chosen.high - chosen.low) * float(torch.rand((), generator=generator))
        level = schedule.at(schedule.network_time(share))
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return level, noise, level.alpha * clean + level.sigma * noise


def _read_word(family: LatentFamily, word: str) -> torch.Tensor:
    """Vectors of a word's tokens in the text encoder's table, (n, width), float32 on the CPU."""
    tokens = family.components["tokenizer"](word, add_special_tokens=False, truncation=False).input_ids
    table = family.components["text_encoder"].get_input_embeddings().weight
    return table[torch.tensor(tokens, device=table.device)].detach().float().cpu().clone()


def _encode(context: InspectContext, prompt: str, word: str, vectors: torch.Tensor) -> Conditioning:
    family = context.family
    from pipelines.families.latent import LatentFamily  # late: it imports diffusers

    if not isinstance(family, LatentFamily):
        raise TypeError("only families of latents know embeddings")
    with named_vectors(family, word, vectors):
        return context.encode_prompt(prompt)


def _measure(
    context: InspectContext, texts: Sequence[Conditioning], level: Level, noise: torch.Tensor, latents: torch.Tensor
) -> list[float]:
    """The mean squared error of the noise with each text, all evaluated in one batch."""
    predictions = context.ask(texts, Query(latents, level))
    return [float((one.noise - noise).double().square().mean()) for one in predictions]


def _say(chosen: PersonalizationSettings, start: str, prompt: str, gain: float) -> str:
    if gain <= 0:
        return f"No step explained the picture better than {start!r} does. Take more steps, or a smaller learning rate."
    saved = "Saved: write it into any prompt" if chosen.save else "Not saved"
    return (
        f"{chosen.word!r} explains the picture's noise {100 * gain:.2g} % better than {start!r}. Left the prompt with "
        f"{start!r}, right {prompt!r}, from one noise. {saved}."
    )
