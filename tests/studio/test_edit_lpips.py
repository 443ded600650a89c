"""LPIPS among the figures of an edit: only where its weights are."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pipelines.metrics.lpips import FILE, Lpips
from studio.backend import Studio, StudioSettings
from studio.jobs.job import JobStatus
from studio.page.edit.viewer import edit_figures
from studio.reliability.jobs import encode_source_picture
from tests.studio.waiting import ended

NAMES = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")


@pytest.fixture
def studio(tmp_path):
    studio = Studio(StudioSettings(outputs=tmp_path / "outputs", models=tmp_path / "models", device="cpu"))
    yield studio
    studio.close()


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    metric = Lpips((4, 6, 5, 3, 3))
    state = {f"lin{i}.model.1.weight": weight.reshape(1, -1, 1, 1).clone() for i, weight in enumerate(metric.weights)}
    for name, layer in zip(NAMES, metric.convolutions, strict=True):
        state |= {f"net.{name}.weight": layer.weight, f"net.{name}.bias": layer.bias}
    path = tmp_path / "models" / FILE
    path.parent.mkdir(parents=True)
    save_file(state, path)
    return path


def edited(studio):
    values = {
        "base": {"prompt": "a cat on a blue background", "num_inference_steps": 2},
        "picture": encode_source_picture(),
        "source_prompt": "a fox on a blue background",
        "edit": "replace",
    }
    return ended(studio.submit("edit", values))


def test_with_its_weights_it_is_measured(weights, studio):
    view = edited(studio)
    assert view.status is JobStatus.DONE, view.message
    assert 0 < view.cells[1].figures["lpips"] < 10
    assert view.cells[2].figures["source_lpips"] > 0
    assert "LPIPS" in edit_figures(view) and "weights missing" not in edit_figures(view)


def test_without_them_the_page_says_so_and_nothing_is_fetched(studio):
    view = edited(studio)
    assert view.status is JobStatus.DONE and "lpips" not in view.cells[1].figures
    assert "weights missing" in edit_figures(view)


def test_broken_ones_are_told_before_the_work(weights, studio):
    weights.write_bytes(b"broken")
    view = edited(studio)
    assert view.status is JobStatus.FAILED and "lpips-alex" in view.message
    assert not any(cell.rows for cell in view.cells)
