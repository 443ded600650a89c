"""The scenes of a story as a person writes them, and the prompts that they make."""

from __future__ import annotations

import re

from pipelines.core.errors import PromptError
from pipelines.prompts.loras import take_loras

__all__ = ["SCENES", "SUBJECT", "list_prompts", "read_scenes"]

SUBJECT = "What the prompt of every picture begins with; empty for the prompt above."
SCENES = (
    "One scene a line, or with bars between them. Each makes a picture, whose prompt is the subject and then the scene."
)


def read_scenes(text: str) -> list[str]:
    """Read one scene a line; a bar parts scenes, too, unless a backslash stands before it.

    Raises:
        PromptError: there is none, or one asks for a LoRA, which would act on all.
    """
    scenes = [part.strip() for part in re.split(r"\n|(?<!\\)\|", text)]
    scenes = [scene for scene in scenes if scene]
    if not scenes:
        raise PromptError("The story has no scenes. Write one a line, e.g. 'on a green background'.")
    for scene in scenes:
        if take_loras(scene)[1]:
            raise PromptError(
                f"The scene {scene[:60]!r} asks for a LoRA, which acts on all pictures: put it into the prompt."
            )
    return scenes


def list_prompts(subject: str, text: str) -> list[str]:
    """List the prompts of a story's pictures: the subject, a space, and the scene."""
    return [f"{subject} {scene}" for scene in read_scenes(text)]
