"""From a prompt to weighted tokens, in chunks of 75 for a CLIP."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from pipelines.prompts.rules import HERE, PromptRules, parse_by_rules
from pipelines.weights.tokenizer import Tokenizer

__all__ = [
    "TextRow",
    "Tokens",
    "chunk_tokens",
    "clip_chunks",
    "clip_text_rows",
    "clip_tokens",
    "most_chunks",
    "tokenize_weighted",
]

Tokens = list[tuple[int, float]]
"""Token ids with their weights, without the marks of begin and end."""


@dataclasses.dataclass(frozen=True)
class TextRow:
    """Describes a part of the rows that a network reads of a prompt.

    Attributes:
        tokenizer: of its text encoder; None where nothing of the prompt is read.
        length: rows.
        marks: rows before the first token: 1 of a CLIP, 0 of a T5.
    """

    tokenizer: Tokenizer | None
    length: int
    marks: int = 1


def clip_text_rows(tokenizer: Tokenizer, chunks: int) -> list[TextRow]:
    """Describe the rows of a CLIP whose prompts fill one chunk, where others fill so many."""
    length = tokenizer.model_max_length
    rest = [TextRow(None, (chunks - 1) * length)] if chunks > 1 else []
    return [TextRow(tokenizer, length), *rest]


def tokenize_weighted(tokenizer: Tokenizer, weighted: Sequence[tuple[str, float]]) -> Tokens:
    """Return the ids of each weighted text, each tokenized by itself, with its weight."""
    tokens: Tokens = []
    for text, weight in weighted:
        ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        tokens += [(token, weight) for token in ids]
    return tokens


def clip_tokens(tokenizer: Tokenizer, prompt: str) -> tuple[Tokens, int]:
    """Return the tokens of a prompt, and how many chunks of a CLIP encoder they fill (at least one).

    Raises:
        PromptError: as `parse_weights`.
    """
    chunks = clip_chunks(tokenizer, prompt)
    return [token for chunk in chunks for token in chunk], len(chunks)


def clip_chunks(tokenizer: Tokenizer, prompt: str, rules: PromptRules = HERE) -> list[Tokens]:
    """Return the tokens of a prompt in the chunks that a CLIP encoder reads one by one, of at most model_max_length -
    2.

    Args:
        tokenizer: of CLIP.
        prompt: with weights; BREAK ends a chunk.
        rules: how the prompt is read, and where a full chunk ends.

    Raises:
        PromptError: as `parse_weights`.
    """
    room = tokenizer.model_max_length - 2
    chunks: list[Tokens] = []
    for weighted in parse_by_rules(prompt, rules):
        if rules.chunks == "words":
            chunks += _part_at_words([tokenize_weighted(tokenizer, [pair]) for pair in weighted], room)
            continue
        tokens = tokenize_weighted(tokenizer, weighted)
        comma = tokenize_weighted(tokenizer, [(",", 1.0)])[0][0] if rules.chunks == "commas" else None
        chunks += _part_tokens(tokens, room, comma)
    return chunks


_BACKTRACK = 20
"""Tokens behind a comma that A1111 takes into the next chunk: its default "comma padding backtrack"."""

_WHOLE = 8
"""Tokens from which on ComfyUI parts a weighted text."""


def _part_tokens(tokens: Tokens, room: int, comma: int | None) -> list[Tokens]:
    """Chunks of at most `room` tokens, at least one; where there is a comma's id, what stands behind the last comma of
    a full chunk goes on to the next.

    Source: AUTOMATIC1111, stable-diffusion-webui 1.10, `modules/sd_hijack_clip.py`, `tokenize_line`.
    """
    chunks: list[Tokens] = []
    current: Tokens = []
    last_comma = -1
    for token in tokens:
        if token[0] == comma:
            last_comma = len(current)
        elif comma is not None and len(current) == room and last_comma >= 0 and room - last_comma <= _BACKTRACK:
            chunks.append(current[: last_comma + 1])
            current, last_comma = current[last_comma + 1 :], -1
        if len(current) == room:
            chunks.append(current)
            current, last_comma = [], -1
        current.append(token)
    return [*chunks, current] if current or not chunks else chunks


def _part_at_words(groups: Sequence[Tokens], room: int) -> list[Tokens]:
    """Chunks of at most `room` tokens; a group of fewer than eight that does not fit begins the next.

    Source: ComfyUI 0.3.64, `comfy/sd1_clip.py`, `SDTokenizer.tokenize_with_weights`.
    """
    chunks: list[Tokens] = [[]]
    for group in groups:
        rest, is_large = group, len(group) >= _WHOLE
        while len(rest) + len(chunks[-1]) > room:
            if is_large:
                space = room - len(chunks[-1])
                chunks[-1] = chunks[-1] + rest[:space]
                rest = rest[space:]
            chunks.append([])
        chunks[-1] = chunks[-1] + rest
    return chunks


def most_chunks(tokenizers: Sequence[Tokenizer], prompts: Iterable[str], rules: PromptRules = HERE) -> int:
    """Return how many chunks all prompts get for all tokenizers: the most that one of them fills, or by the rules'
    repetition the least common multiple."""
    return rules.count_chunks(
        [max(len(clip_chunks(tokenizer, text, rules)) for tokenizer in tokenizers) for text in prompts]
    )


def chunk_tokens(tokenizer: Tokenizer, chunks: Sequence[Tokens], count: int) -> list[Tokens]:
    """Return the chunks in rows as CLIP reads them: begin, at most model_max_length - 2 tokens, end, padding.

    Args:
        tokenizer: of CLIP.
        chunks: as `clip_chunks` gives them.
        count: rows, at least as many as there are chunks; further ones are those of an empty prompt.

    Source: AUTOMATIC1111, stable-diffusion-webui, `sd_hijack_clip.py`, whose practice this is.
    Differs: a chunk is always filled, where theirs may break at a comma.
    """
    length, rows = tokenizer.model_max_length, []
    for index in range(count):
        part = chunks[index] if index < len(chunks) else []
        row = [(tokenizer.bos_token_id, 1.0), *part, (tokenizer.eos_token_id, 1.0)]
        rows.append(row + [(tokenizer.pad_token_id, 1.0)] * (length - len(row)))
    return rows
