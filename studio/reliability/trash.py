"""Deleting: 404 at once, and bytes that come back when the trash is emptied."""

from __future__ import annotations

from typing import Any

from studio.reliability.server import Server

__all__ = ["run"]


def run(server: Server, results: int = 10) -> dict[str, Any]:
    """Measure the figure: how many deleted results still answer, and how many of their bytes emptying the trash frees.

    Args:
        server: running.
        results: that are made and deleted.
    """
    answers = [
        server.call("generate", f"fox {i}", {"num_inference_steps": 1, "seed": i}).value[0] for i in range(results)
    ]
    ids = [one["cells"][0]["results"][0] for one in answers]
    paths = [one["images"][0]["path"] for one in answers]
    addresses = [f"/stepwise/results/{one}" for one in ids] + [f"/stepwise/results/{one}/small" for one in ids]
    addresses += [f"/gradio_api/file={path}" for path in paths]
    before = sum(server.web.get(address).status_code == 200 for address in addresses)
    server.call("gallery_change", "delete", ids)
    after = sum(server.web.get(address).status_code != 404 for address in addresses)
    bytes_before = _bytes(server)
    freed = server.call("gallery_change", "empty", []).value[0]
    return {
        "results": results,
        "answered_before": before,
        "answered_after": after,
        "addresses": len(addresses),
        "freed_bytes": freed["freed_bytes"],
        "disk_bytes": bytes_before - _bytes(server),
    }


def _bytes(server: Server) -> int:
    return sum(path.stat().st_size for path in server.outputs.rglob("*.png"))
