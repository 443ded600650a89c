"""Links that open a tab with settings: `/?tab=compare&prompt=a+fox&num_inference_steps=20&sampler=ddim,eta%3D0.5`.

Whoever follows a link did not write it: its settings pass the whitelist that those of a dropped picture pass, and those
of the tab's own their tab's (studio.ui.tab_settings); numbers are moved within the caps, a model is only named, and nothing
runs before the person presses a button.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import gradio as gr

from pipelines.core.errors import StepwiseError
from pipelines.core.types import METHODS, Request
from studio import infotext
from studio.infotext.embed import OUR_CHUNK
from studio.ui import markup
from studio.ui.controls import PLUMBING, elem_id
from studio.ui.form import FIXED, RANDOM, RequestForm
from studio.ui.tab_settings import accepted as accepted_own
from studio.ui.tab_settings import choice_text, read_choice, told
from studio.ui.untrusted_settings import accepted

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.ui.page_context import PageContext, Receiver

__all__ = ["FIELDS", "Opened", "Own", "copy_link", "link", "opened", "wire"]

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


def link(tab: str, values: Mapping[str, Any], own: Mapping[str, str] = {}, always: Iterable[str] = ()) -> str:
    """The link's part from its question mark on.

    Args:
        tab: key of the tab that it opens.
        values: fields of a Request; those as they are by default, and those that no link carries, are left out.
        own: the tab's own settings as texts.
        always: fields that are told though they are as by default, since the tab begins with others.
    """
    plain, always = Request().to_json(), set(always)
    given = {
        name: values[name] for name in FIELDS if name in values and (name in always or values[name] != plain[name])
    }
    texts = {name: choice_text(value) if name in METHODS else str(value) for name, value in given.items()}
    return "?" + urlencode({"tab": tab, **texts, **own})


def opened(
    parameters: Mapping[str, str],
    studio: Studio,
    tabs: tuple[str, ...],
    model: str,
    receivers: Mapping[str, Receiver] = {},
) -> Opened | None:
    """What the parameters of the page's address ask for.

    Args:
        parameters: untrusted.
        studio: knows the caps and the models.
        tabs: keys of the page's tabs.
        model: key of the model that is chosen.
        receivers: of the tabs, for the settings of their own.

    Returns:
        The tab and its values; None where the address names no tab of this page.
    """
    tab = parameters.get("tab", "")
    if tab not in tabs:
        return None
    receiver = receivers.get(tab)
    settings = receiver.settings if receiver else {}
    if sum(len(parameters.get(name, "")) for name in (*FIELDS, *settings)) > LONGEST:
        return Opened(tab, {}, (f"The link has more than {LONGEST} characters of settings. None were taken over.",))
    own, notes = accepted_own(settings, parameters, model, texts=True)
    values: Mapping[str, Any] = {}
    if receiver is None or receiver.request:
        values, more = _request(parameters, studio, model)
        notes = [*more, *notes]
    elif any(name in parameters for name in FIELDS):
        notes.append("This tab takes no settings of a picture from a link.")
    return Opened(tab, {**values, **({receiver.name: own} if own else {})}, tuple(notes))


def _request(parameters: Mapping[str, str], studio: Studio, model: str) -> tuple[Mapping[str, Any], list[str]]:
    """The fields of a Request that a link brings, checked, and a sentence for each thing that was not taken over."""
    given: dict[str, Any] = {name: parameters[name] for name in FIELDS if name in parameters}
    notes: list[str] = []
    if (named := given.pop("model", model)) != model:
        notes.append(f"The link names the model {named[:80]!r}: choose it yourself if you want it.")
    for name in [name for name in METHODS if name in given]:
        try:
            given[name] = read_choice(given[name])
        except StepwiseError as error:
            notes.append(f"The {name} was not taken over. {error}")
            del given[name]
    restored = infotext.read_texts({OUR_CHUNK: json.dumps({"metadata": {"request": given}})})
    if restored is None:
        return {}, notes
    try:
        restored = accepted(restored, studio, model)
    except StepwiseError as error:
        return {}, [*notes, str(error)]
    return restored.values, [*notes, *restored.notes]


def wire(studio: Studio, context: PageContext) -> None:
    """Open what the page's address asks for, whenever it is loaded; called inside the Blocks, when all tabs stand."""
    notice = gr.HTML(elem_id="link-notice", elem_classes="sw-notices")
    outputs = {notice, context.tabs, *(output for receiver in context.receive.values() for output in receiver.outputs)}
    first = next(iter(studio.models())).key

    def show(request: gr.Request) -> Any:
        found = opened(dict(request.query_params), studio, context.tab_keys, first, context.receive)
        if found is None:
            return gr.skip()
        updates: dict[Any, Any] = {context.tabs: gr.Tabs(selected=found.tab)}
        receiver, notes = context.receive.get(found.tab), list(found.notes)
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
    context.demo.load(lambda: None, **PLUMBING).then(show, outputs=outputs, **PLUMBING)


@dataclasses.dataclass(frozen=True)
class Own:
    """A tab's own settings, as a link to it takes them.

    Attributes:
        inputs: the components that hold them.
        values: from their data to the values by name; StepwiseError for what cannot be linked.
        receiver: gives the tab's receiver, which is there when the page stands.
    """

    inputs: Callable[[], Iterable[Any]]
    values: Callable[[dict[Any, Any]], Mapping[str, Any]]
    receiver: Callable[[], Receiver]


def copy_link(form: RequestForm | None, context: PageContext, tab: str, prefix: str, own: Own | None = None) -> None:
    """A button that copies a link to the tab's settings, in the present layout context.

    Args:
        form: of the tab; None for a tab without fields of a Request.
        shell: the page; the button is connected when all of it stands.
        tab: its key.
        prefix: begins the ids.
        own: the settings that are the tab's own.
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
            return {shown: gr.update(value=_written(form, tab, own, data), visible=True)}
        except StepwiseError as error:
            return {shown: gr.update(value=str(error), visible=True)}

    def connect() -> None:
        inputs = {*(form.inputs if form else ()), *(own.inputs() if own else ())}
        written = button.click(write, inputs=inputs, outputs={shown}, **PLUMBING)
        written.then(None, inputs=[shown], outputs=[shown], js=_COPY, **PLUMBING)

    context.later(connect)


def _written(form: RequestForm | None, tab: str, own: Own | None, data: dict[Any, Any]) -> str:
    """The link to what stands on the page.

    Raises:
        StepwiseError: it cannot be read.
    """
    values: dict[str, Any] = {}
    if form is not None:
        draft = form.draft(data)
        values = form.request(draft)
        if draft["seed_mode"] == RANDOM:
            del values["seed"]
    texts = told(own.receiver().settings, own.values(data)) if own else {}
    return link(tab, values, texts, _begun(form) if form else ())


def _begun(form: RequestForm) -> set[str]:
    """The fields with which a form begins otherwise than a Request does."""
    begun = form.request(form.draft({component: component.value for component in form.inputs}))
    plain = Request().to_json()
    # A fixed seed is always told: without one the link's reader would get a new one each time.
    return {name for name in FIELDS if name in begun and begun[name] != plain[name]} | {"seed"}
