"""A request's story: what stands against it, and the network and additions of its run."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.prediction import Addition, AskingGuidance, Network
from pipelines.core.types import Request, Traits
from pipelines.core.validation import require_range
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.guidance.attention_pairs import AttentionPairs
from pipelines.requests.prompts import require_one_text
from pipelines.requests.refusals import require_made_here
from pipelines.requests.scenes import list_scene_texts
from pipelines.stories import STORIES
from pipelines.stories.base import SharingNetwork, SharingSteps

__all__ = ["check_story", "require_story_fit", "share_network"]


def check_story(request: Request, max_batch: int, max_prompt: int) -> None:
    """Check a story against the other methods.

    Args:
        request: its settings are valid.
        max_batch: pictures of one run.
        max_prompt: characters of a prompt.

    Raises:
        PromptError: it has no scenes.
        SettingsError: too many or too long scenes, or another program's rules or a search stand against it.
        MethodFitError: a scene switches by step, or a cache or several models stand against it.
    """
    if request.story.key == Request.story.key:
        return
    prompts = list_scene_texts(request).values()
    require_range("number of scenes", len(prompts), 1, max_batch)
    require_range("number of characters of a prompt with its scene", max(map(len, prompts)), 1, max_prompt)
    for prompt in prompts:
        require_one_text(prompt, request.negative_prompt, "Stories")
    require_made_here(request, "A story")
    if request.search.key != Request.search.key:
        raise SettingsError("A search looks for one picture, not for a story. Set Search to No search ('none').")
    if request.cache.key != Request.cache.key:
        raise MethodFitError("A cache leaves out layers in which a story is told. Set Cache to No cache ('none').")
    if request.ensemble.key != Request.ensemble.key:
        raise MethodFitError("A story is drawn by one model. Set Several models to One model ('none').")


def require_story_fit(request: Request, traits: Traits) -> None:
    """Check a story against the guidance on this model.

    Raises:
        MethodFitError: the guidance has the attention that the story needs.
    """
    if request.story.key == Request.story.key or traits.backbone != "transformer":
        return
    guidance = GUIDANCE.build(request.guidance)
    if isinstance(guidance, AskingGuidance) and isinstance(guidance.patch, AttentionPairs):
        label = GUIDANCE[request.guidance.key].label
        raise MethodFitError(
            f"{label} takes the attention in which a story's pictures see each other. Choose another guidance."
        )


def share_network(
    request: Request, family: Family, additions: Sequence[Addition], pictures: int
) -> tuple[Network, Sequence[Addition]]:
    """Return the network and the additions of a run, in which the pictures of a story see each other.

    Args:
        request: checked.
        family: the loaded model, its LoRAs already applied.
        additions: the run's others.
        pictures: of the run.
    """
    story = STORIES.build(request.story)
    controller = story.control(family.network, pictures, request.seed) if story else None
    if story is None or controller is None:
        return family.ensemble or family, additions
    return SharingNetwork(family, controller, pictures), [*additions, SharingSteps(pictures, story.start)]
