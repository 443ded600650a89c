"""What the page would send: each run button's form, read from the page as it is served, and a press of the button."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections.abc import Generator, Mapping
from typing import Any

from pipelines.core.errors import StepwiseError

__all__ = ["PageForm", "list_files", "press", "read_forms", "request_word", "stream_events"]

_PRESS = re.compile(r"stepwise\.(?P<kind>run|runReady)\('(?P<tab>\w+)', '(?P<root>[\w-]+)'")


@dataclasses.dataclass(frozen=True)
class PageForm:
    """Describes the form behind one run button.

    Attributes:
        tab: its key in the routes.
        root: id of the outermost element, with which the ids of the others begin.
        names: of its fields in the order in which they are sent: the element's id, else the component's type and place.
        values: of the fields as the page shows them at first.
        reader: Gradio's event that reads a form with uploads before it is posted as a word; None without.
        word: which of that event's values is the word.
    """

    tab: str
    root: str
    names: tuple[str, ...]
    values: tuple[Any, ...]
    reader: int | None = None
    word: int = 0

    def filled(self, **changes: object) -> list[Any]:
        """Return the values with some fields changed, each named by its id less the root: `filled(steps=4)`.

        Raises:
            StepwiseError: there is no such field.
        """
        if unknown := changes.keys() - set(self.names):
            raise StepwiseError(f"The form of {self.tab} has no field {unknown}. It has: {', '.join(self.names)}.")
        return [changes.get(name, value) for name, value in zip(self.names, self.values, strict=True)]


def read_forms(config: Mapping[str, Any]) -> dict[str, PageForm]:
    """Map each tab to its form, for every run button of a page.

    Args:
        config: of the page, as `/config` gives it.
    """
    parts = {part["id"]: part for part in config["components"]}
    events = {event["id"]: event for event in config["dependencies"]}
    forms = {}
    for event in events.values():
        pressed = _PRESS.search(event["js"] if isinstance(event["js"], str) else "")
        if pressed is None:
            continue
        waits_for_reader = pressed["kind"] == "runReady"
        reader = event["trigger_after"] if waits_for_reader else None
        inputs = (
            events[reader]["inputs"] if waits_for_reader else event["inputs"][:-1]
        )  # the last is what the browser remembers
        names = tuple(_name(parts[one], pressed["root"], place) for place, one in enumerate(inputs))
        values = tuple(parts[one]["props"].get("value") for one in inputs)
        word = events[reader]["outputs"].index(event["inputs"][0]) if waits_for_reader else 0
        forms[pressed["tab"]] = PageForm(pressed["tab"], pressed["root"], names, values, reader, word)
    return forms


def _name(part: Mapping[str, Any], root: str, place: int) -> str:
    return (part["props"].get("elem_id") or f"{part['type']}-{place}").removeprefix(f"{root}-").replace("-", "_")


def request_word(web: object, form: PageForm, values: list[Any]) -> Any:
    """Have Gradio read a form with uploads, as the page does; the answer, which holds the word, and a notice.

    Args:
        web: a client of the server.
        form: one with a reader.
        values: of its fields.
    """
    body = {"data": values, "fn_index": form.reader, "session_hash": secrets.token_hex(6)}
    return _post_json(web, "/gradio_api/run/predict", body)


def _post_json(web: Any, path: str, body: Mapping[str, Any]) -> Any:
    # Not the client's own JSON, which knows neither infinity nor half of a character.
    return web.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def press(web: object, form: PageForm, values: list[Any], owner: str = "page") -> Any:
    """Press the run button and return the answer.

    Args:
        web: a client of the server.
        form: the button's.
        values: of its fields.
        owner: of the browser tab.
    """
    if form.reader is not None:
        reading = request_word(web, form, values)
        word = reading.json()["data"][form.word] if reading.status_code == 200 else ""
        if not word:
            return reading
        values = [word]
    return _post_json(web, f"/stepwise/{form.tab}/run", {"values": values, "owner": owner})


def stream_events(web: Any, tab: str, job: str) -> Generator[Mapping[str, Any], None, None]:
    """Yield what the page is told of a job, until it is over or the caller goes away."""
    with web.stream("GET", f"/stepwise/{tab}/jobs/{job}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def list_files(event: Mapping[str, Any]) -> set[str]:
    """List the paths of the stored files that an event names, in an attribute or within its HTML."""
    files = {part["file"] for part in event["parts"].values() if part.get("file")}
    for part in event["parts"].values():
        files |= {*re.findall(r'data-file="([^"]+)"', part.get("html") or "")}
    return files
