"""What each word tells about each place of a picture, and what two words tell together."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from pipelines.core.errors import PromptError
from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.edits.words import Words, split_words
from pipelines.inspection.base import Finding, InspectContext

__all__ = ["Parts", "WordInformation", "WordInformationSettings", "information", "split"]


@dataclasses.dataclass(frozen=True)
class WordInformationSettings:
    words: str = setting(
        "", "Two words or phrases, with a comma between; empty takes the prompt's first and last object."
    )
    draws: int = setting(16, "Noise levels that are summed over.", low=2, high=256, step=1)


@dataclasses.dataclass(frozen=True)
class Parts:
    """Splits what two words tell, each (h, w): their sum is what both tell together."""

    redundant: torch.Tensor
    unique_first: torch.Tensor
    unique_second: torch.Tensor
    synergistic: torch.Tensor


def information(without: torch.Tensor, prompted: torch.Tensor, weight: float) -> torch.Tensor:
    """Compute one level's share of the pointwise information: half the weight times the squared change of the estimate.

    Args:
        without, prompted: noise estimates (1, C, h, w) without and with the words.
        weight: the level's width in the logarithm of its signal-to-noise ratio.

    Returns:
        (h, w), float64, never negative.

    Source: Kong et al., Interpretable diffusion via information decomposition, arXiv:2310.07972: the orthogonal form
        of the estimator.
    """
    return 0.5 * weight * (without - prompted).double().square().sum(1)[0]


def split(first: torch.Tensor, second: torch.Tensor, both: torch.Tensor) -> Parts:
    """Split the information of two sources into redundant, unique and synergistic parts, place by place.

    Args:
        first, second, both: (h, w), what one, the other and both together tell.

    Source: Zawar et al., DiffusionPID, arXiv:2406.05191, for the use on words of a prompt.
    Differs: what both tell is the smaller of the two, which is Barrett's redundancy (arXiv:1411.2832) and has not been
        compared with the paper's.
    """
    redundant = torch.minimum(first, second)
    unique_first, unique_second = first - redundant, second - redundant
    return Parts(redundant, unique_first, unique_second, both - redundant - unique_first - unique_second)


class WordInformation:
    """Maps what two words tell about a picture: what of it is in both, in one alone, and only in both together."""

    needs_picture = True

    def __init__(self, settings: WordInformationSettings = WordInformationSettings()):
        self.words, self.draws = settings.words, settings.draws

    def count_pieces(self) -> int:
        return self.draws

    def inspect(self, context: InspectContext) -> Finding:
        first, second = self._choose_words(context.read_words())
        texts = ["", first, second, f"{first} {second}"]
        conditionings = [context.encode_prompt(text) for text in texts]
        prompted = [torch.zeros(()) for _ in texts[1:]]
        drawn = context.draw_noised(context.encode_picture(), self.draws)
        ends = [2 * one[0].lam for one in drawn]
        widths = np.abs(np.gradient(ends))
        for width, (level, _, latents) in zip(widths, drawn, strict=True):
            nothing, *estimates = context.ask(conditionings, Query(latents, level))
            for place, estimate in enumerate(estimates):
                prompted[place] = prompted[place] + information(nothing.noise, estimate.noise, float(width)).cpu()
        parts = split(*prompted)
        maps = {
            first: prompted[0],
            second: prompted[1],
            "both": prompted[2],
            "redundant": parts.redundant,
            f"only {first}": parts.unique_first,
            f"only {second}": parts.unique_second,
            "synergistic": parts.synergistic,
        }
        return Finding(
            {f"nats of {name}": float(values.sum()) for name, values in maps.items()},
            {name: values.float().numpy() for name, values in maps.items()},
        )

    def check_texts(self, prompt: str) -> None:
        """Refuse other than two words: see `ComparingInspection`."""
        self._choose_words(split_words(prompt))

    def _choose_words(self, prompt: Words) -> tuple[str, str]:
        named = [one.strip() for one in self.words.split(",") if one.strip()]
        if not named:
            words = list(dict.fromkeys(prompt.words))
            named = [words[0], words[-1]] if len(words) > 1 else words
        if len(named) != 2 or named[0] == named[1]:
            raise PromptError(f"Two different words are compared, and {len(named)} are given. Write e.g. fox, blue.")
        return named[0], named[1]
