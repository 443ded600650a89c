"""A job outlives its tab: the connection that watched it is cut, and its result is there all the same.

Two kinds of connection are cut: a program's call of an endpoint, and the page's own stream of a tab's events.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from pipelines.core.errors import StepwiseError
from studio.reliability.page import press, read_forms, stream_events
from studio.reliability.server import Server

__all__ = ["run"]

_STEPS = 40
_WITHIN = 120.0
_DONE = re.compile(r'aria-valuenow="(\d+)"')
_PAGE: Mapping[str, Mapping[str, Any]] = {
    "text_to_image": {"steps": _STEPS},
    "compare": {"steps": _STEPS, "reference": False},
    "edit": {"steps": _STEPS, "source_prompt": "a bus on a green background"},
    "animate": {"steps": 10, "frames": 12, "format": "webp"},
    "quantize": {"steps": _STEPS, "measure": False},
}
"""Tab to what makes its run long enough to be cut."""


def run(server: Server, times: int = 5) -> dict[str, Any]:
    """Measure the figure: how many jobs were finished after whoever asked for them had gone.

    Args:
        server: running.
        times: how many jobs of each kind; those of the page go to its tabs in turn.
    """
    pages = read_forms(server.web.get("/config").json())
    prompts, steps_at_cut = [], []
    for number in range(times):
        prompts.append(f"a fox on a blue background, call {number}")
        steps_at_cut.append(_cut_call(server, prompts[-1]))
        tab = [*_PAGE][number % len(_PAGE)]
        prompts.append(f"a bus on a blue background, page {number}")
        steps_at_cut.append(_cut_page(server, pages[tab], prompts[-1]))
    finished = sum(_has_arrived(server, prompt) for prompt in prompts)
    return {"cut_off_at_step": steps_at_cut, "jobs": len(prompts), "finished": finished}


def _cut_call(server: Server, prompt: str) -> int:
    """Ask for a picture, read until its first steps, and cut the connection; the step that was seen last."""
    began = server.begin("generate", [prompt, {"num_inference_steps": _STEPS, "seed": 3}]).json()
    with server.web.stream("GET", f"/gradio_api/call/generate/{began['event_id']}") as stream:
        for line in stream.iter_lines():
            content = json.loads(line[6:]) if line.startswith("data: ") else None  # a heartbeat's is null
            if content and (step := content[0]["step"]) > 0:
                return step
    return 0


def _cut_page(server: Server, form: Any, prompt: str) -> int:
    """The same for a run button and the events that its tab then reads."""
    answer = press(server.web, form, form.filled(prompt=prompt, **_PAGE[form.tab]))
    if "session" not in answer.json():
        raise StepwiseError(f"The page's {form.tab} was refused: {answer.text[:300]}")
    with contextlib.closing(stream_events(server.web, form.tab, answer.json()["session"]["job"])) as stream:
        for event in stream:
            steps = _DONE.findall(json.dumps(event["parts"]).replace("\\", ""))
            if any(int(step) > 0 for step in steps):
                return max(map(int, steps))
    return 0


def _has_arrived(server: Server, prompt: str) -> bool:
    until = time.monotonic() + _WITHIN
    while time.monotonic() < until:
        answer = server.call("gallery", prompt, "", 1, "", "", False, "newest")
        if answer.event == "complete" and answer.value[0]["results"]:
            return True
        time.sleep(0.2)
    return False
