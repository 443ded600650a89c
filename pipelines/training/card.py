"""The model card's figures: their floors, the table, and what speaks against a new model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import TrainingError
from pipelines.training.history import History, history_of

__all__ = ["FLOORS", "GENERATED", "Floor", "figure_table", "objections", "put_table", "write_card"]

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Floor:
    """A figure's name on the card, the value it must reach, and whether less is better."""

    label: str
    value: float
    unit: str = ""
    at_most: bool = False

    def is_reached(self, figure: float) -> bool:
        """Say whether a measured figure is good enough."""
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

Figures = Mapping[str, float]
PSNR_LOSS = 0.1  # decibels that better pictures may cost: not to be seen


def objections(candidate: Figures, shipped: Figures) -> list[str]:
    """Say why a model may not replace the shipped one; none when it may.

    Its four generated figures must be better on average, its autoencoder not worse by more than a
    tenth of a decibel, and no figure may leave a floor that the shipped model reaches: a gain in
    one figure does not pay for another's fall.
    """
    reasons = []
    for name, floor in FLOORS.items():
        if name not in candidate or name not in shipped:
            continue  # the classifier's own figures do not depend on the model
        now, then = shipped[name], candidate[name]
        if floor.is_reached(now) and not floor.is_reached(then):
            reasons.append(
                f"{floor.label}: {now:.4g} would become {then:.4g}, past the floor of {floor.value:g}{floor.unit}"
            )
    gain = sum(candidate[name] - shipped[name] for name in GENERATED) / len(GENERATED)
    if gain <= 0:
        reasons.append(f"the generated figures are not better on average ({gain:+.4f})")
    if candidate["psnr"] <= shipped["psnr"] - PSNR_LOSS:
        reasons.append(f"the autoencoder is worse by {shipped['psnr'] - candidate['psnr']:.2f} decibel")
    return reasons


def figure_table(figures: Figures, history: History, floors: dict[str, Floor] = FLOORS) -> str:
    """Return the floors and what was measured, as Markdown, with footnotes that say what held-out means."""
    notes = {"psnr": "¹ New random compositions of known objects and backgrounds, not new objects."}
    if history.every_pair != 0:
        notes["held_out_both"] = f"² {_describe_history(history)}"
    rows = ["| figure | floor | measured | |", "| --- | --- | --- | --- |"]
    for name, floor in floors.items():
        if name not in figures:
            continue
        figure = figures[name]
        limit = f"{'at most ' if floor.at_most else ''}{floor.value:g}{floor.unit}"
        missing = abs(figure - floor.value)
        verdict = "reached" if floor.is_reached(figure) else f"short by {missing:.3g}{floor.unit}"
        label = f"{floor.label} {notes[name][0]}" if name in notes else floor.label
        rows.append(f"| {label} | {limit} | {figure:.4g}{floor.unit} | {verdict} |")
    return "\n".join([*rows, "", "\\\n".join(notes[name] for name in notes if name in figures)])


def _describe_history(history: History) -> str:
    if history.every_pair is None:
        return "Not known to be strictly held out: it is not recorded what the weights' first training saw."
    total = f" of {history.samples:,}" if history.samples else ""
    return (
        f"Not strictly held out: the first {history.every_pair:,}{total} training samples of the UNet and the text "
        "encoder were drawn from every object and background pair, these among them; the later ones were not."
    )


def write_card(folder: Path, figures: Figures, note: str, floors: dict[str, Floor] = FLOORS) -> None:
    """Put the table of floors between the card's two marks, and the figures into figures.json.

    Args:
        folder: the model's: its weights' history decides what the table calls held-out.
        figures: what was measured.
        note: how.
        floors: what the figures must reach.
    Raises: TrainingError when the card lacks the marks.
    """
    put_table(folder, figures, f"{figure_table(figures, history_of(folder), floors)}\n\n{note}")


def put_table(folder: Path, figures: Figures, table: str) -> None:
    """Put any table between the card's two marks, and the figures into figures.json.

    Args:
        folder: of the card.
        figures: what was measured.
        table: Markdown.
    Raises: TrainingError when the card lacks the marks.
    """
    card = folder / "README.md"
    text = card.read_text("utf-8") if card.is_file() else f"{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise TrainingError(f"The model card lacks the marks {BEGIN!r} and {END!r}.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    card.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")
