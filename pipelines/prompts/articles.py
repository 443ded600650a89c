"""The indefinite article in English prompts: "a fox", "an owl"."""

from __future__ import annotations

import re

__all__ = ["agree_with", "choose_article", "match_articles"]

_ARTICLE = re.compile(r"\b(an?)(\s+[(\[]*)$", re.IGNORECASE)
_SOUNDS_LIKE_A_VOWEL = re.compile(r"heir|honest|hono(u)?r|hour", re.IGNORECASE)
_SOUNDS_LIKE_A_CONSONANT = re.compile(
    r"eu|ewe|once\b|one\b|one-|ufo|ukulele|uni(?!nter|nvit|mp)|urine|usa\b|use|usual|utensil|utopia", re.IGNORECASE
)


def choose_article(word: str) -> str:
    """Return "an" before a word that begins with the sound of a vowel, and "a" before any other.

    Args:
        word: any text; only its beginning counts, by its letters and a short list of exceptions (hour, unicorn).
    """
    if _SOUNDS_LIKE_A_VOWEL.match(word):
        return "an"
    return "an" if word[:1].lower() in tuple("aeiou") and not _SOUNDS_LIKE_A_CONSONANT.match(word) else "a"


def match_articles(text: str, search: str, replacement: str) -> str:
    """Return the text with each `search` replaced, and an "a" or "an" right before it made to agree.

    Of a replacement that brings an article of its own, that one is taken. An article that did not agree with `search`
    before stays as it was written, and so does one before a replacement that begins with no letter.

    Args:
        text: the prompt.
        search: what is replaced, everywhere; not empty.
        replacement: what stands there instead.
    """
    first, *others = text.split(search)
    pieces = [first]
    for other in others:
        pieces += [_agree(pieces.pop(), search, replacement), replacement, other]
    return "".join(pieces)


def _agree(before: str, search: str, replacement: str) -> str:
    """Return the text before a replaced word, with its last article made to agree."""
    article = _ARTICLE.search(before)
    if not article or article[1].lower() != choose_article(search.lstrip("([")):
        return before
    return agree_with(before, replacement)


def agree_with(before: str, replacement: str) -> str:
    """Return the text before a word, with an "a" or "an" at its end made to agree with that word.

    Of a word that brings an article of its own, that one is left. An article before what begins with no letter stays.

    Args:
        before: the text up to the word.
        replacement: the word and what follows it; brackets of weights before it do not count.
    """
    article = _ARTICLE.search(before)
    if not article:
        return before
    if re.match(r"an?\s", replacement, re.IGNORECASE):
        return before[: article.start()] + article[2].lstrip()
    word = replacement.lstrip("([")
    if not word[:1].isalpha():
        return before
    chosen = choose_article(word)
    return before[: article.start()] + (chosen.capitalize() if article[1][0].isupper() else chosen) + article[2]
