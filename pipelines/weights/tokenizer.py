"""What prompts need of a tokenizer of transformers, or of one that stands for it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["TokenizedText", "Tokenizer"]


class TokenizedText(Protocol):
    """Describes what a tokenizer gives for a text.

    Attributes:
        input_ids: the ids of its tokens.
    """

    input_ids: list[int]

    def __setitem__(self, name: str, value: list[int]) -> None: ...


class Tokenizer(Protocol):
    """Describes a tokenizer as types see it; only annotations use it.

    Attributes:
        model_max_length: tokens that its text encoder reads at most, the marks of begin and end counted.
        bos_token_id, eos_token_id, pad_token_id: the marks of begin and end, and what fills a row.
    """

    model_max_length: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    def __call__(self, text: str, **options: bool | int | str) -> TokenizedText: ...

    def __len__(self) -> int: ...
