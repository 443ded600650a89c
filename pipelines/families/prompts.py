"""From prompts to embeddings: weights, and chunks of 75 tokens.

A prompt without weights that fits the encoder gives, bit for bit, the stock pipeline's embeddings. What a prompt
may say is read in `pipelines.prompts`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from pipelines.families.prompt_tokens import Tokens, chunk_tokens, clip_chunks, tokenize_weighted
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING, apply_weights
from pipelines.prompts.rules import HERE, PromptRules, parse_by_rules
from pipelines.prompts.weights import parse_weights
from pipelines.weights.libraries import find_execution_device
from pipelines.weights.tokenizer import Tokenizer

__all__ = ["encode_clip", "encode_t5"]

_log = logging.getLogger(__name__)

Pooled = TypeVar("Pooled", torch.Tensor, None)
"""The pooled embedding, where a reader of outputs takes it."""


def encode_clip(
    tokenizer: Tokenizer,
    text_encoder: torch.nn.Module,
    prompt: str,
    chunks: int,
    read_output: Callable[[Any], tuple[torch.Tensor, Pooled]],
    weighting: str = DEFAULT_WEIGHTING,
    rules: PromptRules = HERE,
) -> tuple[torch.Tensor, Pooled]:
    """Compute a prompt's CLIP embeddings, one chunk after another, and its pooled embedding.

    Args:
        tokenizer, text_encoder: of one CLIP.
        prompt: with weights.
        chunks: at least as many as the prompt fills; the further ones are those of an empty prompt.
        read_output: the encoder's output to (embeddings (chunks, L, D), pooled embeddings (chunks, P) or None).
        weighting: what the weights do; without weights nothing is done.
        rules: how the prompt is read; by their repetition `chunks` is a multiple of the prompt's own.

    Returns:
        (1, chunks * L, D), and (1, P) of the first chunk or None; weights do not reach the pooled embedding.

    Raises:
        PromptError: as `parse_weights`.
        UnknownMethodError: there is no such weighting.
    """
    tokens = clip_chunks(tokenizer, prompt, rules)[:chunks]
    repeats = chunks // len(tokens) if rules.repeats else 1
    chunks //= repeats
    rows = chunk_tokens(tokenizer, tokens, chunks)
    weights = torch.tensor([[weight for _, weight in row] for row in rows], device=_find_device(text_encoder))

    def encode(
        rows: Sequence[Tokens], lengths: Sequence[int], mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Pooled]:
        if getattr(text_encoder.config, "use_attention_mask", False):
            read_by_row = torch.tensor([[length + 2] for length in lengths])
            mask = (torch.arange(len(rows[0])) < read_by_row).long().to(weights.device)
        with torch.no_grad():
            return read_output(
                text_encoder(_stack_ids(rows, weights.device), attention_mask=mask, output_hidden_states=True)
            )

    lengths = [len(chunk) for chunk in tokens] + [0] * (chunks - len(tokens))
    embeds, pooled = encode(rows, lengths)
    weighting = rules.weighting or weighting
    if weighting != "ignore":

        def weigh(embeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return apply_weights(embeds, weights, lambda: encode(chunk_tokens(tokenizer, [], 1), [0])[0], weighting)

        embeds = weigh(embeds, weights)
        if rules.masks:
            embeds = _blend_light_texts(
                embeds,
                weights,
                lambda row, mask: weigh(encode([rows[row]], lengths[row : row + 1], mask)[0], weights[row : row + 1]),
            )
    embeds = embeds.reshape(1, -1, embeds.shape[-1]).repeat(1, repeats, 1)
    return embeds, None if pooled is None else pooled[:1]


def _blend_light_texts(
    embeds: torch.Tensor, weights: torch.Tensor, encode_masked: Callable[[int, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Blend each row with those that the encoder gives where it does not see a text of weight w < 1.

    A text's own blend has tan((1 - w) * pi / 2) times the weight of the row itself: half and half at w = 0.5.

    Args:
        embeds: (n, L, D), their weights applied.
        weights: (n, L); neighbors of one weight are one text.
        encode_masked: a row and a mask (1, L) to embeddings (1, L, D), their weights applied.

    Source: Compel 2.5, `embeddings_provider.py`, `get_embeddings_for_weighted_prompt_fragments`.
    Differs: a prompt of several chunks is blended chunk by chunk.
    """
    blended = embeds.clone()
    for row in torch.nonzero((weights < 1).any(dim=1)).flatten().tolist():
        total, start = 1.0, 0
        values = weights[row].tolist()
        while start < len(values):
            end = start + 1
            while end < len(values) and values[end] == values[start]:
                end += 1
            if values[start] < 1:
                mask = torch.ones(1, len(values), dtype=torch.long, device=embeds.device)
                mask[:, start:end] = 0
                share = math.tan((1 - max(values[start], _LEAST_WEIGHT)) * math.pi / 2)
                blended[row] += share * encode_masked(row, mask)[0]
                total += share
            start = end
        blended[row] /= total
    return blended


_LEAST_WEIGHT = 1e-5
"""Below it a text is as good as masked: the tangent has no end."""


def encode_t5(
    tokenizer: Tokenizer,
    text_encoder: torch.nn.Module,
    prompt: str,
    max_sequence_length: int,
    weighting: str = DEFAULT_WEIGHTING,
    rules: PromptRules = HERE,
) -> torch.Tensor:
    """Compute a prompt's T5 embeddings, (1, max_sequence_length, D), under its weights; BREAK is a space.

    Text beyond the length is cut off, as the stock pipelines do, and the log says so.

    Raises:
        PromptError: as `encode_clip`.
    """
    weighted = [pair for chunk in parse_by_rules(prompt, rules) for pair in chunk]
    if rules.syntax == "here":
        weighted = parse_weights(prompt)
    tokens = tokenize_weighted(tokenizer, weighted)
    if len(tokens) > max_sequence_length - 1:
        _log.warning("The prompt has %d tokens; T5 reads the first %d.", len(tokens), max_sequence_length - 1)
    device = _find_device(text_encoder)

    def padded(tokens: Tokens) -> Tokens:
        row = [*tokens[: max_sequence_length - 1], (tokenizer.eos_token_id, 1.0)]
        return row + [(tokenizer.pad_token_id, 1.0)] * (max_sequence_length - len(row))

    def encoded(row: Tokens) -> torch.Tensor:
        with torch.no_grad():
            return text_encoder(_stack_ids([row], device))[0]

    row = padded(tokens)
    weights = torch.tensor([[weight for _, weight in row]], device=device)
    weighting = rules.weighting or weighting
    if weighting == "ignore":
        return encoded(row)
    return apply_weights(encoded(row), weights, lambda: encoded(padded([])), weighting)


def _stack_ids(rows: Sequence[Tokens], device: torch.device) -> torch.Tensor:
    return torch.tensor([[token for token, _ in row] for row in rows], device=device)


def _find_device(text_encoder: torch.nn.Module) -> torch.device:
    """Where it computes, also when it is offloaded and its weights lie elsewhere."""
    # Here, since importing diffusers imports PyTorch's compiler: 1.7 of the 8 seconds that the studio took to start.
    return find_execution_device(text_encoder)
