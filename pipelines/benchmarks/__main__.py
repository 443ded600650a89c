"""`python -m pipelines.benchmark NAME`: measurements, each in one run, as tables for the pages of docs/.

The studio's figures are measured from outside the core, in a process of their own: the core knows no page.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS = {
    "studio": "studio.benchmarks.main",
    "reliability": "studio.benchmarks.reliability",
    "samplers": "pipelines.benchmarks.samplers",
    "edits": "pipelines.benchmarks.edits",
    "quantization": "pipelines.benchmarks.quantization",
    "files": "pipelines.benchmarks.files",
    "device": "pipelines.benchmarks.device",
    "peers": "studio.benchmarks.peers",
    "sizes": "pipelines.benchmarks.sizes",
    "prompt_weights": "pipelines.benchmarks.prompt_weights",
    "speed": "pipelines.benchmarks.speed",
    "guidance": "pipelines.benchmarks.guidance",
    "search": "pipelines.benchmarks.search",
    "live": "pipelines.benchmarks.live",
}
"""Name to the module that measures."""


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in BENCHMARKS:
        print(f"usage: python -m pipelines.benchmark {{{','.join(BENCHMARKS)}}} [--help]", file=sys.stderr)
        return 2
    measuring = subprocess.Popen(
        [sys.executable, "-m", BENCHMARKS[arguments[0]], *arguments[1:]], start_new_session=os.name == "posix"
    )
    with _passed_on(measuring):
        return measuring.wait()


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the measuring process, and what it has started, where this one is asked to end."""

    def end(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(process.pid, number)
            else:
                process.terminate()

    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
