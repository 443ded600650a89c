"""Textual inversion: new words whose vectors stand in a file, put before a text encoder for one prompt.

Source: Gal et al., An image is worth one word, arXiv:2208.01618.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import PromptError

if TYPE_CHECKING:
    import torch

    from pipelines.weights.tokenizer import Tokenizer

__all__ = ["EmbeddingTokenizer", "applied_embeddings", "named_embeddings"]

_LEGACY_END = 2
_NAMED = re.compile(r"embedding:\s*(?P<name>[^\s,:()\[\]|<>]+)", re.IGNORECASE)


def named_embeddings(text: str, embeddings: Mapping[str, object], bare: Collection[str]) -> list[str]:
    """Return the keys of the embeddings that a prompt names, as `embedding:name` or, as in AUTOMATIC1111, by the bare
    name.

    Args:
        text: of the prompt.
        embeddings: embeddings by key.
        bare: keys of those that are found by their bare name.

    Raises:
        PromptError: `embedding:name` names none that is there.
    """
    keys = []
    for match in _NAMED.finditer(text):
        key = _find_key(match["name"], embeddings)
        if key is None:
            whole = [name for name, source in embeddings.items() if not getattr(source, "problem", "")]
            choices = ", ".join(whole[:8]) or "none"
            raise PromptError(
                f"The prompt names the embedding {match['name'][:60]!r}, which is not in the models folder. "
                f"Choose one of: {choices}."
            )
        keys.append(key)
    rest = _NAMED.sub(" ", text).lower()
    keys += [key for key in bare if re.search(rf"(?<![\w.-]){re.escape(key.lower())}(?![\w.-])", rest)]
    return list(dict.fromkeys(keys))


def _find_key(name: str, embeddings: Mapping[str, object]) -> str | None:
    """A file's name may be written with its suffix, and is found in any case."""
    spellings = {name.lower(), re.sub(r"\.(?:safetensors|pt|bin)$", "", name.lower()), name.lower().rstrip(".")}
    return next((key for key in embeddings if key.lower() in spellings), None)


class EmbeddingTokenizer:
    """A tokenizer that knows some more words; everything else is the tokenizer it stands for.

    Args:
        tokenizer: of a CLIP.
        words: name to its new ids.
    """

    def __init__(self, tokenizer: Tokenizer, words: Mapping[str, Sequence[int]]):
        self._tokenizer, self._words = tokenizer, {name.lower(): list(ids) for name, ids in words.items()}
        names = "|".join(re.escape(name) for name in sorted(self._words, key=len, reverse=True))
        self._pattern = re.compile(
            rf"(?:embedding:\s*|(?<![\w.-]))({names})(?:\.(?:safetensors|pt|bin))?(?![\w-])", re.IGNORECASE
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str, **options: Any) -> Any:
        if options.get("add_special_tokens", True):
            raise ValueError("the marks of begin and end are added by the caller")
        encoded = self._tokenizer("", **options)
        ids: list[int] = []
        for index, piece in enumerate(self._pattern.split(text)):
            if index % 2:
                ids += self._words[piece.lower()]
            elif piece:
                ids += self._tokenizer(piece, **options).input_ids
        encoded["input_ids"] = ids
        return encoded


@dataclasses.dataclass(frozen=True)
class _Place:
    """A tokenizer and its encoder, and which vectors of an embedding are its own.

    Without vectors for a T5 the word is read as it is written; a CLIP needs them.
    """

    tokenizer: str
    encoder: str
    part: str
    required: bool = True


def _list_places(components: Mapping[str, Any]) -> list[_Place]:
    """CLIP encoders in their order are clip_l and clip_g; SD2's only one is recognized by its width alone."""
    places = []
    for suffix, part in (("", "clip_l"), ("_2", "clip_g"), ("_3", "t5")):
        encoder = components.get(f"text_encoder{suffix}")
        if encoder is not None:
            is_clip = hasattr(encoder.config, "projection_dim")
            clip_part = part if is_clip else "t5"
            places.append(_Place(f"tokenizer{suffix}", f"text_encoder{suffix}", clip_part, required=is_clip))
    return places


@contextlib.contextmanager
def applied_embeddings(
    components: Mapping[str, Any], embeddings: Mapping[str, Mapping[str, torch.Tensor]]
) -> Iterator[dict[str, Any]]:
    """Provide the model with new words while the context lasts.

    Args:
        components: of the model; the text encoders' tables of words are longer inside and as they were behind.
        embeddings: name to vectors by part, as `read_embedding` gives them.

    Yields:
        The components that replace the model's own: tokenizers that know the words.

    Raises:
        PromptError: an embedding belongs to another model.
    """
    import torch

    from pipelines.weights.patching import replaced_weights

    replaced: dict[str, Any] = {}
    changes, ends = [], []
    for place in _list_places(components):
        table = components[place.encoder].get_input_embeddings().weight
        rows, words, count = [], {}, len(table)
        for name, parts in embeddings.items():
            if place.part not in parts and not place.required:
                plain = components[place.tokenizer](name, add_special_tokens=False, truncation=False, verbose=False)
                words[name] = plain.input_ids
                continue
            vectors = _require_vectors(name, parts, place.part, table.shape[1])
            words[name] = range(count, count + len(vectors))
            rows.append(vectors)
            count += len(vectors)
        replaced[place.tokenizer] = EmbeddingTokenizer(components[place.tokenizer], words)
        if rows:
            new_rows = torch.cat(rows)
            changes.append((table, lambda data, new_rows=new_rows: torch.cat([data, new_rows.to(data)])))
            if place.required:
                ends.append((components[place.encoder], components[place.tokenizer].eos_token_id))
    with replaced_weights(changes), _pooled_at_the_end(ends):
        yield replaced


@contextlib.contextmanager
def _pooled_at_the_end(encoders: Sequence[tuple[torch.nn.Module, int]]) -> Iterator[None]:
    """Have CLIPs pool at their end token while the context lasts.

    The published configurations of Stable Diffusion say that the end is token 2. transformers knows them by that and
    pools at the greatest id instead, which is the end until a prompt has a new word.

    Args:
        encoders: each with the id of its tokenizer's end token.
    """
    changed = []
    for encoder, end in encoders:
        for module in encoder.modules():
            if getattr(module, "eos_token_id", None) == _LEGACY_END:
                module.eos_token_id = end  # type: ignore[assignment]
                changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            module.eos_token_id = _LEGACY_END  # type: ignore[assignment]


def _require_vectors(name: str, parts: Mapping[str, torch.Tensor], part: str, width: int) -> torch.Tensor:
    vectors = parts.get(part)
    if vectors is None:
        raise PromptError(
            f"The embedding {name!r} has no vectors for this model's {part} text encoder: it was made for another "
            "model. Take it out of the prompt, or choose its own model."
        )
    if vectors.shape[1] != width:
        raise PromptError(
            f"The embedding {name!r} has vectors of width {vectors.shape[1]}, this model's text encoder reads {width}: "
            "it was made for another model. Take it out of the prompt, or choose its own model."
        )
    return vectors
