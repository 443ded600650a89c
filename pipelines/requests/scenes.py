"""The scenes of a request's story as the texts of its run."""

from __future__ import annotations

from pipelines.core.prediction import Conditioning
from pipelines.core.types import Choice, Request
from pipelines.stories import STORIES

__all__ = [
    "join_scenes",
    "list_scene_texts",
    "scene_of_story",
    "subject_of_story",
    "with_scenes_counted",
]

_SCENE = "scene "


def list_scene_texts(request: Request) -> dict[str, str]:
    """Name the prompt of each picture of a story; empty where there is none."""
    story = STORIES.build(request.story)
    prompts = story.list_prompts(request.prompt) if story else []
    return {f"{_SCENE}{index}": prompt for index, prompt in enumerate(prompts)}


def subject_of_story(request: Request) -> Request:
    """Return the request with the text that all pictures of its story begin with as its prompt; without a story itself.

    A picture of a story is stored with its own prompt, and its story names the subject: what reads a prompt's words
    reads the same ones in both.
    """
    story = STORIES.build(request.story)
    return request.replace(prompt=story.subject) if story and story.subject else request


def join_scenes(conditionings: dict[str, Conditioning], rows: int) -> dict[str, Conditioning]:
    """Make one conditioning of the scenes, a row each, in the place of the prompt's; the others get as many rows.

    Args:
        conditionings: of one row each, by name; those of scenes as `list_scene_texts` names them.
        rows: pictures.
    """
    scenes = [one for name, one in conditionings.items() if name.startswith(_SCENE)]
    others = {name: one for name, one in conditionings.items() if not name.startswith(_SCENE)}
    joined = {name: Conditioning.cat([one] * rows) for name, one in others.items()}
    return {**joined, "positive": Conditioning.cat(scenes)}


def scene_of_story(request: Request, index: int) -> Request:
    """Return the request with the prompt of one picture of its story, whose subject the story then names itself.

    Whoever tells the story again counts its scenes again.
    """
    prompt = list(list_scene_texts(request).values())[index]
    settings = {"subject": request.prompt, **request.story.settings}
    return request.replace(prompt=prompt, batch_size=1, story=Choice(request.story.key, settings))


def with_scenes_counted(request: Request) -> Request:
    """Return the request with a picture for each scene; one without a story as it is.

    Raises:
        PromptError: there are no scenes.
    """
    scenes = len(list_scene_texts(request))
    return request.replace(batch_size=scenes) if scenes else request
