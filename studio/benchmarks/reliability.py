"""`python -m pipelines.benchmark reliability`: does it keep its memory, its results, and people apart, in one run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from studio.benchmarks.reliability_server import measured_server
from studio.reliability import crowd, kills, malformed, memory, probes, stops, strangers, tabs, trash, uploads
from studio.reliability.server import run_server

__all__ = ["PARTS", "Scale", "format_markdown", "list_figures", "main"]

FLAT = 0.02
"""How far memory may rise over the last two thirds of the jobs."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """Says how much is tried.

    Attributes:
        jobs: in one process.
        kills: of a process that runs jobs.
        requests: malformed ones to each endpoint.
        tabs: closed while their job runs.
        clients: that connect at the same moment.
    """

    jobs: int = 300
    kills: int = 30
    requests: int = 500
    tabs: int = 5
    clients: int = 50


def _measure_requests(folder: Path, scale: Scale) -> dict[str, Any]:
    with run_server(folder, rate_limit=False) as server:
        return malformed.run(server, scale.requests)


def _measure_probes(folder: Path, scale: Scale) -> dict[str, Any]:
    with run_server(folder) as server:
        return probes.run(server)


def _measure_tabs(folder: Path, scale: Scale) -> dict[str, Any]:
    with run_server(folder) as server:
        return tabs.run(server, scale.tabs)


def _crowd(folder: Path, scale: Scale) -> dict[str, Any]:
    with run_server(folder, rate_limit=False) as server:
        return crowd.run(server, scale.clients, folder / "downloads")


def _stops(folder: Path, scale: Scale) -> dict[str, Any]:
    with run_server(folder) as server:
        return stops.run(server)


def _uploads(folder: Path, scale: Scale) -> dict[str, Any]:
    with run_server(folder) as server:
        return uploads.run(server)


def _trash(folder: Path, scale: Scale) -> dict[str, Any]:
    with run_server(folder) as server:
        return trash.run(server)


def _strangers(folder: Path, scale: Scale) -> dict[str, Any]:
    with run_server(folder, flags=strangers.FLAGS) as server:
        return strangers.run(server)


PARTS: Mapping[str, Callable[[Path, Scale], dict[str, Any]]] = {
    "memory": lambda folder, scale: memory.run(folder, scale.jobs),
    "kills": lambda folder, scale: kills.run(folder, scale.kills),
    "requests": _measure_requests,
    "probes": _measure_probes,
    "tabs": _measure_tabs,
    "crowd": _crowd,
    "stops": _stops,
    "uploads": _uploads,
    "trash": _trash,
    "strangers": _strangers,
}
"""Name to what measures it, each in a folder and a process of its own."""


def list_figures(parts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, bool]]:
    """Return each figure as (name, what it must be, what it is, whether it is that)."""
    rows: list[tuple[str, str, str, bool]] = []
    if one := parts.get("memory"):
        detail = f"{one['done']} done, {one['refused']} refused as they must be, {one['broken']} broken"
        for name, key in (("resident memory", "rss_growth"), ("unshared memory", "uss_growth")):
            rows.append(
                (
                    f"{name}, rise over the last two thirds of {one['jobs']} mixed jobs in one process",
                    f"≤ {FLAT:.0%}",
                    f"{one[key]:.1%} ({detail})",
                    one[key] <= FLAT and not one["broken"],
                )
            )
    if one := parts.get("kills"):
        rows.append(
            (
                f"finished results lost or broken by kill -9 at {one['kills']} random moments",
                "0",
                f"{one['lost'] + one['broken']} of {one['results']}",
                not one["lost"] + one["broken"] and one["results"] > 0,
            )
        )
    if one := parts.get("requests"):
        rows += _list_requests(one)
    if one := parts.get("probes"):
        for kind, (refused, tried) in one["kinds"].items():
            rows.append((f"{kind} probes refused", f"all {tried}", f"{refused}", refused == tried and one["alive"]))
    if one := parts.get("tabs"):
        rows.append(
            (
                "jobs that outlive the connection that asked for them",
                f"all {one['jobs']}",
                str(one["finished"]),
                one["finished"] == one["jobs"],
            )
        )
    return [*rows, *measured_server(parts)]


def _list_requests(one: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    clients_told = (
        f"{one['server_errors']} of 5xx, {one['tracebacks_shown']} tracebacks, {one['past_a_cap']} past a cap "
        f"({one['read']:,} read as far as a value of theirs, {one['jobs']:,} made into jobs)"
    )
    malformed = (
        f"{one['requests']:,} malformed requests to {one['endpoints']} endpoints and {one['buttons']} run buttons",
        "none of each",
        clients_told,
        not one["server_errors"] + one["tracebacks_shown"] + one["past_a_cap"]
        and one["read"] >= one["requests"] / 2,  # requests that are refused as a whole prove nothing
    )
    unknown = (
        f"{one['unknown']:,} requests to unknown endpoints, functions, components, events, sessions, jobs and results",
        "all 404 or 422, 0 tracebacks in the log",
        f"{one['unknown_refused']:,}, {one['tracebacks_logged']} tracebacks",
        one["unknown_refused"] == one["unknown"] > 0 and not one["tracebacks_logged"],
    )
    return [malformed, unknown]


def format_markdown(rows: list[tuple[str, str, str, bool]]) -> str:
    """Return the figures as a Markdown table for docs/benchmarks.md."""
    head = ["| figure | must be | measured |", "| --- | --- | --- |"]
    return "\n".join(
        [
            *head,
            *(
                f"| {name} | {must} | {value}{'' if good else ' **(not reached)**'} |"
                for name, must, value, good in rows
            ),
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 when something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark reliability", description=__doc__)
    for field in dataclasses.fields(Scale):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help=f"default: {field.default}")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure only this; repeat for more")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    flags = parser.parse_args(arguments)
    scale = Scale(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Scale)})
    outcomes: dict[str, dict[str, Any]] = {}
    for name in flags.only or PARTS:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            outcomes[name] = PARTS[name](Path(folder).resolve(), scale)
        if flags.out:  # after each, so that one that breaks takes no other's figures with it
            flags.out.write_text(json.dumps(outcomes, indent=1, ensure_ascii=False), encoding="utf-8")
    rows = list_figures(outcomes)
    print(format_markdown(rows))
    for name, one in outcomes.items():
        for sentence in [*one.get("examples", ()), *one.get("let_through", ())]:
            print(f"{name}: {sentence}", file=sys.stderr)
    return int(not all(good for *_, good in rows))


if __name__ == "__main__":
    sys.exit(main())
