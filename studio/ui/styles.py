"""Styles: a few words put around a prompt, and what to avoid."""

from __future__ import annotations

import dataclasses
import re

from pipelines.core.errors import UnknownMethodError
from pipelines.emoji.scenes import BACKGROUNDS
from pipelines.models.catalog import SHIPPED_KEYS

__all__ = ["NO_STYLE", "STYLES", "Style", "apply_style", "list_fitting_styles"]

NO_STYLE = "none"
_BACKGROUND = r"\s+on\s+an?\s+\w+\s+background\s*$"


@dataclasses.dataclass(frozen=True)
class Style:
    """Describes one line of the table.

    Attributes:
        key: the stable name.
        label: on the screen.
        prompt: the whole prompt, with {prompt} where the person's words go.
        negative: added to the negative prompt.
        shipped: made for the shipped model's own language; the others are for models that know pictures at large.
        drops: a regular expression of what the style replaces in the person's words.
    """

    key: str
    label: str
    prompt: str = "{prompt}"
    negative: str = ""
    shipped: bool = False
    drops: str = ""


def _build_background(color: str) -> Style:
    article = "an" if color[0] in "aeiou" else "a"
    return Style(
        f"on_{color}", f"On {color}", f"{{prompt}} on {article} {color} background", shipped=True, drops=_BACKGROUND
    )


_PAINTED = "photo, photograph, 3d render"
_DRAWN = "photo, photograph, blurry, noisy"

STYLES: dict[str, Style] = {
    style.key: style
    for style in (
        Style(NO_STYLE, "None", shipped=True),
        *(_build_background(color) for color in BACKGROUNDS),
        Style(
            "photograph",
            "Photograph",
            "{prompt}, photograph, natural light, 50 mm, sharp focus",
            "painting, drawing, cartoon, blurry",
        ),
        Style(
            "cinematic",
            "Cinematic",
            "cinematic still of {prompt}, anamorphic, dramatic light, film grain",
            "cartoon, drawing, flat light",
        ),
        Style("watercolour", "Watercolor", "watercolor painting of {prompt}, soft washes, paper texture", _PAINTED),
        Style("oil", "Oil painting", "oil painting of {prompt}, visible brush strokes, rich color", _PAINTED),
        Style("ink", "Ink drawing", "ink drawing of {prompt}, clean lines, white paper", f"{_DRAWN}, color"),
        Style("pixel", "Pixel art", "pixel art of {prompt}, 16-bit, limited palette", _DRAWN),
        Style("isometric", "Isometric", "isometric illustration of {prompt}, clean shapes, soft shadows", _DRAWN),
        Style(
            "clay", "Clay model", "{prompt} as a clay model, studio light, macro photograph", "flat, drawing, blurry"
        ),
    )
}


def list_fitting_styles(model: str) -> list[Style]:
    """List the styles to offer for a model, in the table's order."""
    return [style for style in STYLES.values() if style.shipped == (model in SHIPPED_KEYS) or style.key == NO_STYLE]


def apply_style(key: str, prompt: str, negative_prompt: str) -> tuple[str, str]:
    """Put a style around the prompt and the negative prompt; an empty prompt stays empty.

    Raises:
        UnknownMethodError: no such style.
    """
    if key not in STYLES:
        raise UnknownMethodError("style", key, STYLES)
    style = STYLES[key]
    if not prompt.strip():
        return prompt, negative_prompt
    words = re.sub(style.drops, "", prompt) if style.drops else prompt
    negative = ", ".join(part for part in (negative_prompt.strip(), style.negative) if part)
    return style.prompt.replace("{prompt}", words.strip()), negative
