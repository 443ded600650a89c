"""One edit of one pair whose true result is known: the request, the run, and its figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from pipelines.benchmarks.edit_verdicts import is_right
from pipelines.benchmarks.quantization_peak import highest_memory, present_memory, reset_highest_memory
from pipelines.core.errors import MethodFitError, PromptError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request, Traits, Trajectory
from pipelines.edits import EDITS
from pipelines.emoji.captions import on_background
from pipelines.families.latent import LatentFamily
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import TARGET
from pipelines.metrics.classifier import Classifier
from pipelines.metrics.detector import Detector
from pipelines.metrics.lpips import Lpips
from pipelines.metrics.pictures import psnr, ssim
from pipelines.metrics.structure import structure_distance_between
from pipelines.requests.encoding import decode
from pipelines.requests.text_to_image import resolve
from pipelines.training.edits import EditPair, EditPictures
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import EditRequest, Picture
from pipelines.workflows.edit.runs import Editing

__all__ = [
    "INVERTING",
    "Combination",
    "Edited",
    "Judges",
    "Outcome",
    "can_try",
    "combinations",
    "measure",
    "run_edit",
]

SHARING = ("replace", "refine", "masactrl", "plug_and_play")
"""Edits that look at the source's row; which inversion holds it matters less to them than to plain re-prompting."""
INVERTING = ("reprompt", *SHARING)
HOLDING = ("direct", "edict", "ddpm")
"""Inversions whose source row is exact."""
PAIRED = ("infedit", "infedit_control")
"""Edits that draw the source beside the edit, on all models."""
MASKED = ("inpaint", "cyclic")
"""Edits that get the true mask."""
PLACING = ("move", "dragon")
"""Edits that get the object's own mask, and where it goes."""
FLOWING = ("flow_edit", "flow_chef")
"""Edits for flow models alone."""
STYLING = ("style_tracking", "style_aligned")
"""Edits that get a picture that has the style."""
KINDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(PLACING, ("move", "resize")),
    **dict.fromkeys(STYLING, ("style",)),
    "time": ("background",),
    "ledits": ("replace", "background", "add", "remove", "one of two"),
}
"""Edits that are for some kinds only."""


@dataclasses.dataclass(frozen=True)
class Combination:
    """Describes one line of the table: an edit, the inversion that it goes with, and the guidance scale."""

    edit: str
    inversion: str
    guidance: float

    @property
    def label(self) -> str:
        """Name it as the page does."""
        edit = EDITS[self.edit].label
        return f"{edit}, {INVERSIONS[self.inversion].label}" if self.edit in INVERTING else edit


@dataclasses.dataclass(frozen=True)
class Judges:
    """Holds what judges pictures; LPIPS where its weights are."""

    classifier: Classifier
    detector: Detector
    lpips: Lpips | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Holds what one combination made of one pair.

    Attributes:
        kind: of the edit, one of `EDIT_KINDS`.
        is_read: whether the picture shows what it should, as `is_right` says.
        background: PSNR in dB to the source outside the true mask; None where there is none outside.
        truth: PSNR in dB to the true result.
        likeness: SSIM to the true result.
        lpips: to the true result; None without its weights.
        structure: structure distance to the true result.
        reconstruction, reconstruction_ssim: PSNR in dB and SSIM of the source's row to the source; None without one.
        nfe: network evaluations, the inversion's with them.
        seconds: of the processor, the inversion's with them, encoding and decoding too.
        peak: bytes of memory at the most, beyond what was there before.
    """

    kind: str
    is_read: bool
    background: float | None
    truth: float
    likeness: float
    lpips: float | None
    structure: float
    reconstruction: float | None
    reconstruction_ssim: float | None
    nfe: float
    seconds: float
    peak: int


def combinations(scales: Sequence[float], traits: Traits) -> Iterator[Combination]:
    """List what fits a model, at each scale: plain re-prompting with every inversion, edits that share attention with
    three, the others once."""
    for scale in scales:
        for one in _list_all(scale):
            inverts = EDITS[one.edit].build().inverts
            if EDITS[one.edit].fit(traits) is None and not (inverts and INVERSIONS[one.inversion].fit(traits)):
                yield one


def _list_all(scale: float) -> Iterator[Combination]:
    for edit in ("image_to_image", *MASKED, *PAIRED, "dream_sampler", "time", *FLOWING, *PLACING, *STYLING):
        yield Combination(edit, "direct", scale)
    yield Combination("ledits", "ledits", scale)
    for edit in INVERTING:
        for inversion in HOLDING if edit in SHARING else INVERSIONS:
            yield Combination(edit, inversion, scale)


def can_try(one: Combination, kind: str) -> bool:
    """Say whether an edit is for pairs of this kind."""
    return kind in KINDS.get(one.edit, (kind,)) and not (one.edit in MASKED and kind == "style")


def measure(
    family: LatentFamily, judges: Judges, pair: EditPair, pictures: EditPictures, one: Combination, steps: int
) -> Outcome | None:
    """Run one edit at the methods' default settings; None where the edit refuses the prompts.

    Args:
        family: the shipped model.
        judges: of its pictures.
        pair: what is changed.
        pictures: of the pair, at the model's own size.
        one: the methods.
        steps: of the schedule.
    """
    request = build_request(pair, pictures, one, steps)
    reset_highest_memory()
    before, start = present_memory(), time.process_time()
    try:
        edited = run_edit(family, request)
    except (PromptError, MethodFitError):
        return None
    seconds, peak = time.process_time() - start, max(0, highest_memory() - before)
    return _judge(judges, edited.picture, edited.reconstruction, pair, pictures, (edited.nfe, seconds, peak))


@dataclasses.dataclass(frozen=True)
class Edited:
    """Holds the edited picture, the source's reconstruction where the source was inverted, and the evaluations."""

    picture: np.ndarray
    reconstruction: np.ndarray | None
    nfe: float


def run_edit(family: LatentFamily, request: EditRequest) -> Edited:
    """Run one edit from its request to pixels.

    Raises:
        PromptError, MethodFitError: the edit refuses the prompts or the model.
    """
    canvas = canvas_of(request, (request.base.width, request.base.height))
    editing = Editing(request, resolve(request.base, family), family, canvas)
    latents, nfe = _run(editing)
    decoded = decode(family, latents)
    edit = editing.edit
    picture = canvas.paste(decoded[TARGET] if edit.inverts or edit.paired else decoded[0])
    return Edited(picture, decoded[0] if edit.inverts and not edit.takes_reference else None, nfe)


def _judge(
    judges: Judges,
    picture: np.ndarray,
    reconstruction: np.ndarray | None,
    pair: EditPair,
    pictures: EditPictures,
    cost: tuple[float, float, int],
) -> Outcome:
    source, truth = np.asarray(pictures.source), np.asarray(pictures.target)
    outside = np.asarray(pictures.mask) <= 127
    return Outcome(
        pair.kind,
        is_right(judges.classifier, judges.detector, picture, pair, pictures),
        psnr(picture[outside][None], source[outside][None]) if outside.any() else None,
        psnr(picture, truth),
        ssim(picture, truth),
        None if judges.lpips is None else judges.lpips.between(picture, truth),
        structure_distance_between(judges.detector, picture, truth),
        None if reconstruction is None else psnr(reconstruction, source),
        None if reconstruction is None else ssim(reconstruction, source),
        *cost,
    )


def build_request(pair: EditPair, pictures: EditPictures, one: Combination, steps: int) -> EditRequest:
    """Build what a person would ask for who knows what the pair's picture shows, and what it should show."""
    source = np.asarray(pictures.source)
    base = Request(
        prompt=_read_subject(pair) if one.edit == "time" else pair.target_caption,
        num_inference_steps=steps,
        width=source.shape[1],
        height=source.shape[0],
        seed=1,
        guidance=Choice("cfg", {"guidance_scale": one.guidance}),
    )
    mask = pictures.mask if one.edit in MASKED else pictures.object_mask if one.edit in PLACING else None
    return EditRequest(
        base,
        Picture(source),
        None if mask is None else Picture(np.asarray(mask) > 127),
        pair.source_caption,
        Choice(one.inversion),
        Choice(one.edit, _build_settings(one.edit, pair)),
        reference=Picture(np.asarray(pictures.style)) if one.edit in STYLING else None,
    )


def _build_settings(edit: str, pair: EditPair) -> dict[str, object]:
    """What a person has to say besides the prompts."""
    if edit in PLACING:
        before, after = pair.moved
        return {"right": after.x - before.x, "down": after.y - before.y, "scale": after.size / before.size}
    if edit == "ledits":
        gone, come = (
            [item.label for item in scene.objects if item.label not in {other.label for other in others.objects}]
            for scene, others in ((pair.source, pair.target), (pair.target, pair.source))
        )
        if pair.kind == "background":
            gone, come = ([f"{scene.background} background"] for scene in (pair.source, pair.target))
        if pair.kind == "remove":
            come = [pair.target_caption]  # what stays has to be named: see docs/edits.md
        return {"concepts": ", ".join([f"-{label}" for label in gone] + come)}
    if edit == "time":
        return {"concept": _read_subject(pair), "destination": pair.target_caption}
    return {}


def _read_subject(pair: EditPair) -> str:
    """What the target's caption says without its background, which TIME takes as the assumption."""
    return pair.target_caption.removesuffix(on_background(pair.target.background))


def _run(editing: Editing) -> tuple[torch.Tensor, float]:
    """The latents that are pictures at the end, and the evaluations of both ways."""
    trajectory, nfe = None, 0.0
    if editing.edit.inverts:
        up = editing.inversion_run()
        trajectory = Trajectory(up.latents, tuple(denoise(up)))
        nfe = trajectory.steps[-1].evaluations
    with editing.run(trajectory) as run:
        *_, step = denoise(run)
    latents = editing.inversion.visible(step.latents) if editing.edit.inverts else step.latents
    return latents, nfe + step.evaluations
