"""A job outlives its tab: the connection that asked for it is cut, and its result is there all the same."""

from __future__ import annotations

import time
from typing import Any

from studio.reliability.server import Server

__all__ = ["run"]

_STEPS = 40
_WITHIN = 120.0


def run(server: Server, times: int = 5) -> dict[str, Any]:
    """The figure: how many jobs were finished after whoever asked for them had gone.

    Args:
        server: running.
        times: how many jobs.
    """
    cut = [_cut_off(server, seed) for seed in range(times)]
    return {"cut_off_at_step": cut, "jobs": times, "finished": sum(_arrives(server, seed) for seed in range(times))}


def _cut_off(server: Server, seed: int) -> int:
    """Ask for a picture, read until its first steps, and cut the connection; the step that was seen last."""
    import json

    began = server.begin("generate", [_prompt(seed), {"num_inference_steps": _STEPS, "seed": seed}]).json()
    with server.web.stream("GET", f"/gradio_api/call/generate/{began['event_id']}") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: ") and (step := json.loads(line[6:])[0]["step"]) > 0:
                return step
    return 0


def _prompt(seed: int) -> str:
    return f"a fox on a blue background, tab {seed}"


def _arrives(server: Server, seed: int) -> bool:
    until = time.monotonic() + _WITHIN
    while time.monotonic() < until:
        answer = server.call("gallery", _prompt(seed), "", 1, "")
        if answer.event == "complete" and answer.value[0]["results"]:
            return True
        time.sleep(0.2)
    return False
