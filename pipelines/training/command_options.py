"""What the commands that train on compositions read from their command lines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from pipelines.emoji.compositions import ORDINARY_SIZES, SIZES
from pipelines.training.trainer import add_arguments, use_threads

__all__ = ["build_parser", "read_options", "read_sizes"]


def build_parser(description: str | None, start: str, fresh: str) -> argparse.ArgumentParser:
    """Build the parser of a command, which may add options of its own.

    Args:
        description: of the command.
        start: what `--start` names.
        fresh: what `--fresh` draws at random.
    """
    parser = argparse.ArgumentParser(description=description)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, required=True, help=start)
    parser.add_argument("--fresh", action="store_true", help=f"begin with random {fresh}")
    parser.add_argument("--learning-rate", type=float, help="the highest (default: the recipe's)")
    parser.add_argument("--singles", type=float, help="share of single objects (default: the compositions' own)")
    parser.add_argument(
        "--sizes",
        type=read_sizes,
        default=ORDINARY_SIZES,
        metavar="SIZE,SIZE,...",
        help="sizes of the single objects that --singles adds, each with the same chance: none, small, large",
    )
    return parser


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read a command line, and have PyTorch use its threads and its seed."""
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    return options


def read_sizes(text: str) -> tuple[str | None, ...]:
    """Read sizes such as "none,small,large,large" for `sample_composition`.

    Raises: argparse.ArgumentTypeError when a word is no size.
    """
    words = [word.strip() for word in text.split(",")]
    known = {"none" if size is None else size: size for size in SIZES}
    for word in words:
        if word not in known:
            raise argparse.ArgumentTypeError(f"unknown size {word!r}; choose from {', '.join(known)}")
    return tuple(known[word] for word in words)
