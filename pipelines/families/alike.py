"""Conditionings of several prompts that share a batch, whatever their lengths."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.core.prediction import Conditioning
from pipelines.families.base import Family
from pipelines.families.latent_model import LatentModel
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING
from pipelines.prompts.rules import HERE, PromptRules

__all__ = ["encode_alike"]


def encode_alike(
    family: Family | LatentModel,
    pairs: Sequence[tuple[str, str]],
    size: tuple[int, int],
    weighting: str = DEFAULT_WEIGHTING,
    rules: PromptRules = HERE,
) -> list[dict[str, Conditioning]]:
    """Encode pairs of a prompt and a negative prompt, a row each, all of one shape.

    Each pair is encoded as text to image encodes it; only where pairs then differ in shape, since one prompt fills more
    chunks of the text encoder than another, all are encoded together, which fills the shorter ones with empty chunks.

    Args:
        family: the model.
        pairs: prompts and negative prompts.
        size: (width, height) in pixels.
        weighting: what weights do, a key of `WEIGHTINGS`.
        rules: how the texts are read.

    Returns:
        The branches "positive" and "negative" of each pair.

    Raises:
        PromptError: a text's syntax cannot be read.
    """
    encoded = [family.encode_prompts(prompt, negative, 1, size, weighting, rules) for prompt, negative in pairs]
    if len({one.signature for branches in encoded for one in branches.values()}) <= 1:
        return encoded
    texts: dict[str, str] = {}
    for place, (prompt, negative) in enumerate(pairs):
        texts |= {f"positive {place}": prompt, f"negative {place}": negative}
    together = family.encode_texts(texts, 1, size, weighting, rules)
    return [
        {branch: together[f"{branch} {place}"] for branch in ("positive", "negative")} for place in range(len(pairs))
    ]
