"""Editing a picture: what a person asks for, and the picture and mask as the model takes them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipelines.core.errors import MethodFitError, PictureError, PromptError, SettingsError, UnknownMethodError
from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice, Request, Traits, is_text
from pipelines.edits import EDITS
from pipelines.edits.base import Edit
from pipelines.families.base import Family, LatentModel
from pipelines.inversions import INVERSIONS
from pipelines.requests.limits import Limits

__all__ = ["FITS", "Canvas", "EditRequest", "Picture", "canvas_of", "pixels_kept"]

FITS = ("crop", "resize")
"""What is done to a picture of other proportions: its middle is cut out, or it is squeezed."""

_LEAST_KEPT = 2**20


def pixels_kept(width: int, height: int) -> int:
    """How many pixels of an upload are kept for a picture of this size.

    Twice as many, so that what is cut out of the middle of a photograph is still as fine as the picture; and never less
    than a megapixel, which a person who comes back to the page may want to use at another size.
    """
    return max(_LEAST_KEPT, 2 * width * height)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An uploaded picture or mask.

    Attributes:
        pixels: (H, W, 3) uint8, or (H, W) bool for a mask.
        notes: sentences for the person about how it was read.
        digest: of the pixels; two pictures of one digest are equal.
    """

    pixels: np.ndarray = dataclasses.field(compare=False)
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    digest: str = ""

    def __post_init__(self) -> None:
        shape = repr((self.pixels.shape, self.pixels.dtype.str)).encode()
        object.__setattr__(
            self, "digest", hashlib.sha256(shape + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()
        )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def within(self, most: int) -> Picture:
        """This picture scaled down to at most so many pixels; itself where it has no more."""
        width, height = self.size
        if width * height <= most:
            return self
        scale = math.sqrt(most / (width * height))
        size = max(1, int(width * scale)), max(1, int(height * scale))
        if self.pixels.dtype == bool:
            shares = Image.fromarray(self.pixels.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
            return Picture(np.asarray(shares) >= 128, self.notes)
        note = f"The picture of {width} × {height} pixels was scaled to {size[0]} × {size[1]}."
        scaled = Image.fromarray(self.pixels).resize(size, Image.Resampling.LANCZOS)
        return Picture(np.asarray(scaled), (*self.notes, note))


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """Everything that decides an edit.

    Attributes:
        base: model, the edit's prompt, guidance, steps, schedule, seed and LoRAs; its size is that of the edited
            picture before margins, 0 for the model's own; its sampler counts for edits without inversion.
        picture: the source.
        mask: true where the picture may change, of the picture's own size; None without.
        source_prompt: what the source shows; an inversion is guided by it.
        inversion: a method of the inversion table; counts for edits that invert.
        edit: a method of the edit table.
        fit: "crop" or "resize".
    """

    base: Request
    picture: Picture
    mask: Picture | None = None
    source_prompt: str = ""
    inversion: Choice = Choice("direct")
    edit: Choice = Choice("image_to_image")
    fit: str = "crop"

    @classmethod
    def parse(
        cls,
        values: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], Request],
        read_picture: Callable[[Any], Picture],
        read_mask: Callable[[Any], Picture],
    ) -> EditRequest:
        """From untrusted plain values.

        Args:
            values: fields of `EditRequest`, those of the base under "base".
            read: makes a checked request of plain values.
            read_picture, read_mask: make a picture and a mask of whatever stands for them.

        Raises:
            SettingsError: the first thing that is wrong.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in values if name not in names]:
            raise UnknownMethodError("setting of an edit", unknown[0], names)
        plain, source_prompt = values.get("base", {}), values.get("source_prompt", "")
        if not isinstance(plain, Mapping):
            raise SettingsError(f"The base of an edit is given as {str(plain)[:80]!r}. Give an object of settings.")
        if not is_text(source_prompt):
            raise SettingsError(f"The source prompt is {str(source_prompt)[:80]!r}. It must be text.")
        if values.get("picture") is None:
            raise PictureError("There is no picture to edit. Upload one, or choose an example.")
        if (fit := values.get("fit", "crop")) not in FITS:
            raise UnknownMethodError("way to fit a picture", fit, FITS)
        mask = None if values.get("mask") is None else read_mask(values["mask"])
        return cls(
            read(plain),
            read_picture(values["picture"]),
            mask,
            source_prompt,
            Choice.parse(values.get("inversion", "direct")),
            Choice.parse(values.get("edit", "image_to_image")),
            fit,
        )

    def check(self, limits: Limits, traits: Traits | None) -> None:
        """Everything that can be said without the model.

        Raises:
            SettingsError: the first thing that is wrong, its value, and what to do.
            MethodFitError: a method does not fit the model.
        """
        if self.base.batch_size != 1:
            raise SettingsError(f"The batch size is {self.base.batch_size}. An edit makes one picture: choose 1.")
        if self.base.start != Request.start:
            raise SettingsError(f"The start is {self.base.start.key!r}. An edit starts from its picture: choose noise.")
        if len(self.source_prompt) > limits.max_prompt:
            raise PromptError(
                f"The source prompt has {len(self.source_prompt)} characters. At most {limits.max_prompt} are read."
            )
        edit, inversion = self.build_edit(), INVERSIONS[self.inversion.key]
        parse_settings(inversion.settings, self.inversion.settings, inversion.label)
        methods = [EDITS[self.edit.key], *([inversion] if edit.inverts else [])]
        for method in methods if traits else ():
            method.require_fit(traits)
        if edit.needs_source() and not self.source_prompt.strip():
            raise PromptError(
                f"{EDITS[self.edit.key].label} compares two prompts. Write what the source picture shows."
            )
        self._check_mask(edit)

    def check_model(self, limits: Limits, family: Family) -> LatentModel:
        """`check` against a loaded model, which it returns as one whose network can be dressed.

        Raises:
            SettingsError: the first thing that is wrong, its value, and what to do.
            MethodFitError: a method does not fit the model, or the model has no single network.
        """
        self.check(limits, family.traits)
        if not isinstance(family, LatentModel):
            raise MethodFitError(
                f"Models of the {family.key} family have no single denoising network, which an edit needs. Choose another."
            )
        return family

    def _check_mask(self, edit: Edit) -> None:
        label = EDITS[self.edit.key].label
        if self.edit.key == "outpaint" and not any(edit.margins):
            raise SettingsError("Outpaint adds no margin. Give at least one side some pixels.")
        if self.mask is None:
            if edit.masked:
                raise SettingsError(f"{label} needs a mask. Draw over what should change.")
            return
        if self.mask.size != self.picture.size:
            raise SettingsError(
                f"The mask has {self.mask.size[0]} × {self.mask.size[1]} pixels and the picture "
                f"{self.picture.size[0]} × {self.picture.size[1]}. Give a mask of the picture's size."
            )
        if not self.mask.pixels.any():
            raise SettingsError("The mask is empty, so nothing may change. Draw over what should change.")
        if self.mask.pixels.all():
            raise SettingsError(
                "The mask covers the whole picture, so nothing is kept. Leave something out, or choose Image to image."
            )

    def build_edit(self) -> Edit:
        """The edit with its settings."""
        return EDITS[self.edit.key].build(self.edit.settings)

    def to_json(self) -> dict[str, Any]:
        """Plain values; picture and mask by their digest alone."""
        return {
            "base": self.base.to_json(),
            "picture": self.picture.digest,
            "mask": self.mask and self.mask.digest,
            "source_prompt": self.source_prompt,
            "inversion": self.inversion.to_json(),
            "edit": self.edit.to_json(),
            "fit": self.fit,
        }

    def within(self, most: int) -> EditRequest:
        """The same with a picture, and a mask of its size, of at most so many pixels."""
        mask = self.mask and self.mask.within(most)
        return self.replace(picture=self.picture.within(most), mask=mask)

    def replace(self, **changes: Any) -> EditRequest:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The picture as the model edits it.

    Attributes:
        pixels: (H, W, 3) uint8, of the size that is drawn, margins filled with the edge's colors.
        mask: (H, W) bool, true where it may change; None without.
        notes: what was done to the picture to get here, as sentences.
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def canvas_of(request: EditRequest, size: tuple[int, int]) -> Canvas:
    """The source brought to the model's size, its mask with it, and margins added.

    Args:
        request: with picture and mask.
        size: (width, height) in pixels, without margins.

    Raises:
        SettingsError: nothing or everything is left in the mask at this size.
    """
    notes = list(request.picture.notes)
    pixels, note = _fitted(request.picture.pixels, size, request.fit)
    mask = None
    if request.mask is not None:
        mask = _fitted(request.mask.pixels.astype(np.uint8) * 255, size, request.fit)[0] >= 64
        if not mask.any() or mask.all():
            left = "nothing" if not mask.any() else "the whole picture"
            raise SettingsError(
                f"At {size[0]} × {size[1]} pixels {left} lies under the mask. Draw it anew, or choose another fit."
            )
    notes += [note] if note else []
    left, top, right, bottom = request.build_edit().margins
    if any((left, top, right, bottom)):
        sides = ((top, bottom), (left, right))
        pixels = np.pad(pixels, (*sides, (0, 0)), mode="edge")
        mask = np.pad(np.zeros(size[::-1], bool) if mask is None else mask, sides, constant_values=True)
    return Canvas(pixels, mask, tuple(notes))


def _fitted(pixels: np.ndarray, size: tuple[int, int], fit: str) -> tuple[np.ndarray, str]:
    """Pixels of exactly this size, and a sentence on how; "" where they had it already."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels, ""
    box, how = (0.0, 0.0, float(width), float(height)), "scaled"
    if width * size[1] != height * size[0]:
        if fit == "crop":
            scale = min(width / size[0], height / size[1])
            spare = (width - scale * size[0]) / 2, (height - scale * size[1]) / 2
            box, how = (spare[0], spare[1], width - spare[0], height - spare[1]), "cut to its middle and scaled"
        else:
            how = "squeezed"
    resized = Image.fromarray(pixels).resize(
        size, Image.Resampling.LANCZOS if pixels.ndim == 3 else Image.Resampling.BOX, box=box
    )
    return np.asarray(resized), f"The picture of {width} × {height} pixels was {how} to {size[0]} × {size[1]}."
