"""Which file a clip becomes where nobody says: an mp4 with PyAV, which is optional, and a WebP without it."""

from __future__ import annotations

import sys

import gradio as gr
import pytest

from pipelines.core.errors import SettingsError
from pipelines.models.catalog import shipped
from studio.backend import Studio, StudioSettings
from studio.cli.main import main
from studio.jobs.job import JobStatus
from studio.page.video.examples import EXAMPLES
from studio.page.video.form import ClipChoices
from tests.pipelines.tiny_models import tiny_sd
from tests.studio.waiting import ended

COMMAND = "pip install -r requirements-video.txt"
WALK = {
    "base": {
        "model": "tiny-sd",
        "prompt": "a red fox",
        "num_inference_steps": 1,
        "width": 32,
        "height": 32,
        "sampler": "ddim",
    },
    "keys": [{"seed": 9}],
    "frames": 2,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_sd(folder / "tiny-sd")
    return folder


@pytest.fixture(scope="module")
def studio(models, tmp_path_factory):
    studio = Studio(StudioSettings(outputs=tmp_path_factory.mktemp("outputs"), models=models, device="cpu"))
    yield studio
    studio.close()


@pytest.fixture(params=[True, False], ids=["with PyAV", "without PyAV"])
def has_av(request, monkeypatch):
    if not request.param:
        monkeypatch.setitem(sys.modules, "av", None)
    return request.param


def test_a_program_that_names_no_format_gets_one_that_this_machine_can_write(studio, has_av):
    job = studio.submit("animate", WALK)
    view = ended(job)
    assert view.status is JobStatus.DONE, view.message
    (cell,) = view.cells
    assert studio.store.get(cell.results[0]).path.suffix == (".mp4" if has_av else ".webp")
    assert (COMMAND in cell.note and "WebP" in cell.note) is not has_av


def test_whoever_asks_for_an_mp4_gets_it_or_the_command(studio, has_av):
    if has_av:
        assert studio.submit("animate", {**WALK, "format": "mp4"}).request.format == "mp4"
        return
    with pytest.raises(SettingsError, match="An mp4 needs the package PyAV.*" + COMMAND):
        studio.submit("animate", {**WALK, "format": "mp4"})


def test_the_page_offers_what_the_first_click_can_write(studio, has_av):
    with gr.Blocks():
        radio = ClipChoices(studio, shipped()).format
    labels = {value: label for label, value in radio.choices}
    assert list(labels) == ["mp4", "webp", "gif"] and radio.value == ("mp4" if has_av else "webp")
    assert ("not installed" in labels["mp4"] and COMMAND in radio.info) if not has_av else radio.info is None


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.label)
def test_an_example_leaves_the_format_to_the_machine(example):
    assert "format" not in example.draft


def test_the_command_line_ends_a_name_without_a_suffix_as_it_can(models, tmp_path, capsys, has_av):
    folders = ["--outputs-folder", str(tmp_path / "outputs"), "--models-folder", str(models)]
    words = ["animate", "a red fox", "--model", "tiny-sd", "--steps", "1", "--width", "32", "--height", "32"]
    asked = [*folders, *words, "--sampler", "ddim", "--key", "@9", "--frames", "2", "--out"]
    assert main([*asked, str(tmp_path / "walk.v2")]) == 2  # a dot in a name is a suffix, and a wrong one
    made = tmp_path / ("walk.mp4" if has_av else "walk.webp")
    assert main([*asked, str(tmp_path / "walk")]) == 0
    said = capsys.readouterr()
    assert made.is_file() and str(made) in said.out and (COMMAND in said.err) is not has_av
    assert main([*asked, str(tmp_path / "other.mp4")]) == (0 if has_av else 2)
    assert (COMMAND in capsys.readouterr().err) is not has_av
