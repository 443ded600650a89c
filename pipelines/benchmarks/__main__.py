"""`python -m pipelines.benchmark NAME`: measurements, each in one run, as tables for the pages of docs/.

The studio's figures are measured from outside the core, in a process of their own: the core knows no page.
"""

from __future__ import annotations

import subprocess
import sys

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS = {
    "studio": "studio.benchmarks.main",
    "reliability": "studio.benchmarks.reliability",
    "samplers": "pipelines.benchmarks.samplers",
    "edits": "pipelines.benchmarks.edits",
    "quantization": "studio.benchmarks.quantization",
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
    return subprocess.run([sys.executable, "-m", BENCHMARKS[arguments[0]], *arguments[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
