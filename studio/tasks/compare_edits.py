"""The task behind the Edit tab's comparison, the /compare_edits endpoint and `python -m studio compare_edits`."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice
from studio.exports.pictures import PICTURES, write_picture
from studio.tasks.edit import EditCommand
from studio.tasks.entry import MASK, PICTURE, Argument, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.workflows.edit.comparison import EditComparison
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["CompareEdits", "format_figure"]

_FIGURES = ("evaluations", "seconds", "source_psnr", "source_ssim", "background_psnr", "prompt_probability")
_ALL = "all"
_EXAMPLE = {"source_prompt": "a fox on a blue background", "edits": ["inpaint", "refine"]}


class CompareEditsCommand(EditCommand):
    """Defines `python -m studio compare_edits`."""

    name, help = "compare_edits", "one picture, several edits"
    out = "a .png, .jpg or .webp file (labeled picture) or .csv file"
    suffixes = (*PICTURES, ".csv")

    def add_methods(self, parser: argparse.ArgumentParser) -> None:
        kinds = (("--edit", "edit", "every edit"), ("--inversion", "inversion", "direct alone"))
        for flag, kind, default in kinds:
            parser.add_argument(
                flag,
                action="append",
                default=[],
                metavar="KEY[,SETTING=VALUE...]",
                help=f"an {kind} to compare, repeat for more, or all; by default {default}",
            )

    def read_methods(self, flags: argparse.Namespace) -> dict[str, Any]:
        return {"edits": _read(flags.edit) or _ALL, "inversions": _read(flags.inversion) or ["direct"]}

    def write(self, job: Job, flags: argparse.Namespace, context: TaskContext) -> Iterator[Path]:
        from studio.exports.comparison import draw_comparison  # late: see `Task`

        if flags.out.suffix.lower() == ".csv":
            _write_table(job.view().outcome["rows"], flags.out)
        else:
            write_picture(draw_comparison(job), flags.out)
        yield flags.out


def _read(texts: list[str]) -> Any:
    return _ALL if _ALL in texts else [parse_choice(text) for text in texts]


def _write_table(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["edit", "inversion", *_FIGURES, "sees", "result", "problem"])
        for row in rows:
            inversion = row["inversion"]["key"] if row["inversion"] else ""
            figures = [format_figure(row["figures"], name) for name in _FIGURES]
            writer.writerow([row["edit"]["key"], inversion, *figures, row["sees"], row["result"] or "", row["problem"]])


def format_figure(figures: Mapping[str, Any], name: str) -> float | str:
    """Write a figure of a table: "inf" for the PSNR of equal pixels, stored as None; "" for what is unknown."""
    if name not in figures:
        return ""
    value = figures[name]
    if value is None:
        return "inf" if name.endswith("psnr") else ""
    rounded: float = round(value, 4)  # a whole number stays one
    return rounded


class CompareEdits:
    """Edit one picture in several ways: each edit, on each inversion where it takes one."""

    key = "compare_edits"
    command = CompareEditsCommand()
    endpoint = Endpoint(
        "compare_edits",
        "Edit a picture in several ways; streams progress, then returns the pictures, their figures, and why a way "
        "could not be gone.",
        '{"edits": a list of edits with their settings, or "all", "inversions": a list, or "all", and all else as for '
        "/edit}.",
        (
            build_prompt_argument("what the edited picture should show."),
            Argument("picture", "the source's file as base64 or as a data URL.", ("picture",)),
        ),
        examples=(
            {**_EXAMPLE, "mask": MASK, "fit": "crop"},
            {**_EXAMPLE, "inversions": ["direct", {"key": "ddim", "strength": 0.8}]},
            {**_EXAMPLE, "edits": ["style_aligned"], "reference": PICTURE, "edit": "refine", "inversion": "direct"},
        ),
        overrules=frozenset({"cells"}),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> EditComparison:
        from studio.tasks.runs import compare_edits  # late: see `Task`

        return compare_edits.parse(values, context)

    def work(self, request: EditComparison) -> tuple[float, float]:
        running = sum(not cell.problem for cell in request.cells)
        return 3 * request.base.num_inference_steps * running, 0

    def run(self, request: EditComparison, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import compare_edits  # late: see `Task`

        compare_edits.run(request, job, context)
