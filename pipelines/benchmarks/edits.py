"""`python -m pipelines.benchmark edits`: every inversion with every edit, on pairs whose true result is known.

The pairs are drawn by the generator of the shipped model's data: a picture, what is to change, and the true picture in
which all else is equal. Nothing is masked but for inpainting, which gets the true mask.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pipelines.core.errors import MethodFitError, PromptError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request, Trajectory
from pipelines.edits import EDITS
from pipelines.emoji.objects import Catalog as Objects
from pipelines.emoji.objects import shipped_catalog
from pipelines.families.latent import LatentFamily
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import TARGET
from pipelines.metrics.classifier import Classifier, load_classifier
from pipelines.metrics.pictures import psnr
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import decode, resolve
from pipelines.training.edits import EDIT_KINDS, EditPair, EditPictures, edit_pairs, render_edit
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import EditRequest, Picture
from pipelines.workflows.edit.runs import Editing

__all__ = ["Combination", "Outcome", "combinations", "main", "measure", "write_table"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "edits.md"
FIRST_SEED = 47
_MEMORY = 2**31
_SHARING = ("replace", "refine", "masactrl")
"""Edits that look at the source's row; which inversion holds it matters less to them than to plain re-prompting."""
_INVERTING = ("reprompt", *_SHARING)
_HOLDING = ("direct", "edict", "ddpm")
"""Inversions whose source row is exact."""


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
        return f"{edit}, {INVERSIONS[self.inversion].label}" if self.edit in _INVERTING else edit


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Holds what one combination made of one pair.

    Attributes:
        kind: of the edit, one of `EDIT_KINDS`.
        is_read: whether the classifier reads the target's objects, their order and its background.
        background: PSNR in dB to the source outside the true mask; None where there is none outside.
        truth: PSNR in dB to the true result.
        reconstruction: PSNR in dB of the source's row to the source; None without one.
        nfe: network evaluations, the inversion's with them.
        seconds: the inversion's with them, encoding and decoding too.
    """

    kind: str
    is_read: bool
    background: float | None
    truth: float
    reconstruction: float | None
    nfe: float
    seconds: float


def combinations(scales: Sequence[float]) -> Iterator[Combination]:
    """List what fits the shipped model, at each scale: plain re-prompting with every inversion, edits that share
    attention with three, the others once."""
    for scale in scales:
        for edit in ("image_to_image", "inpaint", "infedit"):
            yield Combination(edit, "direct", scale)
        for edit in _INVERTING:
            for inversion in _HOLDING if edit in _SHARING else INVERSIONS:
                yield Combination(edit, inversion, scale)


def measure(
    family: LatentFamily, classifier: Classifier, pair: EditPair, pictures: EditPictures, one: Combination, steps: int
) -> Outcome | None:
    """Run one edit at the methods' default settings; None where the edit refuses the prompts.

    Args:
        family: the shipped model.
        classifier: reads its pictures.
        pair: what is changed.
        pictures: of the pair, at the model's own size.
        one: the methods.
        steps: of the schedule.
    """
    request = _build_request(pair, pictures, one, steps)
    start = time.perf_counter()
    canvas = canvas_of(request, (request.base.width, request.base.height))
    editing = Editing(request, resolve(request.base, family), family, canvas)
    try:
        latents, nfe = _run(editing)
    except (PromptError, MethodFitError):
        return None
    decoded = decode(family, latents)
    has_source = editing.edit.inverts or editing.edit.paired
    picture = canvas.paste(decoded[TARGET] if has_source else decoded[0])
    seconds = time.perf_counter() - start
    source, outside = np.asarray(pictures.source), np.asarray(pictures.mask) <= 127
    return Outcome(
        pair.kind,
        _is_read(classifier, picture, pair),
        psnr(picture[outside][None], source[outside][None]) if outside.any() else None,
        psnr(picture, np.asarray(pictures.target)),
        psnr(decoded[0], source) if editing.edit.inverts else None,
        nfe,
        seconds,
    )


def _build_request(pair: EditPair, pictures: EditPictures, one: Combination, steps: int) -> EditRequest:
    source = np.asarray(pictures.source)
    base = Request(
        prompt=pair.target_caption,
        num_inference_steps=steps,
        width=source.shape[1],
        height=source.shape[0],
        seed=1,
        guidance=Choice("cfg", {"guidance_scale": one.guidance}),
    )
    mask = Picture(np.asarray(pictures.mask) > 127) if one.edit == "inpaint" else None
    return EditRequest(base, Picture(source), mask, pair.source_caption, Choice(one.inversion), Choice(one.edit))


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


def _is_read(classifier: Classifier, picture: np.ndarray, pair: EditPair) -> bool:
    """Whether the classifier reads the target's objects, in their order, and its background."""
    (reading,) = classifier.read(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255)
    labels = tuple(placed.label for placed in pair.target.objects)
    return reading.labels == labels and reading.background == pair.target.background


def write_table(outcomes: dict[Combination, list[Outcome]], counts: dict[str, int]) -> str:
    """Write the table, a line a combination, the most often right first.

    Args:
        outcomes: of each combination, without the pairs that it refused.
        counts: pairs of each kind.
    """
    kinds = " | ".join(EDIT_KINDS)
    lines = [
        f"| method | guidance | {kinds} | all | outside, dB | to the truth, dB | reconstruction, dB | NFE | seconds |",
        "| --- " + "| ---: " * (len(EDIT_KINDS) + 7) + "|",
    ]

    def share(one: Combination, kind: str | None = None) -> float:
        right = [outcome.is_read for outcome in outcomes[one] if kind in (None, outcome.kind)]
        return sum(right) / (sum(counts.values()) if kind is None else counts[kind])

    for one in sorted(outcomes, key=share, reverse=True):
        rows = outcomes[one]
        values = [f"{share(one, kind):.2f}" for kind in EDIT_KINDS] + [f"**{share(one):.2f}**"]
        values += [_median([row.background for row in rows]), _median([row.truth for row in rows])]
        values += [_median([row.reconstruction for row in rows])]
        values += [f"{statistics.mean(row.nfe for row in rows):.0f}" if rows else "–"]
        values += [f"{statistics.median(row.seconds for row in rows):.2f}" if rows else "–"]
        lines.append(f"| {one.label} | {one.guidance:g} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _median(values: Sequence[float | None]) -> str:
    present = [value for value in values if value is not None]
    if not present:
        return "–"
    median = statistics.median(present)
    return f"{median:.1f}" if math.isfinite(median) else "exact"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and put it into the page of docs/ if asked; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark edits", description=__doc__)
    parser.add_argument("--pairs", type=int, default=200, help=f"in turn of the kinds {', '.join(EDIT_KINDS)}")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--scales", type=float, nargs="+", default=[4.0], help="guidance scales of the edit")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="edits and inversions of these keys only")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/edits.md")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    objects: Objects = shipped_catalog()
    pairs = edit_pairs(objects, options.pairs, FIRST_SEED)
    pictures = [render_edit(pair, objects) for pair in pairs]
    counts = {kind: sum(pair.kind == kind for pair in pairs) for kind in EDIT_KINDS}
    chosen = [one for one in combinations(options.scales) if not options.only or _is_chosen(one, options.only)]
    outcomes: dict[Combination, list[Outcome]] = collections.defaultdict(list)
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[shipped()]), device="cpu")
    classifier = load_classifier()
    with loader.model("emoji") as family:
        if not isinstance(family, LatentFamily):
            raise MethodFitError("The shipped model has no single network.")
        for number, (pair, drawn) in enumerate(zip(pairs, pictures, strict=True)):
            for one in chosen:
                outcome = measure(family, classifier, pair, drawn, one, options.steps)
                outcomes[one] += [] if outcome is None else [outcome]
            print(f"{number + 1} of {len(pairs)} pairs", file=sys.stderr, flush=True)
    table = write_table(outcomes, counts)
    print(table)
    if options.write:
        _write_section(table, options)
    return 0


def _is_chosen(one: Combination, keys: Sequence[str]) -> bool:
    return one.edit in keys and (one.edit not in _INVERTING or one.inversion in keys)


def _write_section(table: str, options: argparse.Namespace) -> None:
    """Put the table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split("<!-- edits -->")
    after = rest.split("<!-- end of edits -->")[1]
    note = f"{options.pairs} pairs, {options.steps} steps, medians but for the shares and the NFE."
    section = f"<!-- edits -->\n{note}\n\n{table}\n<!-- end of edits -->"
    PAGE.write_text(before + section + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
