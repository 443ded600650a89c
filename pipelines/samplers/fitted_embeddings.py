"""What a fitted solver adds to the embeddings of its prompts: for every step and branch, one vector for all tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pipelines.denoiser import Conditioning
from pipelines.errors import SettingsError

__all__ = ["Offsets", "embeds_of", "moved"]

_EMBEDS = "prompt_embeds"
"""The tensor of every family's conditioning that the network's cross-attention reads, (B, L, D)."""


def embeds_of(conditioning: Conditioning, width: int = 0) -> torch.Tensor:
    """(B, L, D): the embeddings of the prompts.

    Args:
        width: D as it has to be; 0 for any.

    Raises:
        SettingsError: there are none, or they are of another width.
    """
    embeds = conditioning.tensors.get(_EMBEDS)
    if embeds is None or width not in (0, embeds.shape[-1]):
        has = f"embeddings of {embeds.shape[-1]} numbers a token" if embeds is not None else "no embeddings of a prompt"
        raise SettingsError(f"This run has {has}, and what is added to them has {width or 'to be fitted'}. "
                            "Choose another schedule, or fit one without embeddings.")
    return embeds


def moved(conditioning: Conditioning, by: torch.Tensor) -> Conditioning:
    """The conditioning with (D,) added to the embedding of every token.

    Raises:
        SettingsError: its embeddings are of another width, or there are none.
    """
    embeds = embeds_of(conditioning, len(by))
    return Conditioning({**conditioning.tensors, _EMBEDS: embeds + by.to(embeds)})


class Offsets:
    """One step's offsets, which `Query.conditioning` asks for.

    Args:
        names: of the branches that the step evaluates.
        vectors: D numbers for each.

    Source: an embedding of each step's own in the empty prompt's place is null-text inversion (Mokady et al.,
    arXiv:2211.09794, section 3.2), there optimised for one picture.
    Differs: it is added to whatever the prompts are, in both branches, and is fitted to the ends of many runs at once; one
    vector for all tokens, so that a prompt may be of any length.
    """

    def __init__(self, names: Sequence[str], vectors: Sequence[Sequence[float]]):
        self.vectors = {name: torch.tensor(vector) for name, vector in zip(names, vectors, strict=True)}

    def __call__(self, name: str, conditionings: Mapping[str, Conditioning]) -> Conditioning:
        return moved(conditionings[name], self.vectors[name])
