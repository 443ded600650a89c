"""The flags of app.py, with their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pipelines.core.errors import SettingsError
from pipelines.models.device_choice import DTYPES

__all__ = ["EVERYWHERE", "INSECURE", "build_parser"]

INSECURE = "--insecure-no-auth-i-know"
EVERYWHERE = "0.0.0.0"


_Add = Callable[..., argparse.Action]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message[:1].upper() + message[1:])


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of app.py's command line, which refuses with a `SettingsError` instead of ending the program."""
    parser = _Parser(prog="app.py", description="Stepwise: diffusion, step by step.")
    parser.allow_abbrev = False
    for add_group in (_add_address, _add_people, _add_folders, _add_device, _add_jobs_and_results, _add_protection):
        add_group(parser.add_argument)
    return parser


def _add_address(add: _Add) -> None:
    """Where the server listens."""
    add("--host", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)")
    add("--listen", action="store_true", help=f"listen on every address ({EVERYWHERE})")
    add("--port", type=int, help="TCP port (default: the first free one from 7860)")
    add("--share", action="store_true", help="open a public link through gradio's server")


def _add_people(add: _Add) -> None:
    """Who may come in, and from where."""
    add(
        "--auth",
        action="append",
        default=[],
        metavar="USER:PASSWORD",
        help="who may sign in; repeat for more. Other people on this machine can see it",
    )
    add("--auth-file", type=Path, metavar="FILE", help="the same, one a line in a file")
    add(
        "--admin",
        action="append",
        default=[],
        metavar="USER",
        help="a login that sees, stops and deletes what everybody made; repeat for more",
    )
    add("--share-results", action="store_true", help="let everybody who signs in see everybody's results")
    add(INSECURE, action="store_true", help="let everybody in who can reach the server")
    add("--root-path", default="", metavar="PATH", help="path or address behind a proxy")
    add(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name of this server; repeat for more"
    )
    add(
        "--trust-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="another site whose pages may call this server, like https://example.org",
    )
    add(
        "--trust-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a proxy, or a network like 10.0.0.0/8, that says who asks (X-Forwarded-For); repeat for "
        "more (default: this machine with --root-path, else none)",
    )


def _add_folders(add: _Add) -> None:
    """Where files are."""
    add("--models-folder", type=Path, metavar="FOLDER", help="where models are kept")
    add(
        "--more-models",
        type=Path,
        action="append",
        default=[],
        metavar="PLACE",
        help="a further folder of models, or a yaml or JSON list of such; repeat for more",
    )
    add("--follow-links", action="store_true", help="follow links that lead out of the models folders")
    add("--outputs-folder", type=Path, metavar="FOLDER", help="where results are kept")
    add("--temp-folder", type=Path, metavar="FOLDER", help="where temporary files are kept")


def _add_device(add: _Add) -> None:
    """Where and how models run."""
    add("--memory-budget", type=float, metavar="GB", help="memory that loaded models may take")
    add(
        "--device",
        metavar="NAMES",
        help="cpu, cuda, cuda:1, mps or xpu (default: the best there is); several with commas, or all: a worker each",
    )
    add("--dtype", choices=tuple(DTYPES), default="auto", help="of the weights (default: auto, by model and device)")
    add("--attention", default="", metavar="NAME", help="a back end of diffusers' attention, e.g. native, flash, sage")
    add("--compile", action="store_true", help="let PyTorch compile networks; the first run of each size is slow")
    add("--channels-last", action="store_true", help="keep the weights of convolutions in channels last")


def _add_jobs_and_results(add: _Add) -> None:
    """How much may wait, and what stays."""
    add("--max-queue", type=int, default=64, help="jobs that may wait (default: 64)")
    add(
        "--run-cache",
        type=float,
        default=64.0,
        metavar="MB",
        help="finished runs kept for equal requests (default: 64)",
    )
    add(
        "--longest-run",
        type=float,
        metavar="MINUTES",
        help="minutes that one run may take (default: 30 where others can reach the server, else 720)",
    )
    add("--results-quota", type=float, metavar="GB", help="results and trash together take no more than this")
    add("--keep-days", type=float, metavar="DAYS", help="trash all but favorites after so many days (default: never)")
    add("--trash-days", type=float, default=30.0, metavar="DAYS", help="the trash is kept so long (default: 30)")
    add("--trash-size", type=float, metavar="GB", help="the trash takes no more than this (default: no limit)")
    add("--audit-log", type=Path, metavar="FILE", help="write down sign-ins, refusals, deletions and cancels")


def _add_protection(add: _Add) -> None:
    """What is checked of pictures, and what else is offered."""
    add(
        "--safety-checker",
        action=argparse.BooleanOptionalAction,
        help="withhold pictures that a safety checker of the models folder flags (default: where others can reach the "
        "server)",
    )
    add(
        "--watermark",
        action=argparse.BooleanOptionalAction,
        help="mark pictures invisibly (default: where others can reach the server)",
    )
    add("--mcp", action="store_true", help="offer the public functions to agents (MCP)")
    add("--browser", action=argparse.BooleanOptionalAction, default=False, help="open the page in a browser")
