"""What the shipped models can draw: the words that their captions were made of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import lru_cache

from pipelines.emoji.captions import with_article
from pipelines.emoji.clips import MOTIONS
from pipelines.emoji.composition_captions import CONVERSES, NUMBERS, SIZE_WORDS, pluralize
from pipelines.emoji.compositions import RELATIONS
from pipelines.emoji.objects import SHIPPED_OBJECTS, shipped_catalog
from pipelines.emoji.scenes import BACKGROUNDS

__all__ = ["Vocabulary", "shipped_vocabulary"]

_GRAMMAR = "a an the some on of and to background emoji picture left right"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The words of a model that was trained on captions of a small grammar.

    Attributes:
        subjects: what it draws to how that is said in a prompt, e.g. "fox" to "a fox".
        backgrounds: the colors behind it.
        words: every single word that stood in its captions, lower case.
    """

    subjects: Mapping[str, str]
    backgrounds: tuple[str, ...]
    words: frozenset[str]


@lru_cache(maxsize=3)
def shipped_vocabulary(model: str) -> Vocabulary | None:
    """The vocabulary of a shipped model; None of any other, which may know any word.

    Args:
        model: its key in the catalog.
    """
    if model not in ("emoji", "emoji-128", "emoji-128-flow", "emoji-128-motion"):
        return None
    composes = model != "emoji"
    catalog = shipped_catalog(None if composes else SHIPPED_OBJECTS)
    phrases = [_GRAMMAR, *BACKGROUNDS]
    for item in catalog.objects:
        phrases += [*item.names, *item.tags]
        phrases += [pluralize(name) for name in item.names] if composes else []
    if composes:
        phrases += [*RELATIONS, *CONVERSES.values(), *NUMBERS.values(), *SIZE_WORDS]
    if model == "emoji-128-motion":
        phrases += MOTIONS
    words = frozenset(word for phrase in phrases for word in re.findall(r"[\w'-]+", phrase.lower()))
    subjects = {label: with_article(label, True) for label in catalog.labels}
    return Vocabulary(subjects, tuple(BACKGROUNDS), words)
