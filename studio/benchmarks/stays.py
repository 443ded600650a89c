"""How far a request goes from the click to the loop: through which files of ours, and how often it enters one.

    python -m studio.benchmarks.stays

A stay is a stretch of calls within one file. Calls are seen by Python's profiler in the thread that takes the request
and in the worker; what a generator or a callback does later counts when it runs. The way ends where the loop begins.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["follow_request", "main"]

ROOT = Path(__file__).resolve().parents[2]


class _Trace:
    """The files of ours that calls are made in, in order, from when it listens until the loop begins."""

    def __init__(self) -> None:
        self.stays: list[str] = []
        self.listens = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        if not self.listens or event != "call" or not path.startswith(str(ROOT)):
            return
        name = Path(path).relative_to(ROOT).as_posix()
        if not name.startswith(("studio/", "pipelines/")) or name.startswith("studio/benchmarks/"):
            return
        self.listens = name != "pipelines/core/loop.py"
        if not self.stays or self.stays[-1] != name:
            self.stays.append(name)


@contextlib.contextmanager
def _traced(trace: _Trace) -> Iterator[None]:
    """Threads that are started in the context are seen, and this one."""
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def follow_request() -> list[str]:
    """Return the files that a picture of the shipped model stays in, in order; the model is loaded before."""
    from studio.backend import Studio, StudioSettings

    trace = _Trace()
    with tempfile.TemporaryDirectory() as home, _traced(trace):
        studio = Studio(StudioSettings(outputs=Path(home) / "outputs", models=Path(home) / "models", device="cpu"))

        for seed in range(2):
            trace.listens = seed == 1
            job = studio.submit("text_to_image", {"prompt": "a fox", "num_inference_steps": 1, "seed": seed})
            while not (view := job.view()).status.final:
                job.wait(view.version, 1)
        studio.close()
    return trace.stays


def main() -> None:
    """Print the figures and the way."""
    stays = follow_request()
    print(f"{len(stays)} stays in {len(set(stays))} files")
    print("\n".join(stays))


if __name__ == "__main__":
    main()
