"""The evaluation's verdicts: what is reached, what replaces what, what the card says."""

from __future__ import annotations

import json
import shutil

import pytest

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import is_held_out
from pipelines.training import evaluate
from pipelines.training.card import BEGIN, END, FLOORS, figure_table, write_card
from pipelines.training.exchange import FILES
from pipelines.training.fit import JUDGE, MODEL
from pipelines.training.history import FRESH
from pipelines.training.measures import named_captions

GOOD = {
    "psnr": 31.8,
    "classifier_object": 0.99,
    "classifier_background": 1.0,
    "trained_object": 0.9,
    "trained_background": 0.96,
    "held_out_both": 0.8,
    "two_objects": 0.6,
    "seconds": 1.2,
    "megabytes": 30.0,
}


def test_the_floors_are_the_agreed_ones():
    values = {name: floor.value for name, floor in FLOORS.items()}
    assert values == {
        "psnr": 31,
        "classifier_object": 0.98,
        "classifier_background": 0.99,
        "trained_object": 0.85,
        "trained_background": 0.95,
        "held_out_both": 0.75,
        "two_objects": 0.5,
        "seconds": 3,
        "megabytes": 60,
    }


def test_the_table_says_what_is_reached_and_by_how_much_it_is_not():
    table = figure_table(GOOD, FRESH)
    assert table.count("| reached |") == 9
    table = figure_table(GOOD | {"held_out_both": 0.7, "seconds": 3.5}, FRESH)
    assert table.count("| reached |") == 7
    assert "short by 0.05 |" in table and "short by 0.5 s |" in table


def test_only_a_better_model_replaces_the_shipped_one():
    assert evaluate.objections(GOOD | {"two_objects": 0.61}, GOOD) == []
    assert "not better on average" in evaluate.objections(GOOD, GOOD)[0]
    assert "not better on average" in evaluate.objections(GOOD | {"two_objects": 0.61, "held_out_both": 0.76}, GOOD)[0]
    assert "decibel" in evaluate.objections(GOOD | {"two_objects": 0.9, "psnr": 31.0}, GOOD)[0]


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("psnr", 30.99),
        ("trained_object", 0.84),
        ("trained_background", 0.94),
        ("held_out_both", 0.74),
        ("seconds", 3.1),
        ("megabytes", 61.0),
    ],
)
def test_a_gain_elsewhere_does_not_buy_a_fall_below_a_floor(name, below):
    shipped = GOOD | {"psnr": 31.05}
    candidate = shipped | {"two_objects": 0.95, name: below}
    found = evaluate.objections(candidate, shipped)
    assert len(found) == 1 and FLOORS[name].label in found[0] and f"{below:g}" in found[0]
    # where the shipped model is not at the floor either, there is nothing to fall from
    assert evaluate.objections(candidate, shipped | {name: below}) == []


def test_the_card_keeps_its_text(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_card(tmp_path, GOOD, "a note")
    text = card.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "a note" in text and "| 31.8 dB | reached |" in text
    assert json.loads((tmp_path / "figures.json").read_text()) == GOOD
    card.write_text("no marks")
    with pytest.raises(TrainingError, match="lacks the marks"):
        write_card(tmp_path, GOOD, "a note")


def folder_of(path, text):
    """A model with the shipped one's configs; `text` marks every file and folder of it."""
    for part in FILES:
        if "." in part:
            path.mkdir(parents=True, exist_ok=True)
            (path / part).write_text(text)
        else:
            configs = [file.name for file in (MODEL / part).glob("*config.json")]
            (path / part).mkdir(parents=True)
            for name in configs:
                shutil.copyfile(MODEL / part / name, path / part / name)
            (path / part / "mark").write_text(text)
    return path


def measuring(monkeypatch, measured):
    """Lets `measured` say the figures of each folder; returns the list of folders asked for."""
    asked = []
    monkeypatch.setattr(evaluate, "measure", lambda folder, *_: asked.append(folder) or dict(measured[folder]))
    monkeypatch.setattr(evaluate, "classifier_accuracy", lambda *_: (0.99, 1.0))
    monkeypatch.setattr(evaluate, "load_pipeline", lambda folder, *_: folder)
    monkeypatch.setattr(evaluate, "seconds_for_one", lambda folder: (measured[folder]["seconds"], 2.0))
    return asked


@pytest.mark.parametrize(("gain", "expected"), [(0.01, "new"), (0.0, "old"), (-0.1, "old")])
def test_a_candidate_ships_only_if_it_measures_better(tmp_path, monkeypatch, gain, expected):
    model, candidate = folder_of(tmp_path / "assets/models/m", "old"), folder_of(tmp_path / "new", "new")
    measured = {model: GOOD, candidate: GOOD | {"two_objects": 0.6 + gain}}
    asked = measuring(monkeypatch, measured)
    evaluate.main(["--model", str(model), "--candidate", str(candidate), "--captions", "7"])
    assert asked == [candidate, model]
    assert {(model / part).read_text() for part in FILES if "." in part} == {expected}
    assert (model / "unet" / "mark").read_text() == expected
    assert (model / "figures.json").is_file() == (expected == "new")


def test_figures_are_kept_only_for_the_same_model_judge_and_captions(tmp_path, monkeypatch, capsys):
    model, candidate = folder_of(tmp_path / "assets/models/m", "old"), folder_of(tmp_path / "new", "new")
    judge = shutil.copytree(JUDGE, tmp_path / "judge")
    asked = measuring(monkeypatch, {model: GOOD, candidate: GOOD | {"two_objects": 0.5, "seconds": 9.0}})
    common = ["--model", str(model), "--classifier", str(judge)]
    against = [*common, "--candidate", str(candidate)]

    def measured(arguments, captions="7"):
        asked.clear()
        evaluate.main([*arguments, "--captions", captions])
        return asked

    assert measured(common) == [model]
    assert "judged by the shipped classifier." in (model / "README.md").read_text()
    assert measured(against) == [candidate]
    assert measured(against, "8") == [candidate, model]
    (judge / "README.md").write_text("the card is not the judge")
    assert measured(against) == [candidate]
    (judge / "config.json").write_text((judge / "config.json").read_text() + "\n")
    assert measured(against) == [candidate, model]
    assert measured(common) == [model]
    assert "judged by the classifier " in (model / "README.md").read_text()
    (model / "unet" / "mark").write_text("other weights")
    assert measured(against) == [candidate, model]
    assert "The shipped model stays:" in capsys.readouterr().out


def test_kept_figures_are_timed_again_beside_the_candidate(tmp_path, monkeypatch):
    model, candidate = folder_of(tmp_path / "assets/models/m", "old"), folder_of(tmp_path / "new", "new")
    figures = {model: dict(GOOD), candidate: GOOD | {"two_objects": 0.7, "seconds": 3.4}}
    measuring(monkeypatch, figures)
    evaluate.main(["--model", str(model)])
    evaluate.main(["--model", str(model), "--candidate", str(candidate)])
    assert (model / "unet" / "mark").read_text() == "old"  # slower than the floor that 1.2 s keep
    figures[model]["seconds"] = 3.3  # the machine is busy now: the floor says nothing about either
    evaluate.main(["--model", str(model), "--candidate", str(candidate)])
    assert (model / "unet" / "mark").read_text() == "new"


def test_a_card_without_marks_stops_the_exchange_before_it_begins(tmp_path, monkeypatch):
    model, candidate = folder_of(tmp_path / "assets/models/m", "old"), folder_of(tmp_path / "new", "new")
    (model / "README.md").write_text("no marks")
    measuring(monkeypatch, {model: GOOD, candidate: GOOD | {"two_objects": 0.7}})
    with pytest.raises(TrainingError, match="lacks the marks"):
        evaluate.main(["--model", str(model), "--candidate", str(candidate)])
    assert (model / "unet" / "mark").read_text() == "old" and not (model / "figures.json").exists()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no model"):
        evaluate.measure(tmp_path, None, shipped_catalog(), 1, None)


def test_the_captions_that_are_measured_are_of_their_split():
    catalog = shipped_catalog()
    for split, held in (("train", False), ("held-out", True)):
        for scene, text in named_captions(catalog, 20, split, 1):
            assert is_held_out(scene.objects[0].label, scene.background) is held
            assert scene.background in text
    assert all(len(scene.objects) == 2 for scene, _ in named_captions(catalog, 5, "train", 2))
