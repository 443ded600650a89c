"""The script for the day that a GPU can be had runs on the stand-in, and its tables hold what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.benchmarks.device import measure_parity, measure_quantizers, measure_step
from pipelines.benchmarks.device_models import SHAPES
from tests.pipelines.accelerator import Accelerator

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_runs_on_the_stand_in_and_every_family_agrees_with_the_cpu(monkeypatch):
    device = Accelerator("cuda")
    with device.on():
        rows = measure_parity("cuda:0")[2:]
    assert len(rows) == 4
    for row in rows:
        full, *halves = (float(cell) for cell in row.strip("| ").split(" | ")[1:])
        assert full < 1e-5 and all(0 < half < 0.1 for half in halves), row


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("sdxl", "sd3"))) for name in SHAPES]
)
def test_the_stock_pipeline_beside_ours_makes_the_same_picture(name, monkeypatch):
    """In float32, so that what is left is the order of sums; a slip of one timestep is above 1e-2."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 2_000_000_000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    with Accelerator("cuda").on():
        row = measure_step(name, "cuda:0", torch.float32, 128, 4, 1, True)
    model, stock, ours, shown, picture, peak, difference = row.strip("| ").split(" | ")
    assert model == f"{name} 128² float32" and peak == "2.0 and 2.0 GB"
    assert all(float(cell.split()[0]) > 0 for cell in (stock, ours, shown, picture))
    assert float(difference) < 1e-4


def test_a_quantizers_row_has_its_time_and_its_ratios():
    (row,) = measure_quantizers("sd15", "cpu", torch.float32, 128, 1, ["int8"], True)[2:]
    assert row.startswith("| int8 |")
    assert all(cell == "–" or float(cell.split()[0]) >= 0 for cell in row.strip("| ").split(" | ")[1:])


@pytest.mark.skipif(os.name != "posix", reason="other systems have no SIGTERM")
def test_a_benchmark_that_is_told_to_end_ends_what_it_started(tmp_path):
    (tmp_path / "slow.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    program = "from pipelines.benchmarks.__main__ import *; BENCHMARKS['x'] = 'slow'; raise SystemExit(main(['x']))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        process.terminate()
        assert process.wait(20) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize("name", ["device", "sizes"])
def test_the_benchmark_is_named(name):
    from pipelines.benchmarks.__main__ import BENCHMARKS

    assert name in BENCHMARKS
