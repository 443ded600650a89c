"""Links that open a tab with settings: `/?tab=compare&prompt=a+fox&num_inference_steps=20&sampler=ddim,eta%3D0.5`.

Whoever follows a link did not write it: its settings pass the whitelist that those of a dropped picture pass, numbers
are moved within the caps, a model is only named, and nothing runs before the person presses a button.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import gradio as gr

from pipelines.errors import StepwiseError
from pipelines.types import METHODS, Request
from studio import infotext, markup
from studio.command_line import parse_choice
from studio.controls import PLUMBING, elem_id
from studio.form import FIXED, RANDOM, RequestForm
from studio.infotext.embed import OUR_CHUNK
from studio.untrusted_settings import accepted

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.shell import Shell

__all__ = ["FIELDS", "Opened", "copy_link", "link", "opened", "wire"]

FIELDS = (
    "prompt",
    "negative_prompt",
    "num_inference_steps",
    "width",
    "height",
    "seed",
    "variation_seed",
    "variation_strength",
    "batch_size",
    *METHODS,
    "model",
)
"""Parameters of a link besides `tab`: fields of a Request that are text, a number, or a method with its settings."""

LONGEST = 8000
"""Characters of a link's parameters that are read; browsers and proxies cut longer ones off anyway."""

_COPY = """(query) => {
    if (!query.startsWith("?")) return query;  // a sentence on what is wrong
    const url = location.origin + location.pathname + query;
    navigator.clipboard?.writeText(url).catch(() => {});
    return url;
}"""


@dataclasses.dataclass(frozen=True)
class Opened:
    """What a link asks for.

    Attributes:
        tab: a key of the page's tabs.
        values: for the tab's form, checked.
        notes: a sentence for each thing that was not taken over.
    """

    tab: str
    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def link(tab: str, values: Mapping[str, Any]) -> str:
    """The link's part from its question mark on.

    Args:
        tab: key of the tab that it opens.
        values: fields of a Request; those as they are by default, and those that no link carries, are left out.
    """
    plain = Request().to_json()
    told = {name: values[name] for name in FIELDS if name in values and values[name] != plain[name]}
    texts = {name: _text(value) if name in METHODS else str(value) for name, value in told.items()}
    return "?" + urlencode({"tab": tab, **texts})


def _text(choice: Mapping[str, Any]) -> str:
    pairs = "".join(
        f",{name}={json.dumps(value, ensure_ascii=False)}" for name, value in choice.items() if name != "key"
    )
    return f"{choice['key']}{pairs}"


def opened(parameters: Mapping[str, str], studio: Studio, tabs: tuple[str, ...], model: str) -> Opened | None:
    """What the parameters of the page's address ask for.

    Args:
        parameters: untrusted.
        studio: knows the caps and the models.
        tabs: keys of the page's tabs.
        model: key of the model that is chosen.

    Returns:
        The tab and its values; None where the address names no tab of this page.
    """
    tab = parameters.get("tab", "")
    if tab not in tabs:
        return None
    if sum(len(parameters.get(name, "")) for name in FIELDS) > LONGEST:
        return Opened(tab, {}, (f"The link has more than {LONGEST} characters of settings. None were taken over.",))
    told: dict[str, Any] = {name: parameters[name] for name in FIELDS if name in parameters}
    notes: list[str] = []
    if (named := told.pop("model", model)) != model:
        notes.append(f"The link names the model {named[:80]!r}: choose it yourself if you want it.")
    for name in [name for name in METHODS if name in told]:
        try:
            told[name] = parse_choice(told[name])
        except StepwiseError as error:
            notes.append(f"The {name} was not taken over. {error}")
            del told[name]
    restored = infotext.read_texts({OUR_CHUNK: json.dumps({"metadata": {"request": told}})})
    if restored is None:
        return Opened(tab, {}, tuple(notes))
    try:
        restored = accepted(restored, studio, model)
    except StepwiseError as error:
        return Opened(tab, {}, (*notes, str(error)))
    return Opened(tab, restored.values, (*notes, *restored.notes))


def wire(studio: Studio, shell: Shell) -> None:
    """Open what the page's address asks for, whenever it is loaded; called inside the Blocks, when all tabs stand."""
    notice = gr.HTML(elem_id="link-notice", elem_classes="sw-notices")
    outputs = {notice, shell.tabs, *(output for receiver in shell.receive.values() for output in receiver.outputs)}
    first = next(iter(studio.models())).key

    def show(request: gr.Request) -> Any:
        found = opened(dict(request.query_params), studio, shell.tab_keys, first)
        if found is None:
            return gr.skip()
        updates: dict[Any, Any] = {shell.tabs: gr.Tabs(selected=found.tab)}
        receiver, notes = shell.receive.get(found.tab), list(found.notes)
        if found.values and receiver is None:
            notes.append("This tab takes no settings from a link.")
        elif found.values:
            seeded = {"seed_mode": FIXED} if "seed" in found.values else {}
            updates |= receiver.updates({**found.values, **seeded})
            updates[notice] = markup.notice("Settings taken over from the link.", "news", notes)
        if notes and notice not in updates:
            updates[notice] = markup.notice("The link could not be taken over as it is.", "news", notes)
        return updates

    # After the tabs' own loading, which brings back what a reload has left.
    shell.demo.load(lambda: None, **PLUMBING).then(show, outputs=outputs, **PLUMBING)


def copy_link(form: RequestForm, tab: str, prefix: str) -> None:
    """A button that copies a link to the form's settings, in the present layout context, once the form stands.

    Args:
        form: of the tab.
        tab: its key.
        prefix: begins the ids.
    """
    button = gr.Button(
        "Copy link to these settings", size="sm", elem_id=elem_id(prefix, "link"), elem_classes="sw-send"
    )
    shown = gr.Textbox(
        label="Link to these settings",
        visible=False,
        interactive=False,
        buttons=["copy"],
        max_lines=2,
        elem_id=elem_id(prefix, "link-text"),
    )

    def write(data: dict[Any, Any]) -> Any:
        try:
            draft = form.draft(data)
            values = form.request(draft)
        except StepwiseError as error:
            return {shown: gr.update(value=str(error), visible=True)}
        if draft["seed_mode"] == RANDOM:
            del values["seed"]
        return {shown: gr.update(value=link(tab, values), visible=True)}

    written = button.click(write, inputs=form.inputs, outputs={shown}, **PLUMBING)
    written.then(None, inputs=[shown], outputs=[shown], js=_COPY, **PLUMBING)
