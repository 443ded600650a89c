"""Uploads that never end: how much memory and disk they hold, and that the server answers others meanwhile."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from studio.reliability.memory import measure_memory
from studio.reliability.server import Server

__all__ = ["run"]

_BYTES = 32 * 2**20
_CHUNK = b"\0" * 2**16


def run(server: Server, uploads: int = 40) -> dict[str, Any]:
    """Measure the figure: memory that unfinished uploads hold, and how long the page takes meanwhile.

    Args:
        server: running.
        uploads: begun at once, of 32 MiB each, of which the last byte never comes.

    Returns:
        `memory_bytes` and `disk_bytes` more than before, `num_refused` uploads, `page_seconds`, and `left_bytes` on the
        disk after the connections were cut.
    """
    before, disk = measure_memory(server.process.pid).rss, _measure_disk(server.folder / "temp")
    lines = [_begin(server.url, number) for number in range(uploads)]
    time.sleep(2.0)
    began = time.monotonic()
    page_status = server.web.get("/").status_code
    page_seconds = time.monotonic() - began
    memory, disk_growth = measure_memory(server.process.pid).rss - before, _measure_disk(server.folder / "temp") - disk
    num_refused = sum(_is_refused(line) for line in lines)
    for line in lines:
        line.close()
    until = time.monotonic() + 20.0
    while _measure_disk(server.folder / "temp") > disk and time.monotonic() < until:
        time.sleep(0.2)
    return {
        "uploads": uploads,
        "memory_bytes": max(memory, 0),
        "disk_bytes": max(disk_growth, 0),
        "refused": num_refused,
        "page_status": page_status,
        "page_seconds": page_seconds,
        "left_bytes": max(_measure_disk(server.folder / "temp") - disk, 0),
    }


def _begin(url: str, number: int) -> socket.socket:
    """A connection that has sent all of an upload but its end, or as much as the server took."""
    host, port = url.removeprefix("http://").split(":")
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n' % number
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {_BYTES}\r\n\r\n"
    )
    line = socket.create_connection((host, int(port)), timeout=5)
    try:
        line.sendall(head.encode() + part)
        for _ in range((_BYTES - len(part) - 100) // len(_CHUNK)):
            line.sendall(_CHUNK)
    except OSError:  # refused, and cut
        pass
    return line


def _is_refused(line: socket.socket) -> bool:
    line.settimeout(0.05)
    try:
        return line.recv(16).startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b""))
    except TimeoutError:
        return False
    except OSError:
        return True


def _measure_disk(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
