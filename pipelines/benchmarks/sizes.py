"""`python -m pipelines.benchmark sizes`: Stable Diffusion 1.5 at its real size on the CPU, in a few minutes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipelines.benchmarks import device
from pipelines.benchmarks.device_measures import DTYPES
from pipelines.benchmarks.edit_share import EDIT_ROWS, measure_edit

__all__ = ["main"]

_SETTINGS = (
    *("--device", "cpu", "--shapes", "sd15", "--side", "256", "--steps", "2"),
    *("--rounds", "2", "--quantizers", "int8", "nf4", "--minutes", "600"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the tables; further arguments change what is measured."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark sizes", description=__doc__, add_help=False)
    parser.add_argument("--dtypes", nargs="*", default=["fp32", "bf16"], choices=list(DTYPES))
    parser.add_argument("--edit-steps", type=int, default=4, help="of an edit; 0 leaves it out")
    parser.add_argument("--only-edit", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    flags, further = parser.parse_known_args(arguments)
    if {"-h", "--help"} & {*further}:
        print(f"{parser.format_help()}\nFurther flags are those of the benchmark of devices:\n")
        flags.only_edit = False  # whose help follows
    if not flags.only_edit:
        tiny = ["--tiny"] if flags.tiny else []
        device.main([*_SETTINGS, "--dtypes", *flags.dtypes, *tiny, *further])
    if flags.edit_steps:
        print("\n" + "\n".join(EDIT_ROWS))
        for dtype in flags.dtypes:
            print(measure_edit("sd15", DTYPES[dtype], 256, flags.edit_steps, flags.tiny), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
