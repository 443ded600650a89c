"""The real app in a process of its own, and a program that talks to it over loopback."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import StepwiseError

__all__ = ["Answer", "Server", "run_server"]

_ROOT = Path(__file__).resolve().parents[2]
_STARTS_WITHIN = 300.0
_NO_LIMIT = 1e9


@dataclasses.dataclass(frozen=True)
class Answer:
    """Holds what came back for a call.

    Attributes:
        status: of HTTP.
        event: the last event's name, "complete", "error", or "generating" where it was stopped; "" without a stream.
        value: its data, or the sentence of a refusal.
        begun: whether a job was made of the request.
    """

    status: int
    event: str
    value: Any
    begun: bool = False

    @property
    def refused(self) -> bool:
        """Say whether the server said no, in either of its two ways."""
        return 400 <= self.status < 500 or self.event == "error"


class Server:
    """Represents a running studio.

    Args:
        process: of the server.
        url: where it answers.
        folder: that holds its models, outputs, temporary files and log.
    """

    def __init__(self, process: subprocess.Popen, url: str, folder: Path):
        import httpx

        self.process, self.url, self.folder = process, url, folder
        self.web = httpx.Client(base_url=url, timeout=120, trust_env=False)

    @property
    def log(self) -> str:
        """Return what the server has printed so far."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def begin(self, name: str, data: object) -> Any:
        """Send the request that starts a call and return the answer; its JSON holds the `event_id`."""
        return self.web.post(f"/gradio_api/call/{name}", json={"data": data})

    def call(self, name: str, *data: object) -> Answer:
        """Call an endpoint and wait for its end."""
        return self.finish(name, self.begin(name, list(data)))

    def finish(self, name: str, began: Any, within: float = 600.0) -> Answer:
        """Wait for the end of a call that `begin` started; a job that runs longer than `within` seconds is stopped."""
        if began.status_code != 200:
            return Answer(began.status_code, "", began.text)
        kind, data, has_begun, until = "", "", False, time.monotonic() + within
        with self.web.stream("GET", f"/gradio_api/call/{name}/{began.json()['event_id']}") as stream:
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    has_begun |= kind == "generating"
                    if kind == "generating" and time.monotonic() > until:
                        break
            status = stream.status_code
        value = _parse_plain(data)
        if kind == "generating":
            self.call("cancel", value[0].get("job", ""))
        return Answer(status, kind, value, has_begun)

    def endpoints(self) -> dict[str, int]:
        """Name of every public endpoint to how many arguments it takes, as the server itself lists them."""
        entries = self.web.get("/gradio_api/info").json()["named_endpoints"]
        return {name.strip("/"): len(about["parameters"]) for name, about in entries.items()}


def _parse_plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextlib.contextmanager
def run_server(folder: Path, rate_limit: bool = True, flags: Sequence[str] = ()) -> Iterator[Server]:
    """Run the studio while the context lasts.

    Args:
        folder: for everything that it writes.
        rate_limit: False lets one address ask as much as it likes, which only a measurement needs.
        flags: more of `app.py`'s.

    Raises:
        StepwiseError: it did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(folder), str(port), *([] if rate_limit else ["--no-rate-limit"]), *flags]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "studio.reliability.server", *arguments],
            cwd=_ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, f"http://127.0.0.1:{port}", folder)
    try:
        _wait_for(server)
        yield server
    finally:
        server.web.close()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(server: Server) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while "runs at" not in server.log:
        if server.process.poll() is not None or time.monotonic() > until:
            raise StepwiseError(f"The studio did not start:\n{server.log[-2000:]}")
        time.sleep(0.1)


def main() -> None:
    """Serve the page as `app.py` does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port")
    parser.add_argument("--no-rate-limit", action="store_true")
    flags, more = parser.parse_known_args()

    from studio.safety.environment import prepare_environment
    from studio.safety.flags import parse_flags

    folders = [
        part for kind in ("models", "outputs", "temp") for part in (f"--{kind}-folder", str(flags.folder / kind))
    ]
    settings = parse_flags([*folders, "--port", flags.port, *more], {})
    if flags.no_rate_limit:
        settings = dataclasses.replace(
            settings, limits=dataclasses.replace(settings.limits, burst=int(_NO_LIMIT), per_second=_NO_LIMIT)
        )
    prepare_environment(settings.temp)

    # After the environment is prepared: gradio reads it when it is imported.
    from studio.backend import Studio
    from studio.backend.launched import build_studio_settings
    from studio.page.page import build_page, launch_options
    from studio.server.serve import serve
    from studio.server.stopping import end_process

    studio = Studio(dataclasses.replace(build_studio_settings(settings), device="cpu"))
    try:
        serve(build_page(studio), settings, studio, **launch_options())
    finally:
        studio.close()
    end_process()


if __name__ == "__main__":
    main()
