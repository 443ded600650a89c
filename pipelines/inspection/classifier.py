"""The diffusion classifier: which of several prompts explains a picture best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.core.errors import PromptError
from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.inspection.base import Finding, InspectContext

__all__ = ["DiffusionClassifier", "DiffusionClassifierSettings", "choose_least"]


@dataclasses.dataclass(frozen=True)
class DiffusionClassifierSettings:
    prompts: str = setting("", "Further prompts to compare with the request's, with semicolons between.")
    draws: int = setting(16, "Pairs of noise level and noise that all prompts are judged on.", low=1, high=256, step=1)


def choose_least(errors: Sequence[float]) -> int | None:
    """Choose the place of the least error; None where several are the least."""
    least = min(errors)
    places = [place for place, error in enumerate(errors) if error == least]
    return places[0] if len(places) == 1 else None


class DiffusionClassifier:
    """Chooses the prompt whose prediction of the noise has the least mean square error, on draws that all share.

    Source: Li et al., Your diffusion model is secretly a zero-shot classifier, arXiv:2303.16203, algorithm 1.
    Differs: levels are spread evenly instead of drawn, and no prompt is left out early.
    """

    needs_picture = True

    def __init__(self, settings: DiffusionClassifierSettings = DiffusionClassifierSettings()):
        self.draws = settings.draws
        self.prompts = [one.strip() for one in settings.prompts.split(";") if one.strip()]

    def check_texts(self, prompt: str) -> None:
        """Refuse a prompt that is alone: see `ComparingInspection`."""
        if not self.prompts:
            raise PromptError(
                "There is one prompt, and nothing to choose. Give further ones, with semicolons between: a cat; a dog."
            )

    def count_pieces(self) -> int:
        return self.draws

    def inspect(self, context: InspectContext) -> Finding:
        prompts = [context.resolved.request.prompt, *self.prompts]
        self.check_texts(prompts[0])
        conditionings = [context.encode_prompt(prompt) for prompt in prompts]
        errors = [0.0] * len(prompts)
        for level, noise, latents in context.draw_noised(context.encode_picture(), self.draws):
            for place, prediction in enumerate(context.ask(conditionings, Query(latents, level))):
                errors[place] += float((prediction.noise - noise).double().square().mean()) / self.draws
        best = choose_least(errors)
        sentence = "Several prompts explain it equally well." if best is None else f"It shows: {prompts[best]}."
        return Finding(
            {
                f"error {place + 1}: {prompt}": error
                for place, (prompt, error) in enumerate(zip(prompts, errors, strict=True))
            },
            sentence=sentence,
        )
