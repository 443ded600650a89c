"""Measure the shipped model against its floors: `python -m pipelines.training.evaluate`.

Writes the table into the model card and `figures.json` beside it. With --candidate another
export is measured too, and takes the shipped one's place only if it measures better.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.errors import TrainingError
from pipelines.metrics.classifier import Classifier, load_classifier
from pipelines.training.autoencoder import held_out_psnr
from pipelines.training.fit import JUDGE, MODEL, PARTS, chosen_folder, require_fit, require_judge
from pipelines.training.measures import (
    GUIDANCE,
    STEPS,
    classifier_accuracy,
    folder_bytes,
    generated_accuracy,
    load_pipeline,
    named_captions,
    seconds_for_one,
)
from pipelines.training.objects import Catalogue
from pipelines.training.recipes import catalogue_for, find_recipe
from pipelines.training.trainer import pick_device, picture_sheet, use_threads

__all__ = ["FLOORS", "Floor", "figure_table", "is_better", "measure", "write_card"]

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
FILES = ("model_index.json", "preview.json", "scheduler", *PARTS)


@dataclass(frozen=True)
class Floor:
    """A figure's name on the card, the value it must reach, and whether less is better."""

    label: str
    value: float
    unit: str = ""
    at_most: bool = False

    def reached(self, figure: float) -> bool:
        """Whether a measured figure is good enough."""
        return figure <= self.value if self.at_most else figure >= self.value


FLOORS: dict[str, Floor] = {
    "psnr": Floor("autoencoder PSNR, held-out compositions", 31, " dB"),
    "classifier_object": Floor("classifier on fresh renderings: object", 0.98),
    "classifier_background": Floor("classifier on fresh renderings: background", 0.99),
    "trained_object": Floor("generated, trained pairs: object right", 0.85),
    "trained_background": Floor("generated, trained pairs: background right", 0.95),
    "held_out_both": Floor("generated, held-out pairs: object and background right", 0.75),
    "two_objects": Floor("two objects: both right and on the right sides", 0.5),
    "seconds": Floor("seconds for 25 guided steps, two CPU cores", 3, " s", at_most=True),
    "megabytes": Floor("all files in assets", 60, " MB", at_most=True),
}
GENERATED = ("trained_object", "trained_background", "held_out_both", "two_objects")


def measure(
    folder: Path, classifier: Classifier, catalogue: Catalogue, captions: int, sheet: Path | None
) -> dict[str, float]:
    """All figures of one model folder that depend on it.

    Args:
        folder: a stock pipeline.
        classifier: the judge.
        catalogue: the objects.
        captions: how many for each generated figure.
        sheet: where to draw the first pictures of each kind, or None.
    Raises: TrainingError when the folder holds no model.
    """
    if not (folder / "model_index.json").is_file():
        raise TrainingError(f"There is no model in {str(folder)!r}.")
    pipeline = load_pipeline(folder, pick_device().type)
    psnr = held_out_psnr(pipeline.vae, catalogue, classifier.size)
    figures, drawn = {"psnr": psnr}, []
    for name, split, objects in (
        ("trained", "train", 1), ("held_out", "held-out", 1), ("two", "train", 2),
    ):
        cases = named_captions(catalogue, captions, split, objects)
        right, images = generated_accuracy(pipeline, classifier, cases)
        drawn.append(images[:36])
        if name == "trained":
            figures["trained_object"], figures["trained_background"] = right.mean(axis=0)
        elif name == "held_out":
            figures["held_out_both"] = right.all(axis=1).mean()
        else:
            figures["two_objects"], figures["two_background"] = right.mean(axis=0)
    figures["seconds"], figures["seconds_median"] = seconds_for_one(pipeline)
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        picture_sheet(torch.cat(drawn)).save(sheet)
    return {name: round(float(value), 4) for name, value in figures.items()}


def is_better(candidate: dict[str, float], shipped: dict[str, float]) -> bool:
    """Whether a model may replace the shipped one.

    Its four generated figures must be better on average, and its autoencoder not worse by more
    than a tenth of a decibel.
    """
    gain = sum(candidate[name] - shipped[name] for name in GENERATED)
    return gain > 0 and candidate["psnr"] > shipped["psnr"] - 0.1


def figure_table(figures: dict[str, float]) -> str:
    """The floors and what was measured, as Markdown."""
    rows = ["| figure | floor | measured | |", "| --- | --- | --- | --- |"]
    for name, floor in FLOORS.items():
        if name not in figures:
            continue
        figure = figures[name]
        limit = f"{'at most ' if floor.at_most else ''}{floor.value:g}{floor.unit}"
        missing = abs(figure - floor.value)
        verdict = "reached" if floor.reached(figure) else f"short by {missing:.3g}{floor.unit}"
        rows.append(f"| {floor.label} | {limit} | {figure:.4g}{floor.unit} | {verdict} |")
    return "\n".join(rows)


def write_card(folder: Path, figures: dict[str, float], note: str) -> None:
    """Put the table between the model card's two marks, and the figures into figures.json."""
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    card = folder / "README.md"
    text = card.read_text("utf-8") if card.is_file() else f"{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise TrainingError(f"The model card lacks the marks {BEGIN!r} and {END!r}.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n{figure_table(figures)}\n\n{note}\n{END}{after}", "utf-8")


def install(candidate: Path, folder: Path) -> None:
    """Replace the model's parts by the candidate's; card and figures stay."""
    for part in FILES:
        source, target = candidate / part, folder / part
        shutil.rmtree(target, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _shipped_figures(folder: Path) -> dict[str, float] | None:
    path = folder / "figures.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="cpu", help="cpu or gpu (default: cpu)")
    parser.add_argument("--model", type=Path, help="default: the shipped one, for its own recipe")
    parser.add_argument("--classifier", type=Path,
                        help="the judge (default: the shipped one, for its own recipe)")
    parser.add_argument("--candidate", type=Path, help="an export to ship if it measures better")
    parser.add_argument("--captions", type=int, default=200, help="for each generated figure")
    parser.add_argument("--run-dir", type=Path, help="where a sheet of the pictures is written")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure, compare, replace if better, write the card."""
    chosen = _parser().parse_args(arguments)
    use_threads(chosen.threads)
    recipe = find_recipe(chosen.recipe)
    chosen.model = chosen_folder(chosen.model, recipe, "--model", MODEL)
    judge = chosen_folder(chosen.classifier, recipe, "--classifier", JUDGE)
    measured = chosen.candidate or chosen.model
    for folder in (measured, chosen.model):
        require_fit(folder, recipe, PARTS)
    catalogue = catalogue_for(recipe)
    classifier = load_classifier(judge, pick_device().type)
    require_judge(classifier, recipe, catalogue)
    sheet = chosen.run_dir / "sheets" / f"evaluate-{chosen.captions}.png" if chosen.run_dir else None
    figures = measure(measured, classifier, catalogue, chosen.captions, sheet)
    print(figure_table(figures), flush=True)
    if chosen.candidate:
        shipped = _shipped_figures(chosen.model)
        if shipped is None or shipped.get("captions") != chosen.captions:
            shipped = measure(chosen.model, classifier, catalogue, chosen.captions, None)
        if not is_better(figures, shipped):
            print("The shipped model measures better: it stays.")
            return
        install(chosen.candidate, chosen.model)
        print("The candidate measures better: it ships now.")
    accuracy = classifier_accuracy(classifier, catalogue)
    figures["classifier_object"], figures["classifier_background"] = accuracy
    figures["captions"] = chosen.captions
    figures["megabytes"] = round(folder_bytes(chosen.model.parents[1]) / 1e6, 2)
    note = (
        f"{chosen.captions} captions for each generated figure, {STEPS} steps of "
        f"DPM-Solver++(2M), guidance {GUIDANCE:g}, judged by the shipped classifier. Seconds are "
        "the least of five runs."
    )
    write_card(chosen.model, figures, note)


if __name__ == "__main__":
    main()
