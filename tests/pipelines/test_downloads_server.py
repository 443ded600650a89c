"""Downloads from a server on this machine, stopped in the middle of a file."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.core.cancelling import Cancelled
from pipelines.models.downloads import HuggingFace, fetch_source
from pipelines.models.entry import Source
from tests.pipelines.pretended_hub import COMMIT, entry_of


class Repository(BaseHTTPRequestHandler):
    """As much of the hub's server as one file needs."""

    content = bytes(5_000_000)

    def do_HEAD(self):
        self.send_response(200)
        for name, value in {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{"a" * 40}"',
            "X-Xet-Hash": "b" * 64,
            "X-Xet-Refresh-Route": "/xet",
            "Content-Length": len(self.content),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            files = [{"rfilename": "weights.safetensors", "size": len(self.content)}]
            described = json.dumps({"id": "someone/model", "sha": COMMIT, "siblings": files}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(described)))
            self.end_headers()
            self.wfile.write(described)
            return
        self.do_HEAD()
        with contextlib.suppress(OSError):  # whoever stops a download hangs up
            self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Repository)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    for name, value in {
        "ENDPOINT": url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "DOWNLOAD_CHUNK_SIZE": 1_000_000,
    }.items():
        monkeypatch.setattr(constants, name, value)
    yield server
    server.shutdown()
    server.server_close()


def test_a_stop_ends_a_download_in_the_middle_of_a_file(server, tmp_path):
    entry, source, told = entry_of(), Source("someone/model", file="weights.safetensors"), []

    def fetch(cancelled):
        return fetch_source(HuggingFace(), entry, source, tmp_path, cancelled, lambda done, total: told.append(done))

    with pytest.raises(Cancelled):
        fetch(lambda: any(done >= 2_000_000 for done in told))
    assert 2_000_000 <= max(told) < 4_000_000
    told.clear()
    assert fetch(lambda: False).read_bytes() == Repository.content
