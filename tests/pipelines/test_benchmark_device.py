"""The script for the day that a GPU can be had runs on the stand-in, and its tables hold what they say."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.benchmarks import device as benchmark
from pipelines.benchmarks import device_measures
from pipelines.benchmarks.device_measures import measure_parity, measure_quantizers, measure_step
from pipelines.benchmarks.device_models import SHAPES
from tests.pipelines.accelerator import Accelerator

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", SHAPES)
def test_every_family_agrees_with_the_cpu_on_the_stand_in(name):
    with Accelerator("cuda").on():
        full, *halves = (float(cell) for cell in measure_parity(name, "cuda:0").strip("| ").split(" | ")[1:])
    assert full < 1e-5 and all(0 < half < 0.1 for half in halves)


def test_the_script_writes_its_tables_says_what_failed_and_goes_on_where_it_ended(monkeypatch, tmp_path, capsys):
    """Aborted in its second table, then begun again: what stood is not measured again, what failed is."""

    def fail(error):
        def measure(*_):
            raise error

        return measure

    device = Accelerator("cuda")
    for name, answer in {
        "max_memory_allocated": 2_000_000_000,
        "memory_allocated": 10**9,
        "memory_reserved": 10**9,
        "reset_peak_memory_stats": None,
        "set_per_process_memory_fraction": None,
        "get_device_name": "Stand-in",
        "device_count": 1,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, _answer=answer: _answer)
    monkeypatch.setattr(benchmark, "measure_parity", lambda name, _: f"| {name} | 0.0 | 0.0 | 0.0 |")
    run = ("--device", "cuda:0", "--tiny", "--shapes", "sd15", "--dtypes", "fp32", "--side", "128", "--steps", "2")
    run += ("--rounds", "1", "--quantizers", "int8", "--out", str(tmp_path))
    measured = benchmark.measure_step
    with device.on():
        monkeypatch.setattr(benchmark, "measure_step", fail(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            benchmark.main(run)
        assert "| flux | 0.0 | 0.0 | 0.0 |" in (tmp_path / "device.md").read_text()
        monkeypatch.setattr(benchmark, "measure_parity", lambda *_: pytest.fail("it stands already"))
        monkeypatch.setattr(
            benchmark,
            "measure_step",
            lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory | 1")),
        )
        assert benchmark.main(run) == 1
        failed = (tmp_path / "device.md").read_text()
        assert "| sd15 fp32 | failed: OutOfMemoryError: CUDA out of memory / 1 |" in failed
        assert (
            "| int8, float32 |" in failed
            and "decodes whole" in failed
            and "stops: The picture has infinite or NaN" in failed
        )
        monkeypatch.setattr(benchmark, "measure_quantizers", lambda *_: pytest.fail("it stands already"))
        monkeypatch.setattr(benchmark, "measure_step", measured)
        assert benchmark.main(run) == 0
        assert benchmark.main([*run, "--rounds", "2", "--minutes", "0"]) == 1
    (row,) = [line for line in failed.splitlines() if line.startswith("| sd15 128² fp32 |")]
    assert row.endswith(" | 2.00 and 2.00 GB | 0.0e+00 |"), row
    said = capsys.readouterr().out
    assert said.count("failed") == 1 and "left out: the 0 minutes are over" in said


def test_a_large_network_is_made_where_it_is_to_run(monkeypatch):
    """Of random numbers of its own, in its dtype at once."""
    shape = SHAPES["sd15"]
    small = dataclasses.replace(shape, network=lambda tiny: torch.nn.Linear(3, 2))
    with Accelerator("cuda").on():
        network = device_measures._make_network(small, "cuda:0", torch.bfloat16, False)
        assert network.weight.device.type == "cuda" and network.weight.dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32


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
    (row,) = measure_quantizers("sd15", "cpu", torch.float32, 128, 1, ["int8"], True)
    assert row.startswith("| int8, float32 |")
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
