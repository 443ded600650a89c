"""What the page would send: each run button's form, read from the page as it is served, and a press of the button."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.core.errors import StepwiseError

__all__ = ["PageForm", "events", "files_of", "forms", "press", "word_for"]

_PRESS = re.compile(r"stepwise\.(?P<kind>run|runReady)\('(?P<tab>\w+)', '(?P<root>[\w-]+)'")


@dataclasses.dataclass(frozen=True)
class PageForm:
    """The form behind one run button.

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

    def filled(self, **changes: Any) -> list[Any]:
        """The values with some fields changed, each named by its id less the root: `filled(steps=4)`.

        Raises:
            StepwiseError: there is no such field.
        """
        if unknown := changes.keys() - set(self.names):
            raise StepwiseError(f"The form of {self.tab} has no field {unknown}. It has: {', '.join(self.names)}.")
        return [changes.get(name, value) for name, value in zip(self.names, self.values, strict=True)]


def forms(config: Mapping[str, Any]) -> dict[str, PageForm]:
    """Tab to form, for every run button of a page.

    Args:
        config: of the page, as `/config` gives it.
    """
    parts = {part["id"]: part for part in config["components"]}
    events = {event["id"]: event for event in config["dependencies"]}
    found = {}
    for event in events.values():
        pressed = _PRESS.search(event["js"] if isinstance(event["js"], str) else "")
        if pressed is None:
            continue
        ready = pressed["kind"] == "runReady"
        reader = event["trigger_after"] if ready else None
        inputs = events[reader]["inputs"] if ready else event["inputs"][:-1]  # the last is what the browser remembers
        names = tuple(_name(parts[one], pressed["root"], place) for place, one in enumerate(inputs))
        values = tuple(parts[one]["props"].get("value") for one in inputs)
        word = events[reader]["outputs"].index(event["inputs"][0]) if ready else 0
        found[pressed["tab"]] = PageForm(pressed["tab"], pressed["root"], names, values, reader, word)
    return found


def _name(part: Mapping[str, Any], root: str, place: int) -> str:
    return (part["props"].get("elem_id") or f"{part['type']}-{place}").removeprefix(f"{root}-").replace("-", "_")


def word_for(web: Any, form: PageForm, values: list[Any]) -> Any:
    """Have Gradio read a form with uploads, as the page does; the answer, which holds the word, and a notice.

    Args:
        web: a client of the server.
        form: one with a reader.
        values: of its fields.
    """
    body = {"data": values, "fn_index": form.reader, "session_hash": secrets.token_hex(6)}
    return _posted(web, "/gradio_api/run/predict", body)


def _posted(web: Any, path: str, body: Mapping[str, Any]) -> Any:
    # Not the client's own JSON, which knows neither infinity nor half of a character.
    return web.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def press(web: Any, form: PageForm, values: list[Any], owner: str = "page") -> Any:
    """The answer to a press of the run button.

    Args:
        web: a client of the server.
        form: the button's.
        values: of its fields.
        owner: of the browser tab.
    """
    if form.reader is not None:
        read = word_for(web, form, values)
        word = read.json()["data"][form.word] if read.status_code == 200 else ""
        if not word:
            return read
        values = [word]
    return _posted(web, f"/stepwise/{form.tab}/run", {"values": values, "owner": owner})


def events(web: Any, tab: str, job: str) -> Iterator[Mapping[str, Any]]:
    """What the page is told of a job, until it is over or the caller goes away."""
    with web.stream("GET", f"/stepwise/{tab}/jobs/{job}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def files_of(said: Mapping[str, Any]) -> set[str]:
    """Paths of the stored files that an event names, in an attribute or within its HTML."""
    found = {part["file"] for part in said["parts"].values() if part.get("file")}
    for part in said["parts"].values():
        found |= {*re.findall(r'data-file="([^"]+)"', part.get("html") or "")}
    return found
