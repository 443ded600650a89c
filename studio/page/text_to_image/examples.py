"""Ready-to-click examples for the shipped model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from studio.ui.form import RANDOM
from studio.ui.styles import NO_STYLE

__all__ = ["EXAMPLES", "Example"]


@dataclasses.dataclass(frozen=True)
class Example:
    """A label to click, and the form's values that it sets; the rest of the model's own settings come with it."""

    label: str
    values: Mapping[str, Any]


def _example(label: str, prompt: str, **values: Any) -> Example:
    plain = {
        "model": "emoji",
        "prompt": prompt,
        "negative_prompt": "",
        "style": NO_STYLE,
        "seed_mode": RANDOM,
        "batch_size": 1,
    }
    return Example(label, {**plain, **values})


EXAMPLES = (
    _example("Fox on blue", "a fox on a blue background"),
    _example("Cat left of a heart", "a cat face left of a red heart on a green background"),
    _example("Four owls", "an owl on a yellow background", batch_size=4),
    _example("Draw one of three", "a {penguin|rocket|birthday cake} on a {pink|teal} background"),
    _example("Six steps, UniPC", "a rocket on a purple background", num_inference_steps=6, sampler="unipc"),
    _example("Duck before a castle, 128", "a duck in front of a castle on a pink background", model="emoji-128"),
    _example("Three strawberries, 128", "three strawberries on a white background", model="emoji-128"),
)
