"""The table of stories: several scenes drawn together, one picture each, that share a subject or a style."""

from __future__ import annotations

from pipelines.core.registry import Method, Table
from pipelines.edits.prompt_to_prompt import fits_attention_maps
from pipelines.stories.base import Story
from pipelines.stories.consistent import Consistent, ConsistentSettings
from pipelines.stories.style import SharedStyle, SharedStyleSettings

__all__ = ["STORIES"]

STORIES: Table[Story | None] = Table(
    "story",
    [
        Method("none", "No story", lambda settings: None, help="Each picture of a batch shows the prompt, alone."),
        Method(
            "consistent",
            "Same subject",
            Consistent,
            ConsistentSettings,
            fit=fits_attention_maps,
            paper="Zhou et al., StoryDiffusion, arXiv:2405.01434",
            help="A picture for each scene; all look at parts of each other, so that the subject stays the same.",
        ),
        Method(
            "style",
            "Same style",
            SharedStyle,
            SharedStyleSettings,
            fit=fits_attention_maps,
            paper="Hertz et al., StyleAligned, arXiv:2312.02133",
            help="A picture for each scene; all look at the first one and take over its style.",
        ),
    ],
)
