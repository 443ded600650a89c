"""What an attacker tries first: each probe must be refused, and must leave no trace."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from studio.reliability.jobs import PICTURE
from studio.reliability.server import Server

__all__ = ["PROBES", "build_bomb", "run"]

_BOMB_SIDE = 30_000
_EVIL = {"origin": "https://evil.example"}
_MODELS = ("evil.ckpt", "evil.pt", "evil.bin", "evil.safetensors")


class _Canary:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def build_bomb(side: int = _BOMB_SIDE) -> bytes:
    """Build a valid PNG of side × side white pixels, one bit each, whose file is a hundredth of that."""

    def build_chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, packed = zlib.compressobj(9), []
    for _ in range(side):
        packed.append(rows.compress(b"\0" + b"\xff" * ((side + 7) // 8)))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + build_chunk(b"IHDR", header)
        + build_chunk(b"IDAT", b"".join(packed) + rows.flush())
        + build_chunk(b"IEND", b"")
    )


@contextlib.contextmanager
def _listen() -> Iterator[tuple[str, list[Any]]]:
    """An address on this machine, and everybody who connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        visitors: list[Any] = []

        def wait() -> None:
            with contextlib.suppress(OSError):
                while True:
                    visitor, address = listener.accept()
                    visitors.append(address)
                    visitor.close()

        threading.Thread(target=wait, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x.png", visitors
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _probe_gets(server: Server, *paths: str) -> Iterator[tuple[str, bool]]:
    for path in paths:
        answer = server.web.get(path)
        leaked = b"root:" in answer.content or b"SQLite format" in answer.content or b"def main" in answer.content
        yield f"GET {path}", 400 <= answer.status_code < 500 and not leaked


def _probe_calls(server: Server, *calls: tuple[str, list[Any]]) -> Iterator[tuple[str, bool]]:
    for name, data in calls:
        yield f"/{name} {str(data)[:80]}", server.call(name, *data).refused


def _upload(server: Server, content: bytes, name: str = "picture.png") -> Any:
    return server.web.post("/gradio_api/upload", files={"files": (name, content)})


def _probe_traversal(server: Server) -> Iterator[tuple[str, bool]]:
    root = Path(__file__).resolve().parents[2]
    up = "/".join([".."] * 12)
    files = (
        "/etc/passwd",
        f"{up}/etc/passwd",
        str(server.outputs / "index.sqlite"),
        str(root / "app.py"),
        f"{server.folder}/temp/../log",
    )
    yield from _probe_gets(
        server,
        *(f"/gradio_api/file={quote(name, safe=safe)}" for name in files for safe in ("/", "")),
        f"/static/{quote(up, safe='')}/etc/passwd",
        f"/assets/{quote(up, safe='')}/etc/passwd",
        f"/custom_component/{up}/etc/passwd",
    )
    yield from _probe_calls(
        server,
        ("generate", ["a fox", {"model": f"{up}/etc"}]),
        ("generate", ["a fox", {"loras": ["/etc/passwd"]}]),
        ("edit", ["a fox", "/etc/passwd", {}]),
        ("edit", ["a fox", {"path": "/etc/passwd"}, {}]),
        ("cancel", [f"{up}/x"]),
        ("gallery", ["", "", 20, f"{up}/etc/passwd", "", False, "newest"]),
    )
    answer = _upload(server, PICTURE.read_bytes(), f"{up}/escaped.png")
    inside = answer.status_code != 200 or all(
        Path(name).is_relative_to(server.folder / "temp") for name in answer.json()
    )
    yield "an upload named ../../escaped.png", inside


def _probe_ssrf(server: Server) -> Iterator[tuple[str, bool]]:
    with _listen() as (address, visitors):
        yield from _probe_calls(
            server,
            ("edit", ["a fox", address, {}]),
            ("edit", ["a fox", {"path": address}, {}]),
            ("edit", ["a fox", {"path": str(PICTURE), "url": address}, {}]),
            ("generate", ["a fox", {"model": address}]),
            ("generate", ["a fox", {"loras": [address]}]),
            ("generate", ["a fox", {"x": {"path": address, "url": address}}]),
        )
        yield from _probe_gets(
            server,
            f"/gradio_api/file={address}",
            f"/gradio_api/proxy={address}",
            f"/gradio_api/file={quote(address, safe='')}",
        )
        yield "nobody was asked", visitors == []


def _probe_pickles(server: Server) -> Iterator[tuple[str, bool]]:
    canary = server.folder / "canary"
    evil = pickle.dumps(_Canary(canary))
    folder = server.folder / "models" / "folder" / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
    )
    for path in (*(server.folder / "models" / name for name in _MODELS), folder / "diffusion_pytorch_model.bin"):
        path.write_bytes(evil)
    server.call("models")
    yield from _probe_calls(
        server, *(("generate", ["a fox", {"model": name}]) for name in (*_MODELS, "evil", "folder"))
    )
    yield "a pickle uploaded as a picture", _upload(server, evil).status_code == 415
    yield "no pickle was loaded", not canary.exists()


def _probe_origins(server: Server) -> Iterator[tuple[str, bool]]:
    start = {"data": ["a fox", {"num_inference_steps": 1}]}
    foreign = (
        {**_EVIL},
        {"sec-fetch-site": "cross-site"},
        {"referer": "https://evil.example/x"},
        {"host": "evil.example"},
        {"origin": "null"},
        {"origin": f"{server.url}.evil.example"},
    )
    for headers in foreign:
        answer = server.web.post("/gradio_api/call/generate", json=start, headers=headers)
        yield f"POST with {headers}", answer.status_code == 403
    preflight = {**_EVIL, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    for answer in (
        server.web.options("/gradio_api/queue/join", headers=preflight),
        server.web.get("/config", headers=_EVIL),
    ):
        yield "no permission to read", not [name for name in answer.headers if name.startswith("access-control-allow")]


def _probe_oversize(server: Server) -> Iterator[tuple[str, bool]]:
    yield from _probe_calls(
        server,
        ("generate", ["x" * 10**6, {}]),
        ("generate", ["a fox", {"width": 10**5, "height": 10**5}]),
        ("generate", ["a fox", {"num_inference_steps": 10**6}]),
        ("generate", ["a fox", {"batch_size": 10**6}]),
        ("compare", ["a fox", {"cells": [{"seed": i} for i in range(1000)]}]),
    )
    body = b'{"data": ["' + b"x" * (17 * 2**20) + b'"]}'
    answer = server.web.post("/gradio_api/call/generate", content=body, headers={"content-type": "application/json"})
    yield "a body of 17 MiB", answer.status_code == 413
    yield "an announced upload of a terabyte", _announce_upload(server, 10**12) == 413


def _announce_upload(server: Server, length: int) -> int:
    """The status for an upload that says how long it will be and then sends little."""
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n--x\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(head.encode())
        return int(line.recv(64).split(b" ")[1])


def _probe_bombs(server: Server) -> Iterator[tuple[str, bool]]:
    import base64

    packed = build_bomb()
    yield "a bomb uploaded", _upload(server, packed).status_code == 415
    text = base64.b64encode(packed).decode()
    yield from _probe_calls(
        server,
        ("edit", ["a fox", text, {}]),
        ("edit", ["a fox", f"data:image/png;base64,{text}", {}]),
        ("edit", ["a fox", {"url": f"data:image/png;base64,{text}"}, {}]),
        ("edit", ["a fox", _encode_small_picture(), {"edit": "inpaint", "mask": text}]),
    )


def _encode_small_picture() -> str:
    import base64

    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


PROBES: dict[str, Callable[[Server], Iterator[tuple[str, bool]]]] = {
    "traversal": _probe_traversal,
    "SSRF": _probe_ssrf,
    "pickle": _probe_pickles,
    "foreign origin": _probe_origins,
    "oversize": _probe_oversize,
    "decompression bomb": _probe_bombs,
}
"""Kind to what tries it: each yields what was tried and whether it was refused."""


def run(server: Server) -> dict[str, Any]:
    """Measure the figure: how many probes of each kind were refused.

    Returns:
        Kind to [refused, tried], what was let through, and whether a right request still works afterwards.
    """
    outcomes = {kind: list(probe(server)) for kind, probe in PROBES.items()}
    after = server.call("generate", "a fox on a blue background", {"num_inference_steps": 1, "seed": 1})
    return {
        "kinds": {kind: [sum(ok for _, ok in one), len(one)] for kind, one in outcomes.items()},
        "let_through": [f"{kind}: {what}" for kind, one in outcomes.items() for what, ok in one if not ok],
        "alive": after.event == "complete",
        "tracebacks_logged": server.log.count("Traceback"),
    }
