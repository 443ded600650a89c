"""Count the functions of ours that a request passes on its way from the click to the loop.

`python -m studio.benchmarks.stays` runs two small jobs on the shipped model and prints the functions of the second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from pipelines.core.types import Request
from studio.backend import Studio, StudioSettings
from studio.jobs.job import Job

__all__ = ["Stays", "count_stays"]

_ROOT = Path(__file__).resolve().parents[2]
_VALUES = {"model": "emoji", "prompt": "a red fox", "num_inference_steps": 2, "seed": 1}
_LOOP = str(_ROOT / "pipelines" / "core" / "loop.py")


class Stays:
    """Notes each function of ours that is given a request: its plain values, or the checked one.

    A function that is given a job, or anything else that holds the request, does not count.
    """

    def __init__(self) -> None:
        self.functions: dict[tuple[str, str], int] = {}
        self._is_over = False

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        """Take part in Python's profiling, until the loop is reached."""
        code = frame.f_code
        if self._is_over or event != "call" or not code.co_filename.startswith(str(_ROOT)):
            return
        self._is_over = code.co_filename == _LOOP
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        place = Path(code.co_filename).relative_to(_ROOT)
        if place.parts[0] in ("pipelines", "studio") and any(_is_request(frame.f_locals.get(name)) for name in names):
            key = (place.as_posix(), code.co_name)
            self.functions[key] = self.functions.get(key, 0) + 1


def _is_request(value: object) -> bool:
    return isinstance(value, Request) or (isinstance(value, dict) and _VALUES.keys() <= value.keys())


def count_stays(studio: Studio) -> Stays:
    """Run a job of text to image twice, the first time to load the model, and follow the second one's request."""
    _wait(studio.submit("text_to_image", _VALUES))
    stays, engine = Stays(), studio.engine
    run = engine._run

    def follow(job: Job) -> None:
        sys.setprofile(stays.note)
        try:
            run(job)
        finally:
            sys.setprofile(None)

    engine._run = follow
    sys.setprofile(stays.note)
    try:
        job = studio.submit("text_to_image", {**_VALUES, "seed": 2})
    finally:
        sys.setprofile(None)
    _wait(job)
    engine._run = run
    return stays


def _wait(job: Job) -> None:
    while not job.view().status.final:
        job.wait(job.view().version, 1.0)


def _list_lines(stays: Stays) -> Iterator[str]:
    yield from (f"{count}  {file}: {name}" for (file, name), count in stays.functions.items())
    files = {file for file, _ in stays.functions}
    yield f"{len(stays.functions)} functions in {len(files)} files"


def main() -> None:
    """Print the functions in the order in which the request reaches them."""
    argparse.ArgumentParser(description="Count the functions that a request passes before the loop.").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = StudioSettings(Path(folder) / "outputs", Path(folder) / "models", device="cpu")
        studio = Studio(settings)
        try:
            print("\n".join(_list_lines(count_stays(studio))))
        finally:
            studio.close()


if __name__ == "__main__":
    main()
