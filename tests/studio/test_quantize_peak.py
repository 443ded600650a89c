"""The peak of memory of a quantized model, and the command line of the comparison."""

from __future__ import annotations

import json

import pytest

from pipelines.benchmarks import quantization_peak
from pipelines.core.errors import ModelError
from pipelines.models.quantization_folder import RECORD, WEIGHTS
from pipelines.workflows.quantize import trimmed_mean
from studio.cli.main import main
from studio.jobs.job import JobStatus
from studio.tasks.runs import quantize as quantize_task
from tests.studio.waiting import ended

BASE = {"prompt": "a fox on a blue background", "seed": 5, "num_inference_steps": 4}


def done(studio, task="quantize", **values):
    job = studio.submit(task, values)
    view = ended(job)
    return job, view


def test_a_mean_without_extremes():
    assert trimmed_mean([1.0, *[2.0] * 8, 99.0]) == 2 and trimmed_mean([3.0]) == 3


def test_the_peak_of_each_variant_is_measured_with_what_it_would_be_loaded_from(studio, monkeypatch):
    asked = []

    def measured(model, folder, device, request, method, file, cancelled):
        if file is not None:
            assert file.is_file() and file.name == WEIGHTS and not (file.parent / RECORD).exists()
        asked.append((model, folder, device, request, method, file))
        if method and method["key"] == "nf4":
            raise ModelError("Measuring the peak of memory failed (killed). Leave it out.")
        assert cancelled() is False
        return 1000 * len(asked)

    monkeypatch.setattr(quantize_task, "peak_bytes", measured)
    studio.catalog.folder.mkdir(parents=True, exist_ok=True)
    before = set(studio.catalog.folder.iterdir())
    four = {"key": "int4", "group_size": 16}
    _, view = done(studio, base=BASE, variants=["int8", "nf4", four], measure=False, peak=True)
    assert view.status is JobStatus.DONE, view.message
    assert [method for *_, method, _ in asked] == [None, {"key": "int8"}, {"key": "nf4"}, four]
    assert {(model, folder, device) for model, folder, device, *_ in asked} == {("emoji", studio.catalog.folder, "cpu")}
    assert all(
        request["width"] == request["height"] == 64 and request["prompt"] == BASE["prompt"]
        for *_, request, _, _ in asked
    )
    files = [file for *_, file in asked]
    assert files[0] is None and len({*files}) == 4 and not any(file.exists() for file in files[1:])
    assert set(studio.catalog.folder.iterdir()) == before, "measured files are nobody's models"
    assert [row["peak"] for row in view.outcome["rows"]] == [1000, 2000, None, 4000]
    assert [cell.figures.get("peak") for cell in view.cells] == [1000, 2000, None, 4000]
    assert "failed (killed)" in view.outcome["rows"][2]["problem"] and view.cells[2].results
    asked.clear()
    _, view = done(studio, base=BASE, variants=["int8"], measure=False)
    assert not asked and view.outcome["rows"][1]["peak"] is None


def test_the_command_line_measures_the_peak_where_it_is_asked_to(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quantize_task, "peak_bytes", lambda *_: 123_400_000)
    folders = ["--outputs-folder", str(tmp_path / "outputs"), "--models-folder", str(tmp_path / "models")]
    words = [
        "quantize",
        BASE["prompt"],
        "--steps",
        "1",
        "--with",
        "int8",
        "--no-measure",
        "--out",
        str(tmp_path / "a.json"),
    ]
    assert main([*folders, *words, "--peak"]) == 0
    assert capsys.readouterr().out.count("peak 123.4 MB") == 2
    assert main([*folders, *words]) == 0 and "peak" not in capsys.readouterr().out


@pytest.mark.slow
def test_int8_takes_less_at_its_peak_than_full_precision(studio):
    _, view = done(studio, base={**BASE, "num_inference_steps": 1}, variants=["int8"], measure=False, peak=True)
    full, int8 = (row["peak"] for row in view.outcome["rows"])
    assert 20e6 < int8 < full < 400e6


@pytest.mark.slow
def test_the_peak_comes_from_a_process_of_its_own(studio, tmp_path):
    request = {**BASE, "num_inference_steps": 1}
    peak = quantization_peak.peak_bytes("emoji", tmp_path, "cpu", request)
    assert 20e6 < peak < 400e6
    with pytest.raises(ModelError, match=r"failed .*Unknown model 'gone'"):
        quantization_peak.peak_bytes("gone", tmp_path, "cpu", request)


def test_the_command_line_writes_figures(tmp_path, capsys):
    folders = ["--outputs-folder", str(tmp_path / "outputs"), "--models-folder", str(tmp_path / "models")]
    out = tmp_path / "out.json"
    words = [
        "quantize",
        BASE["prompt"],
        "--seed",
        "5",
        "--steps",
        "1",
        "--with",
        "int4,group_size=32",
        "--no-measure",
        "--keep",
    ]
    assert main([*folders, *words, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "Full precision: 35.5 MB" in said.out and "saved as emoji+int4-group_size32" in said.out
    assert json.loads(out.read_text())["rows"][1]["key"] == "emoji+int4-group_size32"
    assert main([*folders, "quantize", "a fox", "--with", "int3", "--out", str(out)]) == 2
    assert "Unknown quantizer 'int3'" in capsys.readouterr().err
