"""A picture's colors as sRGB with eight bits a channel, which is what every model here was trained on."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

__all__ = ["LEFT_OUT", "convert_to_eight_bits", "to_srgb"]

LEFT_OUT = "The picture's color profile could not be used, so its colors may look a little different."
"""Said of a damaged profile, and of one for another kind of picture."""

_LARGEST_PROFILE = 4 * 2**20
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(picture: Image.Image) -> tuple[Image.Image, str]:
    """Return the picture with its embedded color profile applied, and without the profile.

    Args:
        picture: of 8 bits a channel, any mode.

    Returns:
        The same picture where it has no profile; otherwise a copy without it, in gray, in RGB, or in either with alpha,
        whose pixels are sRGB's, or as they were where the profile is sRGB's own or cannot be used. A sentence for the
        person in the last case, else "".
    """
    data = picture.info.get("icc_profile")
    if not data:
        return picture, ""
    picture_without_profile = picture.copy()
    del picture_without_profile.info["icc_profile"]
    try:
        transformed = _apply_profile(picture_without_profile, data)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture_without_profile, LEFT_OUT
    transformed.info = dict(picture_without_profile.info)
    return transformed, ""


def _apply_profile(picture: Image.Image, data: bytes) -> Image.Image:
    if len(data) > _LARGEST_PROFILE:
        raise ValueError("too large")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    channels = {"L": "L", "LA": "L", "La": "L", "1": "L", "CMYK": "CMYK"}.get(picture.mode, "RGB")
    colors = picture.convert(channels)
    mode = _SPACES.get(profile.profile.xcolor_space.strip())
    if mode != colors.mode:
        if colors.mode == "L" and mode == "RGB":
            return picture  # grays are the same in every space of three primaries, up to its tone curve
        raise ValueError("for another kind of picture")
    if mode == "RGB" and _is_srgb(data):
        return picture
    result = colors.point(_compute_gray_curve(data)) if mode == "L" else _transform(data, mode).apply(colors)
    if alpha is not None:
        result.putalpha(alpha)
    return result


@functools.lru_cache(maxsize=4)
def _transform(data: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(data)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | (ImageCms.Flags.NOOPTIMIZE if mode == "L" else 0),
    )


def _compute_gray_curve(data: bytes) -> list[int]:
    """What the profile makes of each of the 256 grays; optimized, lcms would interpolate between 33 of them."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return np.asarray(_transform(data, "L").apply(ramp))[0, :, 1].tolist()


def _is_srgb(data: bytes) -> bool:
    """Whether the profile moves no color by more than rounding does."""
    sides = np.linspace(0, 255, 17).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(sides, sides, sides, indexing="ij"), axis=-1).reshape(17, 289, 3)
    transformed = np.asarray(_transform(data, "RGB").apply(Image.fromarray(lattice)))
    return int(np.abs(transformed.astype(int) - lattice).max()) <= 1


def convert_to_eight_bits(picture: Image.Image) -> Image.Image:
    """Scale a gray picture of 16 bits to 8, which `convert` would clip; any other as it is."""
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64).clip(0, 65535)
    result = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    transparent = picture.info.get("transparency")
    result.info = {name: value for name, value in picture.info.items() if name != "transparency"}
    if isinstance(transparent, int):
        result.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return result
