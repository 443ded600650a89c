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
from pipelines.core.types import Choice, Request, Traits, is_text
from pipelines.core.validation import read_object, require_fields, require_one_picture
from pipelines.edits import EDITS
from pipelines.edits.base import Edit
from pipelines.families.base import Family
from pipelines.families.latent_model import LatentModel
from pipelines.inversions import INVERSIONS
from pipelines.requests.limits import Limits
from pipelines.requests.prompts import require_one_text
from pipelines.requests.refusals import require_made_here, require_uncached

__all__ = ["FITS", "EditRequest", "Picture", "pixels_kept"]

FITS = ("crop", "resize")
"""What is done to a picture of other proportions: its middle is cut out, or it is squeezed."""

_LEAST_KEPT = 2**20
_LEAST_KEPT_WHOLE = 4 * 2**20
"""For a photograph into which its part is put back at its own size."""


def pixels_kept(width: int, height: int) -> int:
    """Say how many pixels of an upload are kept for a picture of this size.

    Twice as many, so that what is cut out of the middle of a photograph is still as fine as the picture; and never less
    than a megapixel, which a person who comes back to the page may want to use at another size.
    """
    return max(_LEAST_KEPT, 2 * width * height)


@dataclasses.dataclass(frozen=True)
class Picture:
    """Describes an uploaded picture or mask.

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
        """Return this picture scaled down to at most so many pixels; itself where it has no more."""
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
    """Holds everything that decides an edit.

    Attributes:
        base: model, the edit's prompt, guidance, steps, schedule, seed and LoRAs; its size is that of the edited
            picture before margins, 0 for the model's own; its sampler counts for edits without inversion.
        picture: the source.
        mask: true where the picture may change, of the picture's own size; None without.
        source_prompt: what the source shows; an inversion is guided by it.
        inversion: a method of the inversion table; counts for edits that invert.
        edit: a method of the edit table.
        fit: "crop" or "resize".
        reference: a picture whose style is taken over; only of edits that take one.
    """

    base: Request
    picture: Picture
    mask: Picture | None = None
    source_prompt: str = ""
    inversion: Choice = Choice("direct")
    edit: Choice = Choice("image_to_image")
    fit: str = "crop"
    reference: Picture | None = None

    @classmethod
    def parse(
        cls,
        values: Mapping[str, object],
        read_request: Callable[[Mapping[str, object]], Request],
        read_picture: Callable[[object], Picture],
        read_mask: Callable[[object], Picture],
    ) -> EditRequest:
        """Read an edit from untrusted plain values.

        Args:
            values: fields of `EditRequest`, those of the base under "base".
            read_request: makes a checked request of plain values.
            read_picture, read_mask: make a picture and a mask of whatever stands for them.

        Raises:
            SettingsError: the first thing that is wrong.
        """
        require_fields(values, [field.name for field in dataclasses.fields(cls)], "an edit")
        plain, source_prompt = read_object(values.get("base", {}), "base of an edit"), values.get("source_prompt", "")
        if not is_text(source_prompt):
            raise SettingsError(f"The source prompt is {str(source_prompt)[:80]!r}. It must be text.")
        if values.get("picture") is None:
            raise PictureError("There is no picture to edit. Upload one, or choose an example.")
        if (fit := values.get("fit", "crop")) not in FITS:
            raise UnknownMethodError("way to fit a picture", fit, FITS)
        mask = None if values.get("mask") is None else read_mask(values["mask"])
        return cls(
            read_request(plain),
            read_picture(values["picture"]),
            mask,
            source_prompt,
            Choice.parse(values.get("inversion", "direct")),
            Choice.parse(values.get("edit", "image_to_image")),
            fit,
            None if values.get("reference") is None else read_picture(values["reference"]),
        )

    def check(self, limits: Limits, traits: Traits | None) -> None:
        """Check everything that can be said without the model.

        Raises:
            SettingsError: the first thing that is wrong, its value, and what to do.
            MethodFitError: a method does not fit the model.
        """
        require_one_picture(self.base.batch_size, "An edit makes one picture")
        require_made_here(self.base, "An edit")
        if self.base.start != Request.start:
            raise SettingsError(
                f"The initialization is {self.base.start.key!r}. An edit starts from its picture: choose noise."
            )
        if len(self.source_prompt) > limits.max_prompt:
            raise PromptError(
                f"The source prompt has {len(self.source_prompt)} characters. At most {limits.max_prompt} are read."
            )
        edit, label = self.build_edit(), EDITS[self.edit.key].label
        EDITS.require(self.edit, traits)
        INVERSIONS.require(self.inversion, traits if edit.inverts else None)
        if edit.inverts or edit.paired:
            what = "Edits that compare the picture with its prompt"
            require_uncached(self.base, "An edit that compares the picture with its prompt")
            require_one_text(self.base.prompt, self.base.negative_prompt, what)
            require_one_text(self.source_prompt, "", what)
            if self.base.guidance.key != "cfg":
                raise MethodFitError(f"{what} need the same guidance at every level: choose Classifier-free guidance.")
        if edit.inverts and edit.inversions and self.inversion.key not in edit.inversions:
            takes = ", ".join(INVERSIONS[key].label for key in edit.inversions)
            raise MethodFitError(
                f"{label} does not go with {INVERSIONS[self.inversion.key].label}. Choose one of: {takes}."
            )
        if edit.needs_source() and not self.source_prompt.strip():
            raise PromptError(f"{label} compares two prompts. Write what the source picture shows.")
        if edit.keeps_prompt and not edit.texts:
            raise PromptError(f"{label} has no concepts. Write what to add, or with a minus take away.")
        edit.require_settings()
        edit.require_prompts(self.source_prompt, self.base.prompt)
        self._check_reference(edit)
        self._check_mask(edit)

    def check_model(self, limits: Limits, family: Family) -> LatentModel:
        """Run `check` against a loaded model, which it returns as one whose network can be patched.

        Raises:
            SettingsError: the first thing that is wrong, its value, and what to do.
            MethodFitError: a method does not fit the model, or the model has no single network.
        """
        self.check(limits, family.traits)
        if not isinstance(family, LatentModel):
            raise MethodFitError(
                f"Models of the {family.key} family have no single denoising network, which an edit needs. Choose "
                "another."
            )
        return family

    def _check_reference(self, edit: Edit) -> None:
        label = EDITS[self.edit.key].label
        if edit.takes_reference and self.reference is None:
            raise PictureError(f"{label} takes over the style of a reference picture. Give one.")
        if self.reference is not None and not edit.takes_reference:
            takers = " or ".join(EDITS[key].label for key in EDITS if EDITS[key].build().takes_reference)
            raise SettingsError(f"{label} takes no reference picture. Leave it out, or choose {takers}.")
        if edit.takes_reference:
            require_one_text(edit.reference_prompt, "", "Edits that compare the picture with its prompt")

    def _check_mask(self, edit: Edit) -> None:
        label = EDITS[self.edit.key].label
        if self.edit.key == "outpaint" and not any(edit.margins):
            raise SettingsError("Outpaint adds no margin. Give at least one side some pixels.")
        if edit.placing is not None and edit.placing.is_neutral:
            raise SettingsError(f"{label} moves nothing. Say how far the object goes, or which size it gets.")
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
        """Build the edit with its settings."""
        return EDITS.build(self.edit)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the pictures by their digest alone."""
        return {
            "base": self.base.to_json(),
            "picture": self.picture.digest,
            "mask": self.mask and self.mask.digest,
            "source_prompt": self.source_prompt,
            "inversion": self.inversion.to_json(),
            "edit": self.edit.to_json(),
            "fit": self.fit,
            **({} if self.reference is None else {"reference": self.reference.digest}),
        }

    def within(self, most: int) -> EditRequest:
        """Return the same with a picture, a mask of its size and a reference of at most so many pixels."""
        mask = self.mask and self.mask.within(most)
        reference = self.reference and self.reference.within(most)
        return self.replace(picture=self.picture.within(most), mask=mask, reference=reference)

    def count_pixels_kept(self, width: int, height: int) -> int:
        """Say how many pixels of the source are kept for a drawn size: of one that is only drawn in part, more."""
        least = _LEAST_KEPT_WHOLE if self.build_edit().is_cropped else 0
        return max(least, pixels_kept(width, height))

    def replace(self, **changes: Any) -> EditRequest:
        """Return a copy with these fields changed."""
        return dataclasses.replace(self, **changes)
