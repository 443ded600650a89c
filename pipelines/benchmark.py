"""The measurements of the project: `python -m pipelines.benchmark`."""

from __future__ import annotations

import sys

from pipelines.benchmarks.__main__ import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
