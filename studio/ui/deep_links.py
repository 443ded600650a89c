"""Links that open a tab with settings: `/?tab=compare&prompt=a+fox&num_inference_steps=20&sampler=ddim,eta%3D0.5`.

Whoever follows a link did not write it: its settings pass the whitelist that those of a dropped picture pass, and those
of the tab's own their tab's (studio.ui.tab_settings); numbers are moved within the caps, a model is chosen only
where all of it is on this machine, and nothing runs before the person presses a button.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

import gradio as gr

from pipelines.core.errors import StepwiseError
from pipelines.core.types import METHODS, Request
from studio import infotext
from studio.infotext.embed import OUR_CHUNK
from studio.ui import markup
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING, build_elem_id
from studio.ui.form import FIXED, RANDOM, RequestForm
from studio.ui.outputs import in_order
from studio.ui.restore import adopt_own_names
from studio.ui.tab_settings import accept_settings as accepted_own
from studio.ui.tab_settings import format_choice, read_choice, write_settings
from studio.ui.untrusted_settings import accept_restored

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.ui.page_context import PageContext, Receiver

__all__ = ["FIELDS", "OpenedLink", "TabSettings", "build_notice", "copy_link", "link", "open_link", "wire"]

FIELDS = (
    "prompt",
    "negative_prompt",
    "prompt_weighting",
    "num_inference_steps",
    "width",
    "height",
    "seed",
    "variation_seed",
    "variation_strength",
    "batch_size",
    *METHODS,
    "loras",
    "model",
)
"""Parameters of a link besides `tab`: fields of a Request that are text, a number, a method with its settings, or LoRAs
by name, as `name:weight,name:weight`."""

LONGEST = 8000
"""Characters of a link's parameters that are read; browsers and proxies cut longer ones off anyway."""


@dataclasses.dataclass(frozen=True)
class OpenedLink:
    """Describes what a link asks for.

    Attributes:
        tab: a key of the page's tabs.
        values: for the tab's form, checked.
        notes: a sentence for each thing that was not taken over.
    """

    tab: str
    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def link(
    tab: str, values: Mapping[str, Any], tab_settings: Mapping[str, str] = {}, required: Iterable[str] = ()
) -> str:
    """Write the link's part from its question mark on.

    Args:
        tab: key of the tab that it opens.
        values: fields of a Request; those as they are by default, and those that no link carries, are left out.
        tab_settings: the tab's own settings as texts.
        required: fields that are written even at their defaults, since the tab begins with others.
    """
    defaults, required = Request().to_json(), set(required)
    differing = {
        name: values[name] for name in FIELDS if name in values and (name in required or values[name] != defaults[name])
    }
    texts = {name: format_choice(value) if name in METHODS else str(value) for name, value in differing.items()}
    if "loras" in differing:
        texts["loras"] = ",".join(f"{quote(one['name'], safe='')}:{one['weight']:g}" for one in differing["loras"])
    return "?" + urlencode({"tab": tab, **texts, **tab_settings})


def open_link(
    parameters: Mapping[str, str],
    studio: Studio,
    tabs: tuple[str, ...],
    model: str,
    receivers: Mapping[str, Receiver] = {},
) -> OpenedLink | None:
    """Read what the parameters of the page's address ask for.

    Args:
        parameters: untrusted.
        studio: knows the caps and the models.
        tabs: keys of the page's tabs.
        model: key of the model that is chosen where the tab opens on no other.
        receivers: of the tabs, for the settings of their own.

    Returns:
        The tab and its values; None where the address asks for nothing. Settings without a tab are the first tab's.
    """
    tab = parameters.get("tab", "")
    unknown: tuple[str, ...] = ()
    if not tab and not any(name in parameters for name in FIELDS):
        return None
    if tab not in tabs:
        unknown = (f"The link names the tab {tab[:80]!r}, which this page does not have.",) if tab else ()
        tab = tabs[0]
    receiver = receivers.get(tab)
    settings, model = receiver.settings if receiver else {}, (receiver and receiver.model) or model
    chosen, model_notes = _choose_model(parameters.get("model", ""), studio, model, receiver)
    if sum(len(parameters.get(name, "")) for name in (*FIELDS, *settings)) > LONGEST:
        long = f"The link has more than {LONGEST} characters of settings. None were loaded."
        return OpenedLink(tab, {}, (*unknown, long))
    tab_values, notes = accepted_own(settings, parameters, chosen or model, texts=True)
    values: Mapping[str, Any] = {}
    if receiver is None or receiver.request:
        values, request_notes = _read_request(parameters, studio, chosen or model)
        values = {**({"model": chosen} if chosen else {}), **values}
        notes = [*model_notes, *request_notes, *notes]
    elif any(name in parameters for name in FIELDS if name not in settings):
        notes.append("A link to this tab cannot set the fields of a picture.")
    own = {receiver.name: tab_values} if receiver and tab_values else {}
    return OpenedLink(tab, {**values, **own}, (*unknown, *notes))


def _choose_model(name: str, studio: Studio, model: str, receiver: Receiver | None) -> tuple[str, list[str]]:
    """Find the model that a link was made with, and say why it is not chosen; ("", []) where it is the tab's own.

    One that would have to be downloaded is named only: no link fills a disk.
    """
    if not name or name == model:
        return "", []
    entry = next((entry for entry in (receiver.models() if receiver else ()) if entry.key == name), None)
    if entry is None:
        return "", [f"The link was made with the model {name[:80]!r}, which is not here or not for this tab."]
    if studio.model_list.is_here(entry):
        return entry.key, []
    why = entry.problem or "It is not on this machine yet: choose it yourself to download it."
    return "", [f"The link was made with {entry.label}. {why}"]


def _read_request(parameters: Mapping[str, str], studio: Studio, model: str) -> tuple[Mapping[str, Any], list[str]]:
    """The fields of a Request that a link brings, checked, and a sentence for each thing that was not taken over."""
    fields: dict[str, Any] = {name: parameters[name] for name in FIELDS if name in parameters and name != "model"}
    notes: list[str] = []
    for name in [name for name in METHODS if name in fields]:
        if not fields[name].strip():
            notes.append(f"The {name.replace('_', ' ')} was not loaded: the link names none.")
            del fields[name]
            continue
        try:
            fields[name] = read_choice(fields[name])
        except StepwiseError as error:
            notes.append(f"The {name} was not loaded. {error}")
            del fields[name]
    if "loras" in fields:
        fields["loras"] = [_read_lora(one) for one in fields["loras"].split(",") if one]
    restored = infotext.read_texts({OUR_CHUNK: json.dumps({"metadata": {"request": fields}})})
    if restored is None:
        return {}, notes
    try:
        restored = accept_restored(restored, studio, model)
    except StepwiseError as error:
        return {}, [*notes, str(error)]
    if "loras" in fields:
        restored = adopt_own_names(restored, studio, model)
    return restored.values, [*notes, *restored.notes]


def _read_lora(text: str) -> dict[str, str]:
    """Read `name:weight`, untrusted; a weight that is no number is refused where settings of pictures are read."""
    name, _, weight = text.rpartition(":")
    return {"name": unquote(name), "weight": weight} if name else {"name": unquote(weight), "weight": "1"}


def build_notice() -> gr.HTML:
    """Build the place that says what came of a link, in the present layout context: above all tabs, since it may name
    any."""
    return gr.HTML(elem_id="link-notice", elem_classes="sw-notices")


def wire(studio: Studio, context: PageContext, notice: gr.HTML) -> None:
    """Open what the page's address asks for, whenever it is loaded; called inside the Blocks, when all tabs stand.

    A tab that runs shows the settings itself, with the notice, in the event that would bring back what a reload has
    left: see `RunningTab`. The others, which remember nothing, are filled here.
    """
    idle = {tab: receiver for tab, receiver in context.receive.items() if tab not in context.live}
    outputs = {notice, context.tabs, *(output for receiver in idle.values() for output in receiver.outputs)}
    context.link_outputs = {notice}
    first = next(iter(studio.models())).key

    def opened_by(request: gr.Request) -> OpenedLink | None:
        return open_link(dict(request.query_params), studio, context.tab_keys, first, context.receive)

    def shows_itself(opened_link: OpenedLink) -> bool:
        return bool(opened_link.values) and opened_link.tab in context.live and opened_link.tab in context.receive

    def linked(tab: str, request: gr.Request) -> Data | None:
        opened_link = opened_by(request)
        if opened_link is None or opened_link.tab != tab or not shows_itself(opened_link):
            return None
        shown = _show_settings(opened_link, context.receive)
        return {**shown, notice: _describe_notice(opened_link, context.receive)}

    def show(request: gr.Request) -> Any:
        opened_link = opened_by(request)
        if opened_link is None:
            return gr.skip()
        updates: Data = {context.tabs: gr.Tabs(selected=opened_link.tab)}
        if not shows_itself(opened_link):
            updates[notice] = _describe_notice(opened_link, context.receive)
        return {**updates, **(_show_settings(opened_link, idle) if opened_link.values else {})}

    context.linked = linked
    # The page's script presses it where the address names anything (`stepwise.bringBack`).
    button = gr.Button("Open the link", elem_id="recall-link", elem_classes="sw-recall sw-unseen")
    button.click(show, outputs=in_order(outputs), **PLUMBING)


def _show_settings(opened_link: OpenedLink, receivers: Mapping[str, Receiver]) -> Data:
    """Updates that show a link's values; none in a tab without a receiver."""
    receiver = receivers.get(opened_link.tab)
    seeded = {"seed_mode": FIXED} if "seed" in opened_link.values else {}
    return receiver.updates({**opened_link.values, **seeded}) if receiver else {}


def _describe_notice(opened_link: OpenedLink, receivers: Mapping[str, Receiver]) -> str:
    """The notice on what came of a link; "" where it only opened its tab."""
    if opened_link.values and opened_link.tab in receivers:
        return markup.notice("Settings loaded from the link.", "news", opened_link.notes)
    notes = [*opened_link.notes, *(["A link cannot set anything in this tab."] if opened_link.values else [])]
    return markup.notice("The settings of the link could not all be loaded.", "news", notes) if notes else ""


@dataclasses.dataclass(frozen=True)
class TabSettings:
    """Describes a tab's own settings, as a link to it takes them.

    Attributes:
        inputs: the components that hold them.
        values: from their data to the values by name; StepwiseError for what cannot be linked.
        receiver: gives the tab's receiver, which is there when the page stands.
    """

    inputs: Callable[[], Iterable[Any]]
    values: Callable[[Data], Mapping[str, Any]]
    receiver: Callable[[], Receiver]


def copy_link(
    form: RequestForm | None, context: PageContext, tab: str, prefix: str, tab_settings: TabSettings | None = None
) -> None:
    """Build a button that copies a link to the tab's settings, in the present layout context.

    Args:
        form: of the tab; None for a tab without fields of a Request.
        context: the page; the button is connected when all of it stands.
        tab: its key.
        prefix: begins the ids.
        tab_settings: the settings that are the tab's own.
    """
    button = gr.Button(
        "Copy link to these settings", size="sm", elem_id=build_elem_id(prefix, "link"), elem_classes="sw-send"
    )
    link_text = gr.Textbox(
        label="Link to these settings",
        visible=False,
        interactive=False,
        buttons=["copy"],
        max_lines=2,
        elem_id=build_elem_id(prefix, "link-text"),
    )

    def write(data: Data) -> Any:
        try:
            return {link_text: gr.update(value=_write_link(form, tab, tab_settings, data), visible=True)}
        except StepwiseError as error:
            return {link_text: gr.update(value=str(error), visible=True)}

    def connect() -> None:
        inputs = {*(form.inputs if form else ()), *(tab_settings.inputs() if tab_settings else ())}
        click = button.click(write, inputs=inputs, outputs=in_order([link_text]), **PLUMBING)
        copied = f"(query) => stepwise.copyLink(query, {link_text.elem_id!r})"
        click.then(None, inputs=[link_text], outputs=[link_text], js=copied, **PLUMBING)

    context.run_later(connect)


def _write_link(form: RequestForm | None, tab: str, tab_settings: TabSettings | None, data: Data) -> str:
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
        if values["model"] == form.first.key:
            del values["model"]  # the tab opens on it
    texts = write_settings(tab_settings.receiver().settings, tab_settings.values(data)) if tab_settings else {}
    return link(tab, values, texts, _list_initial_fields(form, values.get("model", "")) if form else ())


def _list_initial_fields(form: RequestForm, model: str) -> set[str]:
    """The fields with which a form begins otherwise than a Request does, once a model is chosen; "" for its first."""
    data: Data = {component: component.value for component in form.inputs}
    for component, update in (form.updates({"model": model}) if model else {}).items():
        if component in data:
            is_update = isinstance(update, dict) and update.get("__type__") == "update"
            data[component] = update.get("value", data[component]) if is_update else update
    initial = form.request(form.draft(data))
    defaults = Request().to_json()
    # A fixed seed is always written: without one the link's reader would get a new one each time.
    return {name for name in FIELDS if name in initial and initial[name] != defaults[name]} | {"seed", "model"}
