"""Attention to two texts at once: a network whose layers lead away from what they see in the negative prompt."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines.core.prediction import Conditioning, Network
from pipelines.guidance.attention_watch import cross_attentions
from pipelines.guidance.perturbations import find_network

__all__ = ["AttentionPairs", "bound_in_length", "join_texts"]

_TEXT = "prompt_embeds"


def join_texts(positive: Conditioning, negative: Conditioning) -> Conditioning:
    """Put the negative prompt's tokens behind the prompt's.

    Args:
        positive, negative: with "prompt_embeds" (B, L, D).

    Returns:
        The positive one, its "prompt_embeds" (B, 2 L, D).
    """
    texts = torch.cat([positive.tensors[_TEXT], negative.tensors[_TEXT].to(positive.tensors[_TEXT])], dim=1)
    return Conditioning({**positive.tensors, _TEXT: texts})


def bound_in_length(guided: torch.Tensor, positive: torch.Tensor, longest: float) -> torch.Tensor:
    """Shorten each token of `guided` to at most `longest` times the L1 norm of the positive one.

    Args:
        guided, positive: (..., D).
        longest: 0 for no limit.

    Source: Chen et al., Normalized attention guidance, arXiv:2505.21179, its normalization.
    """
    if not longest:
        return guided
    length = positive.abs().sum(-1, keepdim=True).clamp(min=1e-12)
    ratio = guided.abs().sum(-1, keepdim=True) / length
    return torch.where(ratio > longest, guided * (longest / ratio.clamp(min=1e-12)), guided)


@dataclasses.dataclass(frozen=True)
class AttentionPairs:
    """Lets each layer that sees the text see two, and combines what it says of them for the picture.

    With Z+ and Z- the attention to the prompt and to the negative prompt, before the layer's output projection, the
    picture gets (1 - blend) Z+ + blend bound(Z+ + push Z+ - pull Z-). The layer's own processor runs twice.

    Attributes:
        push, pull: factors of the prompt's and of the negative prompt's attention.
        longest: of a token's L1 norm, in those of Z+; 0 for no limit.
        blend: share of the guided attention.
    """

    push: float
    pull: float
    longest: float = 0.0
    blend: float = 1.0

    @contextlib.contextmanager
    def applied(self, network: Network) -> Iterator[None]:
        module: Any = find_network(network)
        layers = _cross_layers(module)
        text = _TextLength()
        processors = [(layer, layer.processor) for layer in layers]
        handle = None
        try:
            if hasattr(module, "transformer_blocks"):
                handle = module.context_embedder.register_forward_pre_hook(text.note)
            for layer, processor in processors:
                layer.set_processor(_Pair(self, processor, text))
            yield
        finally:
            for layer, processor in processors:
                layer.set_processor(processor)
            if handle is not None:
                handle.remove()

    def combine(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """Combine the attention to both texts, (R, L, D) each."""
        guided = bound_in_length(positive + self.push * positive - self.pull * negative, positive, self.longest)
        return guided if self.blend == 1 else self.blend * guided + (1 - self.blend) * positive


def _cross_layers(module: torch.nn.Module) -> list[Any]:
    """The layers whose queries are the picture's and whose keys are, or are also, the text's."""
    if hasattr(module, "transformer_blocks"):
        network: Any = module
        blocks = [*network.transformer_blocks, *getattr(network, "single_transformer_blocks", ())]
        return [block.attn for block in blocks]
    return cross_attentions(module)


class _TextLength:
    """How many tokens each of the two texts has in the present evaluation of a transformer."""

    def __init__(self) -> None:
        self.tokens = 0

    def note(self, _: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        self.tokens = arguments[0].shape[1] // 2


class _Pair:
    """A processor that runs a layer's own one for each of the two texts."""

    def __init__(self, pairs: AttentionPairs, processor: Callable[..., Any], text: _TextLength):
        self._pairs, self._processor, self._text = pairs, processor, text

    def __call__(
        self,
        attn: object,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, ...] | None = None,
        **keywords: object,
    ) -> Any:
        keywords["attention_mask"] = attention_mask
        if encoder_hidden_states is None:
            return self._run_one_stream(attn, hidden_states, image_rotary_emb, keywords)
        tokens, outputs = encoder_hidden_states.shape[1] // 2, []
        with _without_projection(attn):
            for place, text in enumerate(encoder_hidden_states.split(tokens, dim=1)):
                chosen = keywords | _choose_angles(image_rotary_emb, tokens, place)
                outputs.append(self._processor(attn, hidden_states, text, **chosen))
        if isinstance(outputs[0], torch.Tensor):
            return _project(attn, self._pairs.combine(outputs[0], outputs[1]))
        (positive, text), (negative, negative_text) = outputs
        return _project(attn, self._pairs.combine(positive, negative)), torch.cat([text, negative_text], dim=1)

    def _run_one_stream(
        self, attn: object, hidden: torch.Tensor, angles: Any, keywords: dict[str, Any]
    ) -> torch.Tensor:
        """Tokens of both texts and the picture in one row, as in FLUX's single blocks, which project later."""
        tokens = self._text.tokens
        texts, picture = hidden[:, : 2 * tokens].split(tokens, dim=1), hidden[:, 2 * tokens :]
        outputs = []
        for place, text in enumerate(texts):
            chosen = keywords | _choose_angles(angles, tokens, place)
            outputs.append(self._processor(attn, torch.cat([text, picture], dim=1), **chosen))
        combined = self._pairs.combine(outputs[0][:, tokens:], outputs[1][:, tokens:])
        return torch.cat([*(output[:, :tokens] for output in outputs), combined], dim=1)


def _choose_angles(angles: tuple[torch.Tensor, ...] | None, tokens: int, place: int) -> dict[str, Any]:
    """The rotary embedding of one of the texts and of the picture, where there is one."""
    if angles is None:
        return {}
    start = place * tokens
    chosen = tuple(torch.cat([one[start : start + tokens], one[2 * tokens :]]) for one in angles)
    return {"image_rotary_emb": chosen}


@contextlib.contextmanager
def _without_projection(attn: Any) -> Iterator[None]:
    """Let the layer return the picture's attention before its output projection."""
    projection = attn.to_out[0]
    projection.__dict__["forward"] = lambda hidden, *_, **__: hidden
    try:
        yield
    finally:
        del projection.__dict__["forward"]


def _project(attn: Any, hidden: torch.Tensor) -> Any:
    return attn.to_out[1](attn.to_out[0](hidden))
