"""`python -m studio quantize`: a model beside its quantized copies, from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice
from studio.cli.pictures import require_suffix, write_result
from studio.cli.requests import follow, request_values

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["add_quantize", "quantize", "quantize_values"]


def add_quantize(commands: Any, add_request: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command to the parser's; `add_request` adds the flags of a request."""
    parser = commands.add_parser("quantize", help="a model beside its quantized copies")
    add_request(parser)
    parser.add_argument(
        "--with",
        dest="variants",
        action="append",
        default=[],
        metavar="KEY[,SETTING=VALUE...]",
        help="e.g. int8, or int4,group_size=32; repeat for more (default: int8, int4 and nf4)",
    )
    parser.add_argument("--no-measure", action="store_true", help="only pictures, PSNR, SSIM and bytes")
    parser.add_argument("--peak", action="store_true", help="also the peak of memory, each in a process of its own")
    parser.add_argument("--keep", action="store_true", help="keep the quantized models in the models folder")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .png, .jpg or .webp file, to whose name each method's is added; or .json for the figures",
    )


def quantize_values(flags: argparse.Namespace) -> dict[str, Any]:
    """The plain values of the task "quantize" that the flags gave."""
    values = {"base": request_values(flags), "measure": not flags.no_measure, "peak": flags.peak, "keep": flags.keep}
    return {**values, "variants": [parse_choice(one) for one in flags.variants]} if flags.variants else values


def quantize(studio: Studio, flags: argparse.Namespace) -> Iterator[Any]:
    """Run it, and write the pictures or the figures to where they were asked for; gives what to print."""
    require_suffix(flags.out, (".json",))
    view = follow(studio.submit("quantize", quantize_values(flags)), sys.stderr)
    for row in view.outcome["rows"]:
        yield _line(row)
    if flags.out.suffix.lower() == ".json":
        flags.out.write_text(json.dumps(dict(view.outcome), indent=1, ensure_ascii=False), encoding="utf-8")
        yield flags.out
        return
    for row in view.outcome["rows"]:
        if row["result"]:
            name = flags.out.with_stem(f"{flags.out.stem}-{row['key'].partition('+')[2] or 'full'}")
            write_result(studio.store.get(row["result"]).path, name)
            yield name


def _line(row: dict[str, Any]) -> str:
    if row["problem"]:
        return f"{row['label']}: {row['problem']}"
    parts = [f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else ""]
    parts += [f"PSNR {row['psnr']:.1f} dB" if row["psnr"] is not None else "equal" if row["identical"] else ""]
    parts += [f"SSIM {row['ssim']:.3f}" if row["ssim"] is not None else ""]
    parts += [f"{row['step_ratio']:.2f} × the time" if row["step_ratio"] else ""]
    parts += [f"peak {row['peak'] / 1e6:.1f} MB" if row["peak"] is not None else ""]
    parts += [f"kept as {row['key']}" if row["kept"] else ""]
    return f"{row['label']}: {', '.join(part for part in parts if part)}"
