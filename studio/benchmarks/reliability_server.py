"""The figures of a server that many people use, as rows of the reliability table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["measured_server"]

Row = tuple[str, str, str, bool]

_MEMORY = 64 * 2**20
_DISK = 512 * 2**20
_SLOWEST = 2.0


def measured_server(parts: Mapping[str, Mapping[str, object]]) -> list[Row]:
    """Measure in a running server; returns each figure as (name, what it must be, what it is, whether it is that).

    Args:
        parts: name of a part to what it has measured; those that were not measured are left out.
    """
    rows: list[Row] = []
    for name, describe in _DESCRIPTIONS.items():
        if one := parts.get(name):
            rows += describe(one)
    return rows


def _describe_crowd(one: Mapping[str, Any]) -> Iterator[Row]:
    clients, done = one["clients"], one["done"]
    yield (
        f"{clients} `gradio_client` clients at once, each its own picture",
        f"{clients}, 0 crossed",
        f"{done} done of {one['connected']} connected, {one['crossed']} crossed",
        done == clients and not one["crossed"],
    )
    ratio = one["slowest_to_median"]
    yield "slowest of them ÷ median", f"≤ {_SLOWEST:g}", f"{ratio:.2f}", ratio <= _SLOWEST
    page, config = one["page_seconds"], one["config_seconds"]
    yield "a load of the page meanwhile", "≤ 2 s", f"{page:.1f} s (`/config` {config:.1f} s)", page <= 2.0


def _describe_stops(one: Mapping[str, Any]) -> Iterator[Row]:
    what = "200 steps of four pictures of 2048 × 2048 pixels"
    cancel, leave = one["cancel_seconds"], one["exit_seconds"]
    yield f"a stop in {what}", "≤ 5 s", f"{cancel:.1f} s", cancel <= 5.0 and one["cancelled"]
    yield (
        "SIGTERM in them",
        "≤ 5 s, status 0, 2 of 2 clients told",
        f"{leave:.1f} s, status {one['status']}, {one['told']} told",
        leave <= 5.0 and one["status"] == 0 and one["told"] == 2,
    )


def _describe_uploads(one: Mapping[str, Any]) -> Iterator[Row]:
    memory, disk = one["memory_bytes"], one["disk_bytes"]
    yield (
        f"memory and disk that {one['uploads']} unfinished uploads of 32 MiB hold",
        f"≤ {_MEMORY / 2**20:.0f} and {_DISK / 2**20:.0f} MiB",
        f"{memory / 2**20:.0f} and {disk / 2**20:.0f} MiB ({one['left_bytes'] / 2**20:.0f} MiB left behind)",
        memory <= _MEMORY and disk <= _DISK and not one["left_bytes"],
    )


def _describe_trash(one: Mapping[str, Any]) -> Iterator[Row]:
    yield (
        f"addresses of {one['results']} deleted results that still answer",
        "0",
        f"{one['answered_after']} of {one['answered_before']}",
        one["answered_after"] == 0 and one["answered_before"] == one["addresses"],
    )
    freed, disk = one["freed_bytes"], one["disk_bytes"]
    yield "bytes freed by emptying their trash", f"{disk:,}", f"{freed:,}", freed == disk > 0


def _describe_strangers(one: Mapping[str, Any]) -> Iterator[Row]:
    is_fine = one["refused"] == one["probes"] and one["own_is_open"] and one["admin_sees_all"]
    yield "one person's probes at another's things refused", f"all {one['probes']}", f"{one['refused']}", is_fine


_DESCRIPTIONS = {
    "crowd": _describe_crowd,
    "stops": _describe_stops,
    "uploads": _describe_uploads,
    "trash": _describe_trash,
    "strangers": _describe_strangers,
}
