"""Memory of a server that runs hundreds of mixed jobs."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.core.errors import StepwiseError
from studio.reliability.jobs import draw_mixed_calls
from studio.reliability.server import Server, run_server

__all__ = ["Memory", "compute_growth", "measure_memory", "measure_settled_memory", "run"]

_SETTLED = 2**18
"""Bytes by which two measurements may differ while nothing is being given back."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Holds what one process takes.

    Attributes:
        rss: bytes that are resident.
        uss: of these, bytes that no other process shares.
    """

    rss: int
    uss: int


def measure_memory(pid: int) -> Memory:
    """Measure the memory of a process as the kernel counts it.

    Raises:
        StepwiseError: this system does not tell (only Linux does).
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError as error:
        raise StepwiseError("The memory of a process can be measured on Linux only.") from error
    sizes = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
    return Memory(sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


def measure_settled_memory(pid: int, pause: float = 0.05, most_pauses: int = 40) -> Memory:
    """Measure the memory of a process when it no longer falls: what a job has freed is given back to the system after
    its answer, later on a busy machine.

    Args:
        pid: of the process.
        pause: seconds between two measurements.
        most_pauses: after which the last one is taken all the same.
    """
    memory = measure_memory(pid)
    for _ in range(most_pauses):
        time.sleep(pause)
        before, memory = memory, measure_memory(pid)
        if memory.rss > before.rss - _SETTLED:
            break
    return memory


def compute_growth(samples: Sequence[float], part: int = 10) -> float:
    """Compute how far the samples rise above where they began, as a share: the highest of the medians of ten ÷ the
    first.

    Args:
        samples: in order, at least `part`.
        part: samples that a median is taken of, so that a single one does not count.
    """
    medians = [statistics.median(samples[i : i + part]) for i in range(0, len(samples) - part + 1, part)]
    return max(medians) / medians[0] - 1


def run(folder: Path, jobs: int = 300) -> dict[str, object]:
    """Measure the figure: growth over the last two thirds of the jobs.

    Args:
        folder: for the server's files.
        jobs: how many, at least 30.

    Returns:
        `rss_growth` and `uss_growth` as shares, the sizes, and how many jobs ended how.
    """
    samples, ends = [], {"done": 0, "refused": 0, "broken": 0}
    # A cache of finished runs that is full after a third of the jobs: as large as usual it would fill until the end.
    with run_server(folder, rate_limit=False, flags=("--run-cache", "1")) as server:
        for name, data in draw_mixed_calls(jobs):
            ends[_end(server, name, data)] += 1
            samples.append(measure_settled_memory(server.process.pid))
        num_tracebacks = server.log.count("Traceback")
    last = samples[len(samples) // 3 :]
    return {
        "jobs": jobs,
        **ends,
        "tracebacks": num_tracebacks,
        "rss_growth": compute_growth([one.rss for one in last]),
        "uss_growth": compute_growth([one.uss for one in last]),
        "rss_mib": [one.rss / 2**20 for one in samples[:: max(1, jobs // 30)]],
        "uss_mib": [one.uss / 2**20 for one in samples[:: max(1, jobs // 30)]],
    }


def _end(server: Server, name: str, data: list) -> str:
    answer = server.call(name, *data)
    if answer.event == "complete" and answer.value[0]["status"] == "done":
        return "done"
    return "refused" if answer.refused else "broken"
