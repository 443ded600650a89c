"""What a guidance knows of its run: its levels, further texts, and the shipped detector as a judge of estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pipelines.core.errors import MethodFitError, SettingsError, TrainingError
from pipelines.core.gradients import no_grad
from pipelines.core.prediction import Guidance
from pipelines.core.schedule import Level
from pipelines.core.types import Request
from pipelines.emoji.captions import with_article
from pipelines.emoji.composition_captions import parse_description
from pipelines.emoji.objects import shipped_catalog
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.guidance.binding import JudgedGuidance, LevelledGuidance, TextedGuidance
from pipelines.metrics.composition_adherence import adherence
from pipelines.prompts.loras import take_loras
from pipelines.requests.scenes import subject_of_story

__all__ = ["bind_guidance", "check_judged", "further_texts"]


class _DetectorJudge:
    """The shipped detector, which sees estimates of x0 as the family decodes them."""

    def __init__(self, family: Family):
        from pipelines.metrics.detector import load_detector  # late: PyTorch is imported with it

        self._family = family
        self._detector = load_detector(device=str(family.device))

    @no_grad
    def adherence(self, denoised: torch.Tensor, prompt: str) -> torch.Tensor:
        return adherence(self._detector, self._decode(denoised), prompt).float().cpu()

    @no_grad
    def presence(self, denoised: torch.Tensor, prompt: str) -> torch.Tensor:
        scores = self._detector.scores(self._decode(denoised))
        seen = (scores.presence.sigmoid()[:, None] * scores.label.exp()).flatten(2).amax(-1)
        return seen[:, [self._find(label) for label in _read(prompt)]].float().cpu()

    def _find(self, label: str) -> int:
        if label not in self._detector.labels:
            raise SettingsError(f"The detector does not know {label!r}. Choose another guidance.")
        return self._detector.labels.index(label)

    def _decode(self, denoised: torch.Tensor) -> torch.Tensor:
        return self._family.decode(denoised)


def _read(prompt: str) -> tuple[str, ...]:
    return parse_description(prompt, shipped_catalog(None)).labels


def check_judged(request: Request) -> None:
    """Check the texts of a guidance that reads more than the prompts, before anything is loaded.

    Raises:
        SettingsError: a second prompt asks for a LoRA, or the judge cannot read what it is asked for.
    """
    request, guidance = subject_of_story(request), GUIDANCE.build(request.guidance)
    for text in guidance.further_texts(()).values() if isinstance(guidance, TextedGuidance) else ():
        if loras := take_loras(text)[1]:
            raise SettingsError(
                f"The second prompt asks for the LoRA {loras[0].name[:80]!r}. A LoRA acts on the whole run: write it "
                "into the first prompt, or choose it in the list."
            )
    for prompt in guidance.judged_prompts(request.prompt) if isinstance(guidance, JudgedGuidance) else ():
        try:
            _read(prompt)
        except TrainingError as error:
            raise SettingsError(
                f"{GUIDANCE[request.guidance.key].label} is led by the shipped detector, which cannot read "
                f"{prompt[:80]!r}: {str(error).rstrip('.')}. Write it as 'a cat face left of a rose'."
            ) from error


def further_texts(request: Request) -> Mapping[str, str]:
    """Name the texts that the request's guidance evaluates beside the prompts, by conditioning.

    Raises:
        SettingsError: its judge cannot read them.
    """
    request, guidance = subject_of_story(request), GUIDANCE.build(request.guidance)
    if not isinstance(guidance, TextedGuidance):
        return {}
    check_judged(request)
    is_judged = isinstance(guidance, JudgedGuidance) and bool(guidance.judged_prompts(request.prompt))
    return guidance.further_texts([with_article(label, True) for label in _read(request.prompt)] if is_judged else [])


def bind_guidance(guidance: Guidance, request: Request, levels: Sequence[Level], family: Family) -> Guidance:
    """Tell a guidance of its run.

    Raises:
        SettingsError: its judge cannot read the prompts.
        MethodFitError: the model does not fit its judge.
    """
    if isinstance(guidance, LevelledGuidance):
        guidance = guidance.with_levels(levels)
    request = subject_of_story(request)
    if isinstance(guidance, JudgedGuidance) and guidance.judged_prompts(request.prompt):
        check_judged(request)
        if family.traits.family == "animatediff":
            raise MethodFitError("The shipped detector judges single pictures, and this model makes clips.")
        guidance = guidance.with_judge(_DetectorJudge(family), request.prompt)
    return guidance
