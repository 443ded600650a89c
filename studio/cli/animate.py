"""`python -m studio animate`: a clip from the command line."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice
from pipelines.core.errors import SettingsError
from studio.cli.requests import follow, request_values

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["add_animate", "animate", "animate_values", "parse_key"]


def add_animate(commands: Any, add_request: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command to the parser's; `add_request` adds the flags of a request."""
    parser = commands.add_parser("animate", help="make a clip")
    add_request(parser)
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="[PROMPT][@SEED]",
        help="where a walk goes next, e.g. 'a cat@7', or '@7' for another seed; repeat for more",
    )
    parser.add_argument(
        "--method", metavar="KEY[,SETTING=VALUE...]", help="e.g. walk,loop=true (default: what fits the model)"
    )
    parser.add_argument("--frames", type=int, help="of the clip (default: the model's)")
    parser.add_argument("--fps", type=int, help="frames a second (default: the model's)")
    parser.add_argument("--first-frame", type=Path, metavar="FILE", help="a picture that the clip starts from")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .mp4, .webp or .gif file; without a suffix it gets one",
    )


def parse_key(text: str) -> dict[str, Any]:
    """{"prompt": "a cat", "seed": 7} from "a cat@7"; either part may be left out."""
    prompt, at, seed = text.rpartition("@")
    if not at or not seed.strip().isdigit():
        prompt, seed = text, ""
    key: dict[str, Any] = {"prompt": prompt.strip()} if prompt.strip() else {}
    return key | ({"seed": int(seed)} if seed else {})


def animate_values(flags: argparse.Namespace) -> dict[str, Any]:
    """The plain values of the task "animate" that the flags gave; the named file is read.

    Raises:
        SettingsError: the file to write has another suffix than a clip's.
    """
    from pipelines.workflows.video.request import CLIP_FORMATS

    format = flags.out.suffix.lower().lstrip(".")
    if format and format not in CLIP_FORMATS:
        raise SettingsError(f"{flags.out.name} is no clip's name. End it in .{', .'.join(CLIP_FORMATS)}.")
    values: dict[str, Any] = {
        "base": request_values(flags),
        **({"format": format} if format else {}),
        "keys": [parse_key(key) for key in flags.key],
    }
    given = {
        "frames": flags.frames,
        "fps": flags.fps,
        "method": flags.method and parse_choice(flags.method),
        "first_frame": flags.first_frame and flags.first_frame.read_bytes(),
    }
    return values | {name: value for name, value in given.items() if value is not None}


def animate(studio: Studio, flags: argparse.Namespace) -> list[Path]:
    """Make the clip and copy it to where it was asked for."""
    view = follow(studio.submit("animate", animate_values(flags)), sys.stderr)
    for note in {cell.note for cell in view.cells if cell.note}:
        print(note, file=sys.stderr)
    for result in view.cells[0].results if view.cells else ():
        made = studio.store.get(result).path
        out = flags.out if flags.out.suffix else flags.out.with_suffix(made.suffix)
        shutil.copyfile(made, out)
        return [out]
    return []
