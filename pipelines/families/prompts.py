"""From prompts to embeddings: weights, and chunks of 75 tokens.

A prompt without weights that fits the encoder gives, bit for bit, the stock pipeline's embeddings. What a prompt
may say is read in `pipelines.prompts`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING, apply_weights
from pipelines.prompts.weights import parse_chunks, parse_weights

__all__ = [
    "Tokens",
    "chunk_tokens",
    "clip_chunks",
    "clip_tokens",
    "encode_clip",
    "encode_t5",
    "most_chunks",
]

Tokens = list[tuple[int, float]]
"""Token ids with their weights, without the marks of begin and end."""

_log = logging.getLogger(__name__)


def _tokens(tokenizer: Any, weighted: Sequence[tuple[str, float]]) -> Tokens:
    """The ids of each weighted text, each tokenized by itself, with its weight."""
    found: Tokens = []
    for text, weight in weighted:
        ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        found += [(token, weight) for token in ids]
    return found


def clip_tokens(tokenizer: Any, prompt: str) -> tuple[Tokens, int]:
    """The tokens of a prompt, and how many chunks of a CLIP encoder they fill (at least one).

    Raises:
        PromptError: as `parse_weights`.
    """
    chunks = clip_chunks(tokenizer, prompt)
    return [token for chunk in chunks for token in chunk], len(chunks)


def clip_chunks(tokenizer: Any, prompt: str) -> list[Tokens]:
    """The tokens of a prompt in the chunks that a CLIP encoder reads one by one, of at most model_max_length - 2.

    Args:
        tokenizer: of CLIP.
        prompt: with weights; BREAK ends a chunk.

    Raises:
        PromptError: as `parse_weights`.
    """
    room = tokenizer.model_max_length - 2
    chunks: list[Tokens] = []
    for weighted in parse_chunks(prompt):
        tokens = _tokens(tokenizer, weighted)
        chunks += [tokens[start : start + room] for start in range(0, max(1, len(tokens)), room)]
    return chunks


def most_chunks(tokenizers: Sequence[Any], prompts: Iterable[str]) -> int:
    """The most chunks that one of the prompts fills for one of the tokenizers."""
    return max(len(clip_chunks(tokenizer, text)) for text in prompts for tokenizer in tokenizers)


def chunk_tokens(tokenizer: Any, chunks: Sequence[Tokens], count: int) -> list[Tokens]:
    """The chunks in rows as CLIP reads them: begin, at most model_max_length - 2 tokens, end, padding.

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


def encode_clip(
    tokenizer: Any,
    text_encoder: torch.nn.Module,
    prompt: str,
    chunks: int,
    read: Callable[[Any], tuple[torch.Tensor, torch.Tensor | None]],
    weighting: str = DEFAULT_WEIGHTING,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A prompt's CLIP embeddings, one chunk after another, and its pooled embedding.

    Args:
        tokenizer, text_encoder: of one CLIP.
        prompt: with weights.
        chunks: at least as many as the prompt fills; the further ones are those of an empty prompt.
        read: the encoder's output to (embeddings (chunks, L, D), pooled embeddings (chunks, P) or None).
        weighting: what the weights do; without weights nothing is done.

    Returns:
        (1, chunks * L, D), and (1, P) of the first chunk or None; weights do not reach the pooled embedding.

    Raises:
        PromptError: as `parse_weights`.
        UnknownMethodError: there is no such weighting.
    """
    tokens = clip_chunks(tokenizer, prompt)[:chunks]
    rows = chunk_tokens(tokenizer, tokens, chunks)
    weights = torch.tensor([[weight for _, weight in row] for row in rows], device=_device_of(text_encoder))

    def encoded(rows: Sequence[Tokens], lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        mask = None
        if getattr(text_encoder.config, "use_attention_mask", False):
            read_by_row = torch.tensor([[length + 2] for length in lengths])
            mask = (torch.arange(len(rows[0])) < read_by_row).long().to(weights.device)
        with torch.no_grad():
            return read(text_encoder(_ids(rows, weights.device), attention_mask=mask, output_hidden_states=True))

    lengths = [len(chunk) for chunk in tokens] + [0] * (chunks - len(tokens))
    embeds, pooled = encoded(rows, lengths)
    embeds = apply_weights(embeds, weights, lambda: encoded(chunk_tokens(tokenizer, [], 1), [0])[0], weighting)
    return embeds.reshape(1, -1, embeds.shape[-1]), None if pooled is None else pooled[:1]


def encode_t5(
    tokenizer: Any,
    text_encoder: torch.nn.Module,
    prompt: str,
    max_sequence_length: int,
    weighting: str = DEFAULT_WEIGHTING,
) -> torch.Tensor:
    """A prompt's T5 embeddings, (1, max_sequence_length, D), under its weights; BREAK is a space.

    Text beyond the length is cut off, as the stock pipelines do, and the log says so.

    Raises:
        PromptError: as `encode_clip`.
    """
    tokens = _tokens(tokenizer, parse_weights(prompt))
    if len(tokens) > max_sequence_length - 1:
        _log.warning("The prompt has %d tokens; T5 reads the first %d.", len(tokens), max_sequence_length - 1)
    device = _device_of(text_encoder)

    def padded(tokens: Tokens) -> Tokens:
        row = [*tokens[: max_sequence_length - 1], (tokenizer.eos_token_id, 1.0)]
        return row + [(tokenizer.pad_token_id, 1.0)] * (max_sequence_length - len(row))

    def encoded(row: Tokens) -> torch.Tensor:
        with torch.no_grad():
            return text_encoder(_ids([row], device))[0]

    row = padded(tokens)
    weights = torch.tensor([[weight for _, weight in row]], device=device)
    return apply_weights(encoded(row), weights, lambda: encoded(padded([])), weighting)


def _ids(rows: Sequence[Tokens], device: torch.device) -> torch.Tensor:
    return torch.tensor([[token for token, _ in row] for row in rows], device=device)


def _device_of(text_encoder: Any) -> torch.device:
    """Where it computes, also when it is offloaded and its weights lie elsewhere."""
    # Here, since importing diffusers imports PyTorch's compiler: 1.7 of the 8 seconds that the studio took to start.
    from diffusers.utils.torch_utils import get_module_execution_device

    return get_module_execution_device(text_encoder)
