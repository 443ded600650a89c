"""Prompts: (word:1.2) weights, text longer than the encoder reads, and the embeddings of both.

A prompt without weights that fits the encoder gives, bit for bit, the stock pipeline's embeddings. The
wildcards that are drawn before all this are in `pipelines.requests.wildcards`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT

__all__ = ["MAX_WEIGHT", "Tokens", "chunk_tokens", "clip_tokens", "encode_clip", "encode_t5", "parse_weights"]

MAX_WEIGHT = 20.0
"""Largest weight of a word, nesting included; beyond it embeddings are noise, and soon not numbers."""

Tokens = list[tuple[int, float]]
"""Token ids with their weights, without the marks of begin and end."""

_PIECES = re.compile(
    r"""
    \\[()\[\]\\] | \\ | [(\[] | :\s*(?P<weight>[+-]?[.\d]+)\s*\) | [)\]] | [^\\()\[\]:]+ | :
""",
    re.VERBOSE,
)

_log = logging.getLogger(__name__)


def parse_weights(text: str) -> list[tuple[str, float]]:
    r"""Split a prompt into texts and their weights.

    (word:1.2) multiplies by 1.2, (word) by 1.1, [word] by 1/1.1, nested ones multiply; \( \) \[ \] \\ are
    literal. A closing bracket without an opening one is literal, an opening one without a closing one acts
    to the end.

    Args:
        text: as typed, at most `MAX_PROMPT` characters.

    Returns:
        At least one pair; neighbors of equal weight are joined.

    Raises:
        PromptError: the text is too long, a weight is no number, or it is larger than `MAX_WEIGHT`.

    Source: AUTOMATIC1111, stable-diffusion-webui wiki, "Attention/emphasis".
    Differs: a weight that is no number is an error here, and BREAK is an ordinary word.
    """
    if len(text) > MAX_PROMPT:
        raise PromptError(f"The prompt has {len(text)} characters. Shorten it to {MAX_PROMPT}.")
    return _joined(_weighted_pieces(text))


def _weighted_pieces(text: str) -> list[list]:
    """The pieces of a prompt as [text, weight]."""
    parts: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor

    for match in _PIECES.finditer(text):
        piece = match.group()
        if piece in opened:
            opened[piece].append(len(parts))
        elif match["weight"] is not None and opened["("]:
            multiply(opened["("].pop(), _weight(match["weight"], piece))
        elif piece == ")" and opened["("]:
            multiply(opened["("].pop(), 1.1)
        elif piece == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / 1.1)
        else:
            parts.append([piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece, 1.0])
    for start in opened["("]:
        multiply(start, 1.1)
    for start in opened["["]:
        multiply(start, 1 / 1.1)
    return parts


def _weight(number: str, piece: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise PromptError(f"The weight in {piece[:40]!r} is not a number. Write it like (word:1.2).") from None


def _joined(parts: Sequence[Sequence]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in parts:
        if not abs(weight) <= MAX_WEIGHT:
            raise PromptError(
                f"The weight of {text[:40]!r} is {weight:.4g}. Keep it between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}."
            )
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined or [("", 1.0)]


def _tokens(tokenizer: Any, prompt: str) -> Tokens:
    """The ids of each weighted text, each tokenized by itself, with its weight."""
    found = []
    for text, weight in parse_weights(prompt):
        ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        found += [(token, weight) for token in ids]
    return found


def clip_tokens(tokenizer: Any, prompt: str) -> tuple[Tokens, int]:
    """The tokens of a prompt, and how many chunks of a CLIP encoder they fill (at least one).

    Raises:
        PromptError: as `parse_weights`.
    """
    tokens = _tokens(tokenizer, prompt)
    return tokens, max(1, -(-len(tokens) // (tokenizer.model_max_length - 2)))


def chunk_tokens(tokenizer: Any, tokens: Tokens, chunks: int) -> list[Tokens]:
    """The tokens in rows as CLIP reads them: begin, at most model_max_length - 2 tokens, end, padding.

    Source: AUTOMATIC1111, stable-diffusion-webui, `sd_hijack_clip.py`, whose practice this is.
    Differs: a chunk is always filled, where theirs may break at a comma.
    """
    length = tokenizer.model_max_length
    rows = []
    for index in range(chunks):
        part = tokens[index * (length - 2) : (index + 1) * (length - 2)]
        row = [(tokenizer.bos_token_id, 1.0), *part, (tokenizer.eos_token_id, 1.0)]
        rows.append(row + [(tokenizer.pad_token_id, 1.0)] * (length - len(row)))
    return rows


def encode_clip(
    tokenizer: Any,
    text_encoder: torch.nn.Module,
    prompt: str,
    chunks: int,
    read: Callable[[Any], tuple[torch.Tensor, torch.Tensor | None]],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A prompt's CLIP embeddings, one chunk after another, and its pooled embedding.

    Each token's embedding is multiplied by its weight, then every chunk is scaled so that its mean is what
    it was, as AUTOMATIC1111 does. Without weights nothing is multiplied.

    Args:
        tokenizer, text_encoder: of one CLIP.
        prompt: with weights.
        chunks: at least as many as the prompt fills; the further ones are those of an empty prompt.
        read: the encoder's output to (embeddings (chunks, L, D), pooled embeddings (chunks, P) or None).

    Returns:
        (1, chunks * L, D), and (1, P) of the first chunk or None.

    Raises:
        PromptError: as `parse_weights`.
    """
    tokens = clip_tokens(tokenizer, prompt)[0]
    rows = chunk_tokens(tokenizer, tokens, chunks)
    device = _device_of(text_encoder)
    ids = torch.tensor([[token for token, _ in row] for row in rows], device=device)
    weights = torch.tensor([[weight for _, weight in row] for row in rows], device=device)
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        room = ids.shape[1] - 2
        read_by_row = torch.tensor([[min(max(len(tokens) - room * row, 0), room) + 2] for row in range(chunks)])
        mask = (torch.arange(ids.shape[1]) < read_by_row).long().to(device)
    with torch.no_grad():
        embeds, pooled = read(text_encoder(ids, attention_mask=mask, output_hidden_states=True))
    embeds = _weighted_keeping_mean(embeds, weights)
    return embeds.reshape(1, -1, embeds.shape[-1]), None if pooled is None else pooled[:1]


def _weighted_keeping_mean(embeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Embeddings (n, L, D) times weights (n, L), each of the n rows with its mean restored."""
    if bool((weights == 1).all()):
        return embeds
    full = embeds.float()
    scaled = full * weights[..., None]
    before, after = full.mean(dim=(1, 2), keepdim=True), scaled.mean(dim=(1, 2), keepdim=True)
    # A row whose mean vanishes has no mean to restore.
    ratio = torch.where(after.abs() > 1e-6, before / after, torch.ones_like(after))
    touched = (weights != 1).any(dim=1)[:, None, None]
    return torch.where(touched, (scaled * ratio).to(embeds.dtype), embeds)


def encode_t5(tokenizer: Any, text_encoder: torch.nn.Module, prompt: str, max_sequence_length: int) -> torch.Tensor:
    """A prompt's T5 embeddings, (1, max_sequence_length, D), each token's multiplied by its weight.

    T5's embeddings have no common mean that would have to be kept. Text beyond the length is cut off, as the
    stock pipelines do, and the log says so.

    Raises:
        PromptError: as `parse_weights`.
    """
    tokens = _tokens(tokenizer, prompt)
    if len(tokens) > max_sequence_length - 1:
        _log.warning("The prompt has %d tokens; T5 reads the first %d.", len(tokens), max_sequence_length - 1)
    row = [*tokens[: max_sequence_length - 1], (tokenizer.eos_token_id, 1.0)]
    row += [(tokenizer.pad_token_id, 1.0)] * (max_sequence_length - len(row))
    device = _device_of(text_encoder)
    weights = torch.tensor([[weight for _, weight in row]], device=device)
    with torch.no_grad():
        embeds = text_encoder(torch.tensor([[token for token, _ in row]], device=device))[0]
    return embeds if bool((weights == 1).all()) else (embeds.float() * weights[..., None]).to(embeds.dtype)


def _device_of(text_encoder: Any) -> torch.device:
    """Where it computes, also when it is offloaded and its weights lie elsewhere."""
    # Here, since importing diffusers imports PyTorch's compiler: 1.7 of the 8 seconds that the studio took to start.
    from diffusers.utils.torch_utils import get_module_execution_device

    return get_module_execution_device(text_encoder)
