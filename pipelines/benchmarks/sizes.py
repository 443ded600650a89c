"""`python -m pipelines.benchmark sizes`: Stable Diffusion 1.5 at its real size on the CPU, in a few minutes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.benchmarks import device

__all__ = ["main"]

_SETTINGS = (
    *("--device", "cpu", "--shapes", "sd15", "--dtypes", "fp32", "bf16", "--side", "256", "--steps", "2"),
    *("--rounds", "2", "--quantizers", "int8", "nf4"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the tables; further arguments change what is measured."""
    return device.main([*_SETTINGS, *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    raise SystemExit(main())
