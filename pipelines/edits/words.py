"""Two prompts token by token: which token of the edit takes the place of which token of the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pipelines.core.errors import PromptError
from pipelines.families.prompt_tokens import TextRow, clip_tokens, tokenize_weighted
from pipelines.prompts.weights import parse_weights

if TYPE_CHECKING:
    from pipelines.weights.tokenizer import Tokenizer

__all__ = [
    "Words",
    "align",
    "equalizer",
    "phrases",
    "read_rows",
    "read_words",
    "replacement",
    "require_equal_counts",
    "split_words",
]


@dataclasses.dataclass(frozen=True)
class Words:
    """A prompt as a text encoder reads it: marks, the tokens, end, padding; behind it, as further encoders read it.

    Attributes:
        words: the prompt's words in order, without weights.
        places: for each word, the positions of its tokens among the encoder's outputs (0 is a CLIP's mark of begin).
        ids: the tokens' ids, without the marks.
        length: positions of the row.
        marks: positions before the first token.
        further: the same prompt as the rows behind this one have it, each with positions of its own.
    """

    words: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...]
    length: int
    marks: int = 1
    further: tuple[Words, ...] = ()

    @property
    def rows(self) -> tuple[Words, ...]:
        """This row and the further ones."""
        return (self, *self.further)

    @property
    def total(self) -> int:
        """Positions of all rows."""
        return sum(row.length for row in self.rows)

    def find(self, phrase: str) -> tuple[int, ...]:
        """Find the positions of the tokens of a word or of several in a row, wherever they stand; () if nowhere."""
        phrase_words = [_strip_punctuation(word) for word in phrase.split()]
        words, positions = [_strip_punctuation(word) for word in self.words], []
        places = self.list_places()
        for start in range(len(words) - len(phrase_words) + 1):
            if phrase_words and words[start : start + len(phrase_words)] == phrase_words:
                positions += [place for one in places[start : start + len(phrase_words)] for place in one]
        return tuple(positions)

    def list_places(self) -> list[tuple[int, ...]]:
        """List for each word the positions of its tokens among those of all rows."""
        places: list[tuple[int, ...]] = [() for _ in self.words]
        before = 0
        for row in self.rows:
            for index, own in enumerate(row.places):
                places[index] += tuple(before + place for place in own)
            before += row.length
        return places


def _strip_punctuation(word: str) -> str:
    return word.strip(".,;:!?").lower()


def read_words(tokenizer: Tokenizer, prompt: str) -> Words:
    """Read a prompt's words and their tokens as a CLIP does.

    Raises:
        PromptError: it is longer than one row of the text encoder, or a weight cuts through a word.
    """
    tokens, chunks = clip_tokens(tokenizer, prompt)
    if chunks > 1:
        room = tokenizer.model_max_length - 2
        raise PromptError(
            f"The prompt {prompt[:60]!r} has {len(tokens)} tokens in {chunks} chunks. Word by word at most {room} in "
            "one chunk can be edited: shorten it, and leave BREAK out."
        )
    ids = tuple(token for token, _ in tokens)
    return _read_row(tokenizer, TextRow(tokenizer, tokenizer.model_max_length), prompt, ids)


def read_rows(rows: Sequence[TextRow], prompt: str) -> Words:
    """Read a prompt's words and their tokens in every part of the rows that a network reads.

    Args:
        rows: at least one.
        prompt: with weights.

    Raises:
        PromptError: as `read_words`.
    """
    read = [_read_part(row, prompt) for row in rows]
    return dataclasses.replace(read[0], further=tuple(read[1:]))


def _read_part(row: TextRow, prompt: str) -> Words:
    words = split_words(prompt).words
    if row.tokenizer is None:
        return Words(words, tuple(() for _ in words), (), row.length, 0)
    if row.marks:
        return read_words(row.tokenizer, prompt)
    ids = tuple(token for token, _ in tokenize_weighted(row.tokenizer, parse_weights(prompt)))
    if len(ids) > row.length - 1:
        raise PromptError(
            f"The prompt {prompt[:60]!r} has {len(ids)} tokens of T5. Word by word at most {row.length - 1} can be "
            "edited: shorten it."
        )
    return _read_row(row.tokenizer, row, prompt, ids)


def _read_row(tokenizer: Tokenizer, row: TextRow, prompt: str, ids: tuple[int, ...]) -> Words:
    """The words of a prompt that has these tokens."""
    words = split_words(prompt).words
    places: list[tuple[int, ...]] = []
    spelled: list[int] = []
    for word in words:
        own = tokenizer(word, add_special_tokens=False, truncation=False, verbose=False).input_ids
        start = row.marks + len(spelled)
        places.append(tuple(range(start, start + len(own))))
        spelled += own
    if tuple(spelled) != ids:
        raise PromptError(
            f"The words of {prompt[:60]!r} cannot be distinguished. Put weights around whole words: (word:1.2)."
        )
    return Words(words, tuple(places), ids, row.length, row.marks)


def split_words(prompt: str) -> Words:
    """Split a prompt without a tokenizer: its words are right, and each stands as if it had one token."""
    words = tuple("".join(text for text, _ in parse_weights(prompt)).split())
    places = tuple((place,) for place in range(1, len(words) + 1))
    return Words(words, places, tuple(range(len(words))), len(words) + 2)


def require_equal_counts(source: Words, target: Words) -> None:
    """Refuse prompts whose words do not correspond one to one.

    Raises:
        PromptError: they differ in number.
    """
    if len(source.words) != len(target.words):
        raise PromptError(
            f"The source prompt has {len(source.words)} words and the edit's {len(target.words)}: they cannot be "
            "swapped one for one. Use as many words, or choose Refine."
        )


def replacement(source: Words, target: Words) -> torch.Tensor:
    """Return (L, L) float32 matrix M: attention maps of the source (..., L) times M lie on the target's tokens.

    Words correspond one to one. A word of other length shares its attention evenly among its tokens, and every
    row sums to one, so that no attention is lost.

    Raises:
        PromptError: the prompts differ in their number of words, or in nothing.

    Source: Hertz et al., Prompt-to-prompt, arXiv:2208.01626, section 3.2, word swap.
    """
    require_equal_counts(source, target)
    return torch.block_diag(*map(_replace_row, source.rows, target.rows))


def _replace_row(source: Words, target: Words) -> torch.Tensor:
    matrix = torch.zeros(source.length, target.length)
    for source_places, target_places in zip(source.places, target.places, strict=True):
        even = len(source_places) == len(target_places)
        for index, place in enumerate(source_places):
            for taking in [target_places[index]] if even else target_places:
                matrix[place, taking] = 1 if even else 1 / len(target_places)
    matrix[: source.marks, : target.marks] = torch.eye(source.marks)
    after, other_after = len(source.ids) + source.marks, len(target.ids) + target.marks
    for offset in range(source.length - after):  # the mark of end and the padding
        matrix[after + offset, min(other_after + offset, target.length - 1)] = 1
    return matrix


def align(source: Words, target: Words) -> tuple[torch.Tensor, torch.Tensor]:
    """Find for each position of the target the source's that it was before, and whether there is one.

    The longest common subsequence of the tokens; the marks and the padding correspond in order.

    Returns:
        (L,) int64 and (L,) float32 of zeros and ones; where there is none the first is 0.

    Raises:
        PromptError: the prompts have no token in common.

    Source: Hertz et al., arXiv:2208.01626, section 3.2, adding a new phrase, equation 6.
    """
    parts, before, has_common = [], 0, False
    for source_row, target_row in zip(source.rows, target.rows, strict=True):
        pairs = _align_longest_common(source_row.ids, target_row.ids)
        places, has_source = _align_row(source_row, target_row, pairs)
        parts.append((torch.where(has_source > 0, places + before, 0), has_source))
        before += source_row.length
        has_common |= bool(pairs)
    if not has_common:
        raise PromptError(
            "The source prompt and the edit's have no word in common, so nothing is kept. Choose Plain re-prompting."
        )
    return torch.cat([places for places, _ in parts]), torch.cat([has_source for _, has_source in parts])


def _align_row(source: Words, target: Words, pairs: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    places, has_source = torch.zeros(target.length, dtype=torch.int64), torch.zeros(target.length)
    has_source[: target.marks] = 1
    for source_index, target_index in pairs:
        places[target_index + target.marks] = source_index + source.marks
        has_source[target_index + target.marks] = 1
    after, other_after = len(source.ids) + source.marks, len(target.ids) + target.marks
    for offset in range(target.length - other_after):
        places[other_after + offset], has_source[other_after + offset] = min(after + offset, source.length - 1), 1
    return places, has_source


def _align_longest_common(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Index pairs of a longest common subsequence, in order."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i in reversed(range(len(first))):
        for j in reversed(range(len(second))):
            extended = lengths[i + 1][j + 1] + 1 if first[i] == second[j] else 0
            lengths[i][j] = max(extended, lengths[i + 1][j], lengths[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        if first[i] == second[j] and lengths[i][j] == lengths[i + 1][j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def phrases(text: str) -> list[str]:
    """Return what stands between commas or semicolons."""
    return [one.strip() for one in text.replace(";", ",").split(",") if one.strip()]


def equalizer(target: Words, text: str) -> torch.Tensor:
    """Return (L,) float32 factors of the target's attention from "red=2, fluffy hat=0.5"; 1 for all other words.

    Raises:
        PromptError: a word that the prompt lacks, or a factor that is no number from -10 to 10.

    Source: Hertz et al., arXiv:2208.01626, section 3.2, attention re-weighting.
    """
    factors = torch.ones(target.total)
    for pair in phrases(text):
        phrase, _, number = pair.rpartition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = float("nan")
        if not phrase.strip() or not -10 <= factor <= 10:
            raise PromptError(
                f"The factor {pair[:60]!r} cannot be read. Write WORD=FACTOR with a factor from -10 to 10, e.g. red=2."
            )
        places = target.find(phrase)
        if not places:
            raise PromptError(
                f"The edit's prompt has no {phrase.strip()[:60]!r}. Its words: {', '.join(target.words) or 'none'}."
            )
        factors[list(places)] = factor
    return factors
