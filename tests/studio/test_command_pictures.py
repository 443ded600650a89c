"""What the command line's `--out` makes of a name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.core.types import Request
from studio import infotext
from studio.backend import Studio
from studio.cli import main as command_line
from studio.exports.pictures import write_picture, write_result
from studio.results.store import Store

REQUEST = Request(prompt="a fox", seed=7, num_inference_steps=6)


@pytest.fixture
def stored(tmp_path):
    store = Store(tmp_path / "outputs")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    return store.save(Image.fromarray(pixels), {"request": REQUEST.to_json()}, infotext.write(REQUEST.to_json())).path


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("fox.png", "PNG"),
        ("fox.jpg", "JPEG"),
        ("fox.JPEG", "JPEG"),
        ("fox.webp", "WEBP"),
        ("fox.PNG", "PNG"),
    ],
)
def test_the_suffix_chooses_the_format_and_the_settings_go_along(stored, tmp_path, name, format):
    write_result(stored, tmp_path / name)
    with Image.open(tmp_path / name) as written, Image.open(stored) as whole:
        assert written.format == format
        assert np.abs(np.asarray(written.convert("RGB"), int) - np.asarray(whole, int)).mean() < 6
    restored = infotext.read(tmp_path / name)
    assert Request.parse(restored.with_named_models()) == REQUEST


def test_a_picture_without_settings_says_none(tmp_path):
    for name in ("grid.png", "grid.jpg", "grid.webp"):
        write_picture(Image.new("RGB", (8, 8)), tmp_path / name)
        assert infotext.read(tmp_path / name) is None


@pytest.mark.parametrize(
    ("command", "others"),
    [
        (("generate", "a fox"), ""),
        (("edit", "a fox", "--picture", "x.png"), ""),
        (("compare", "a fox"), ".csv"),
        (("quantize", "a fox"), ".json"),
    ],
)
@pytest.mark.parametrize("name", ["fox", "fox.gif", "fox.mp4"])
def test_a_name_that_says_no_format_is_refused_before_the_run(tmp_path, monkeypatch, capsys, command, others, name):
    monkeypatch.setattr(Studio, "submit", lambda *_: pytest.fail("it was run"))
    folders = ("--outputs-folder", str(tmp_path / "o"), "--models-folder", str(tmp_path / "m"))
    assert command_line.main([*folders, *command, "--out", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert repr(name) in said and ".webp" in said and others in said


@pytest.mark.parametrize(
    "command",
    [("edit", "a fox", "--picture", "{gone}"), ("upscale", "--picture", "{gone}")],
    ids=lambda command: command[0],
)
def test_a_picture_that_is_not_there_is_named_in_a_sentence(tmp_path, capsys, command):
    gone = str(tmp_path / "gone.png")
    folders = [part for name in ("outputs", "models") for part in (f"--{name}-folder", str(tmp_path / name))]
    arguments = [part.format(gone=gone) for part in command]
    assert command_line.main([*folders, *arguments, "--out", str(tmp_path / "out.png")]) == 2
    said = capsys.readouterr().err
    assert f"{gone} cannot be read" in said and "Errno" not in said
