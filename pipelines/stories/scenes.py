"""The scenes of a story as a person writes them, and the prompts that they make."""

from __future__ import annotations

import dataclasses
import re

from pipelines.core.errors import PromptError
from pipelines.core.registry import setting
from pipelines.prompts.loras import take_loras

__all__ = ["StorySettings", "read_scenes"]


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


@dataclasses.dataclass(frozen=True)
class StorySettings:
    """The settings that every story has."""

    scenes: str = setting(
        "",
        "One scene a line, or with bars between them. Each makes a picture, whose prompt is the subject and then the "
        "scene.",
        label="Scenes",
        lines=4,
    )
    subject: str = setting(
        "", "What the prompt of every picture begins with; empty for the prompt above.", label="Subject"
    )

    def list_prompts(self, prompt: str) -> list[str]:
        """List the prompts of the story's pictures: the subject, a space, and the scene.

        Args:
            prompt: of the request, which stands for a subject that is empty.

        Raises:
            PromptError: there are no scenes.
        """
        return [f"{self.subject or prompt} {scene}" for scene in read_scenes(self.scenes)]
