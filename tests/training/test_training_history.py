"""What the card says about held-out pairs follows from how the weights were trained."""

from __future__ import annotations

import json
import re

import pytest
from training_toys import toy_denoiser

from pipelines.core.errors import TrainingError
from pipelines.training import autoencoder, denoiser, denoiser_networks, evaluate
from pipelines.training.card import FLOORS, figure_table, write_card
from pipelines.training.fit import MODEL
from pipelines.training.history import FRESH, UNKNOWN, History, begin_run, continued, history_of, write_history

FIGURES = json.loads((MODEL / "figures.json").read_text())
CARD = (MODEL / "README.md").read_text()
MAINS = {"autoencoder": autoencoder.main, "denoiser": denoiser.main, "evaluate": evaluate.main}


def row_of(table: str, name: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(f"| {FLOORS[name].label}"))


def test_the_shipped_card_is_what_the_code_writes():
    table = figure_table(FIGURES, history_of(MODEL))
    assert f"\n{table}\n" in CARD
    assert "the first 92,000 of 300,000" in table


def test_the_weights_that_ship_are_known_wherever_they_lie(tmp_path):
    assert history_of(MODEL) == History(92_000, 300_000)
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (tmp_path / part).mkdir()
        (tmp_path / part / f"{name}.safetensors").write_bytes((MODEL / part / f"{name}.safetensors").read_bytes())
    assert history_of(tmp_path) == History(92_000, 300_000)
    with (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").open("ab") as weights:
        weights.write(b"\0")
    assert history_of(tmp_path) == UNKNOWN


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (History(92_000, 300_000), "² Not strictly held out: the first 92,000 of 300,000 training samples"),
        (History(92_000), "² Not strictly held out: the first 92,000 training samples"),
        (UNKNOWN, "² Not known to be strictly held out"),
    ],
)
def test_the_held_out_row_is_marked_unless_the_pairs_were_never_seen(history, said):
    table = figure_table(FIGURES, history)
    assert row_of(table, "held_out_both").startswith(f"| {FLOORS['held_out_both'].label} ² |") and said in table
    strict = figure_table(FIGURES, FRESH)
    assert "²" not in strict and "strictly" not in strict
    for either in (table, strict):
        assert row_of(either, "psnr").startswith(f"| {FLOORS['psnr'].label} ¹ |")
        assert "¹ New random compositions" in either and "not new objects" in either
        assert "²" not in row_of(either, "trained_object")


def test_the_next_run_keeps_the_marks(tmp_path):
    write_history(tmp_path, History(92_000))
    write_card(tmp_path, FIGURES, "a note")
    write_card(tmp_path, FIGURES, "a note")
    text = (tmp_path / "README.md").read_text()
    assert text.count("² Not strictly held out") == 1 and text.count("¹ New random") == 1


def test_an_export_says_what_its_weights_have_seen(tmp_path):
    task = toy_denoiser(0, tmp_path / "tokenizer")
    task.export(tmp_path / "export")
    assert history_of(tmp_path / "export") == UNKNOWN
    task.history = FRESH
    task.export(tmp_path / "export")
    assert history_of(tmp_path / "export") == FRESH


def test_a_history_that_cannot_be_read_is_an_error(tmp_path):
    for text in (
        "nothing",
        "[]",
        "{}",
        '{"every_pair": "none", "samples": null}',
        '{"every_pair": -1, "samples": null}',
    ):
        (tmp_path / "history.json").write_text(text)
        with pytest.raises(TrainingError, match=r"history\.json.*cannot be read"):
            history_of(tmp_path)


def test_a_run_goes_on_only_as_it_was_begun(tmp_path):
    assert begin_run(tmp_path, History(92_000)) == History(92_000)
    assert begin_run(tmp_path, FRESH) == FRESH  # nothing was trained before
    (tmp_path / "checkpoint").mkdir()
    assert begin_run(tmp_path, FRESH) == FRESH
    with pytest.raises(TrainingError, match="begun otherwise"):
        begin_run(tmp_path, History(92_000))
    (tmp_path / "history.json").unlink()  # a run of the time before histories may have seen anything
    assert begin_run(tmp_path, FRESH) == UNKNOWN


@pytest.mark.parametrize(("arguments", "history"), [(["--fresh"], FRESH), ([], History(92_000))])
def test_the_command_takes_over_the_starts_history(tmp_path, monkeypatch, arguments, history):
    monkeypatch.setattr(denoiser, "train", lambda task, folder, settings: seen.append((task.history, folder)))
    monkeypatch.setattr(denoiser_networks, "caption_corpus", lambda catalog: ["a fox on a blue background"])
    seen = []
    denoiser.main(["--run-dir", str(tmp_path), *arguments])
    assert seen == [(history, tmp_path / "denoiser")]
    assert continued(History(92_000, 300_000)) == History(92_000)
    (tmp_path / "denoiser" / "checkpoint").mkdir()
    with pytest.raises(TrainingError, match="begun otherwise"):
        denoiser.main(["--run-dir", str(tmp_path), *([] if arguments else ["--fresh"])])


def test_the_cards_commands_exist(capsys):
    found = re.findall(r"^python -m pipelines\.training\.(\w+) (.+)$", CARD, re.MULTILINE)
    assert {"autoencoder", "denoiser", "evaluate"} <= {name for name, _ in found}
    assert any(name == "denoiser" and "--fresh" in arguments for name, arguments in found)
    for name, arguments in found:
        with pytest.raises(SystemExit):
            MAINS[name](["--help"])
        known = capsys.readouterr().out
        for option in re.findall(r"--[\w-]+", arguments):
            assert f"{option} " in known or f"{option}\n" in known or f"[{option}]" in known, (name, option)
