"""Measure the shipped model against its floors: `python -m pipelines.training.evaluate`.

Writes the table into the model card and `figures.json` beside it. With --candidate another
export is measured too, and takes the shipped one's place only if it measures better.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import Catalog
from pipelines.metrics.classifier import Classifier, load_classifier
from pipelines.training.autoencoder import held_out_psnr
from pipelines.training.card import figure_table, objections, write_card
from pipelines.training.exchange import FILES, build_successor, fingerprint, recover, swap
from pipelines.training.fit import JUDGE, MODEL, PARTS, choose_folder, require_fit, require_judge
from pipelines.training.history import history_of
from pipelines.training.measures import (
    GUIDANCE,
    STEPS,
    classifier_accuracy,
    file_bytes,
    generated_accuracy,
    load_pipeline,
    named_captions,
    seconds_for_one,
)
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import pick_device, picture_sheet, use_threads

__all__ = ["measure", "read_kept_figures"]

JUDGE_FILES = ("config.json", "model.safetensors")


def measure(
    folder: Path, classifier: Classifier, catalog: Catalog, captions: int, sheet: Path | None
) -> dict[str, float]:
    """Measure all figures of one model folder that depend on it.

    Args:
        folder: a stock pipeline.
        classifier: the judge.
        catalog: the objects.
        captions: how many for each generated figure.
        sheet: where to draw the first pictures of each kind, or None.
    Raises: TrainingError when the folder holds no model.
    """
    if not (folder / "model_index.json").is_file():
        raise TrainingError(f"There is no model in {str(folder)!r}.")
    pipeline = load_pipeline(folder, pick_device().type)
    psnr = held_out_psnr(pipeline.vae, catalog, classifier.size)
    figures, pictures = {"psnr": psnr}, []
    for name, split, objects in (
        ("trained", "train", 1),
        ("held_out", "held-out", 1),
        ("two", "train", 2),
    ):
        cases = named_captions(catalog, captions, split, objects)
        right, images = generated_accuracy(pipeline, classifier, cases)
        pictures.append(images[:36])
        if name == "trained":
            figures["trained_object"], figures["trained_background"] = right.mean(axis=0)
        elif name == "held_out":
            figures["held_out_both"] = right.all(axis=1).mean()
        else:
            figures["two_objects"], figures["two_background"] = right.mean(axis=0)
    figures["seconds"], figures["seconds_median"] = seconds_for_one(pipeline)
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        picture_sheet(torch.cat(pictures)).save(sheet)
    return {name: round(float(value), 4) for name, value in figures.items()}


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="cpu", help="cpu or gpu (default: cpu)")
    parser.add_argument("--model", type=Path, help="default: the shipped one, for its own recipe")
    parser.add_argument("--classifier", type=Path, help="the judge (default: the shipped one, for its own recipe)")
    parser.add_argument("--candidate", type=Path, help="an export to ship if it measures better")
    parser.add_argument("--captions", type=int, default=200, help="for each generated figure")
    parser.add_argument("--run-dir", type=Path, help="where a sheet of the pictures is written")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    return parser


def read_kept_figures(model: Path, identity: dict[str, int | str]) -> dict | None:
    """Read the figures beside a model, if they are of these weights, this judge and these captions.

    Args:
        model: its folder.
        identity: "captions", how many, and "judge", its fingerprint.
    Returns: the figures, or None when they must be measured again. The seconds are taken anew: a
        candidate is timed now, on a machine that may be busier than it was.
    """
    path = model / "figures.json"
    if not path.is_file():
        return None
    figures = json.loads(path.read_text("utf-8"))
    expected = identity | {"model": fingerprint(model, FILES)}
    if any(figures.get(name) != value for name, value in expected.items()):
        return None
    seconds, median = seconds_for_one(load_pipeline(model, pick_device().type))
    return figures | {"seconds": seconds, "seconds_median": median}


def main(arguments: list[str] | None = None) -> None:
    """Measure, compare, replace if better, write the card."""
    options = _build_parser().parse_args(arguments)
    use_threads(options.threads)
    recipe = find_recipe(options.recipe)
    model = choose_folder(options.model, recipe, "--model", MODEL)
    judge = choose_folder(options.classifier, recipe, "--classifier", JUDGE)
    recover(model)
    model_to_measure = options.candidate or model
    for folder in (model_to_measure, model):
        require_fit(folder, recipe, PARTS)
    catalog = catalog_for(recipe)
    classifier = load_classifier(judge, pick_device().type)
    require_judge(classifier, recipe, catalog)
    identity = {"captions": options.captions, "judge": fingerprint(judge, JUDGE_FILES)}
    sheet = options.run_dir / "sheets" / f"evaluate-{options.captions}.png" if options.run_dir else None
    figures = measure(model_to_measure, classifier, catalog, options.captions, sheet)
    figures["megabytes"] = _count_megabytes(model, model_to_measure)
    print(figure_table(figures, history_of(model_to_measure)), flush=True)
    if options.candidate:
        shipped = read_kept_figures(model, identity)
        if shipped is None:
            shipped = measure(model, classifier, catalog, options.captions, None)
            shipped["megabytes"] = _count_megabytes(model, model)
        against = objections(figures, shipped)
        if against:
            print(f"The shipped model stays: {'; '.join(against)}.")
            return
    accuracy = classifier_accuracy(classifier, catalog)
    figures["classifier_object"], figures["classifier_background"] = accuracy
    _publish(options.candidate, model, figures | identity | {"model": fingerprint(model_to_measure, FILES)})


def _publish(candidate: Path | None, model: Path, figures: dict) -> None:
    """Write the card; a candidate's is complete before it takes the model's place."""
    if candidate is None:
        write_card(model, figures, _write_note(figures))
        return
    staged = build_successor(candidate, model)
    write_card(staged, figures, _write_note(figures))
    swap(staged, model)
    print("The candidate measures better: it ships now.")


def _write_note(figures: dict) -> str:
    shipped = figures["judge"] == fingerprint(JUDGE, JUDGE_FILES)
    judge = "shipped classifier" if shipped else f"classifier {figures['judge'][:12]}"
    return (
        f"{figures['captions']} captions for each generated figure, {STEPS} steps of "
        f"DPM-Solver++(2M), guidance {GUIDANCE:g}, judged by the {judge}. Seconds are "
        "the least of five runs."
    )


def _count_megabytes(model: Path, model_to_measure: Path) -> float:
    """All assets, with the measured model's files in the place of the model's."""
    parts = [sum(file_bytes(folder / name) for name in FILES) for folder in (model, model_to_measure)]
    return round((file_bytes(model.resolve().parents[1]) - parts[0] + parts[1]) / 1e6, 2)


if __name__ == "__main__":
    main()
