"""kill -9 at random moments: what was reported as finished is there, whole, and nothing broken is."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.errors import SettingsError, StepwiseError
from studio.reliability.jobs import as_task, draw_mixed_calls
from studio.reliability.results import is_whole

if TYPE_CHECKING:
    from studio.jobs.job import Job
    from studio.results.store import Record, Store

__all__ = ["inspect", "run"]

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST = 3.0
"""Seconds of running jobs, the longest before a kill."""


def run(folder: Path, kills: int = 30, seed: int = 0) -> dict[str, object]:
    """Measure the figure: finished results that are lost or broken after so many kills.

    Args:
        folder: for the results.
        kills: how many times a process that runs jobs is killed.
        seed: of the moments and of the jobs.

    Returns:
        `lost` and `broken`, and how much there was: results, rows that came back by reconciling, unfinished files.
    """
    draw, outputs = random.Random(seed), folder / "outputs"
    reported: set[str] = set()
    for _ in range(kills):
        reported |= _run_and_kill(folder, draw)
    return {"kills": kills, **inspect(outputs, reported)}


def inspect(outputs: Path, reported: set[str]) -> dict[str, int]:
    """Report what the results folder looks like to the next start of the program.

    Args:
        outputs: the folder.
        reported: ids that were reported as finished.
    """
    from studio.results.store import Store

    store = Store(outputs)
    repairs = store.reconcile(older_than=0.0)
    rows = {record.id: record for record in _list_records(store)}
    num_broken = sum(not is_whole(record.path) for record in rows.values())
    stray = [path for path in outputs.glob("20*/*") if path.name.partition(".")[0] not in rows]
    return {
        "results": len(rows),
        "reported": len(reported),
        "lost": len(reported - set(rows)),
        "broken": num_broken + len(stray),
        "rows_restored": repairs.adopted,
        "unfinished_removed": repairs.leftovers,
    }


def _list_records(store: Store) -> list[Record]:
    records: list[Record] = []
    page = store.list(limit=1000)
    while page:
        records += page
        page = store.list(limit=1000, before=page[-1].id)
    return records


def _run_and_kill(folder: Path, draw: random.Random) -> set[str]:
    """Start jobs in a process, kill it at some moment; the ids that it had reported by then."""
    command = [sys.executable, "-m", "studio.reliability.kills", str(folder), str(draw.randrange(2**31))]
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        reported = _wait_until_ready(process)
        time.sleep(draw.uniform(0.0, _LONGEST))
    finally:
        process.send_signal(signal.SIGKILL)
        lines = process.communicate()[0].splitlines()
    return {*reported, *lines}


def _wait_until_ready(process: subprocess.Popen) -> set[str]:
    reported: set[str] = set()
    for line in process.stdout or ():
        if line == "ready\n":
            return reported
        reported.add(line.strip())
    raise StepwiseError("The process that is to be killed did not start its jobs.")


def main() -> None:
    """Run mixed jobs without end; print the id of every result as soon as its job says that it is finished."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    from studio.backend import Studio, StudioSettings

    studio = Studio(StudioSettings(outputs=folder / "outputs", models=folder / "models", device="cpu"))
    for number, (name, data) in enumerate(draw_mixed_calls(10**6, seed)):
        with contextlib.suppress(SettingsError):  # some are wrong on purpose
            _print_results(studio.submit(*as_task(name, data)))
        if number == 0:
            print("ready", flush=True)  # the model is loaded: from here on jobs run all the time


def _print_results(job: Job) -> None:
    reported: set[str] = set()
    view = job.view()
    while True:
        fresh = {result for cell in view.cells for result in cell.results} - reported
        print("".join(f"{result}\n" for result in fresh), end="", flush=True)
        reported |= fresh
        if view.status.final:
            return
        view = job.wait(view.version, 1.0)


if __name__ == "__main__":
    main()
