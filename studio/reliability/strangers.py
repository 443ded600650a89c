"""Two people who have signed in, each of whom tries to reach what the other made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from studio.reliability.server import Server

__all__ = ["FLAGS", "run"]

FLAGS = ("--auth", "ann:ann-1", "--auth", "bob:bob-1", "--admin", "ann")
"""Of the server: ann is an admin, so that only bob must be refused, and ann sees both."""


class _Visitor:
    """Somebody who has signed in."""

    def __init__(self, server: Server, name: str):
        import httpx

        self.web = httpx.Client(base_url=server.url, timeout=120, trust_env=False)
        self.web.post("/login", data={"username": name, "password": f"{name}-1"})

    def begin(self, name: str, *data: object) -> str:
        return str(self.web.post(f"/gradio_api/call/{name}", json={"data": list(data)}).json()["event_id"])

    def call(self, name: str, *data: object) -> tuple[str, Any]:
        lines = self.web.get(f"/gradio_api/call/{name}/{self.begin(name, *data)}").text.strip().split("\n")
        return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))


def run(server: Server) -> dict[str, Any]:
    """Measure the figure: probes by one person at the other's things, and how many were refused.

    Args:
        server: running with `FLAGS`.
    """
    ann, bob = _Visitor(server, "ann"), _Visitor(server, "bob")
    try:
        anns_result = ann.call("generate", "a fox", {"num_inference_steps": 2, "seed": 1})[1][0]
        probes = [*_probe_result(bob, anns_result), *_probe_job(ann, bob)]
        bobs_result = bob.call("generate", "an owl", {"num_inference_steps": 1, "seed": 2})[1][0]
        is_open = bob.web.get(f"/stepwise/results/{bobs_result['cells'][0]['results'][0]}").status_code == 200
        sees_all = ann.web.get(f"/stepwise/results/{bobs_result['cells'][0]['results'][0]}").status_code == 200
    finally:
        ann.web.close()
        bob.web.close()
    let_through = [name for name, is_refused in probes if not is_refused]
    return {
        "probes": len(probes),
        "refused": len(probes) - len(let_through),
        "let_through": let_through,
        "own_is_open": is_open,
        "admin_sees_all": sees_all,
    }


def _probe_result(bob: _Visitor, anns_result: Any) -> Iterator[tuple[str, bool]]:
    (result,) = anns_result["cells"][0]["results"]
    path = anns_result["images"][0]["path"]
    for address in (
        f"/stepwise/results/{result}",
        f"/stepwise/results/{result}/small",
        f"/stepwise/trash/{result}",
        f"/gradio_api/file={path}",
    ):
        yield f"GET {address}", bob.web.get(address).status_code == 404
    for action in ("delete", "restore", "remove", "star"):
        yield f"{action} a result", bob.call("gallery_change", action, [result])[0] == "error"
    yield "empty the trash", bob.call("gallery_change", "empty", [])[1][0]["removed"] == 0
    yield "list results", bob.call("gallery", "", "", 100, "", "", False, "newest")[1][0]["results"] == []
    yield "list results after another's", bob.call("gallery", "", "", 20, result, "", False, "newest")[0] == "error"
    as_input = {"data": ["a fox", {"path": path}, {}]}
    yield "name a result as an input", bob.web.post("/gradio_api/call/edit", json=as_input).status_code == 400


def _probe_job(ann: _Visitor, bob: _Visitor) -> Iterator[tuple[str, bool]]:
    event = ann.begin("generate", "a long fox", {"num_inference_steps": 200, "batch_size": 4, "seed": 1})
    with ann.web.stream("GET", f"/gradio_api/call/generate/{event}") as stream:
        job = next(json.loads(line[6:])[0]["job"] for line in stream.iter_lines() if line.startswith("data: [{"))
        yield "cancel a job", bob.call("cancel", job)[0] == "error"
        for verb, path in (("GET", "events"), ("GET", "steps/1"), ("POST", "stop")):
            answer = bob.web.request(verb, f"/stepwise/text_to_image/jobs/{job}/{path}")
            yield f"{verb} a job's {path}", answer.status_code == 422
        for address in (f"call/generate/{event}", f"queue/data?session_hash={event}", f"heartbeat/{event}"):
            yield f"GET {address}", bob.web.get(f"/gradio_api/{address}").status_code == 404
        body = {"session_hash": event, "fn_index": 0, "event_id": event}
        yield "cancel an event", bob.web.post("/gradio_api/cancel", json=body).status_code == 404
        ann.call("cancel", job)
