"""What tabs that run a job have in common: previews through `studio.ui.live_routes`, stop, finding a job again."""

from __future__ import annotations

import json
import secrets
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import gradio as gr
import numpy as np
from gradio.components import Component
from PIL import Image

from pipelines.core.errors import StepwiseError
from studio.jobs.job import Job
from studio.ui import markup
from studio.ui.asking import identify_person
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.form import RANDOM, RequestForm
from studio.ui.live_routes import LiveTab
from studio.ui.outputs import in_order
from studio.ui.page_context import PageContext

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["Form", "ReadyForms", "RunningTab"]

Read = tuple[dict[str, Any], dict[str, Any]]
"""What the browser remembers, and the values of the task."""

_READY, _READY_BYTES, _READY_SECONDS = 64, 256 * 2**20, 300.0
"""Forms that wait to be posted: how many, what their pictures hold together, and how long a page may take."""


class Form:
    """Describes a tab's form as its runs need it.

    Args:
        inputs: every component that holds a value.
        read: their data by component, to (what the browser remembers, the values of the task).
        outputs: every component that `refilled` may change.
        refilled: what the browser remembers, and the id of a job that is still known as "job", to the updates that
            show it; none for what cannot be read.
        first: updates where the browser remembers nothing.
        draft: the data of `typed` to what `refilled` reads; by default the first that `read` gives.
        typed: the inputs that the browser remembers while they are typed; by default all but pictures.
        shown: inputs whose value is what the page shows when the run is asked for, and the script that tells it.
    """

    def __init__(
        self,
        inputs: Iterable[Component],
        read: Callable[[Data], Read],
        outputs: Iterable[object],
        refilled: Callable[[Any], Data],
        first: Callable[[], Data] = dict,
        draft: Callable[[Data], object] | None = None,
        typed: Iterable[Component] | None = None,
        shown: Mapping[Component, str] | None = None,
    ):
        self.inputs = sorted(inputs, key=lambda component: component._id)
        self.outputs, self.refilled, self.first, self.data_read = set(outputs), refilled, first, read
        self._draft = draft or (lambda data: read(data)[0])
        remembered = {component for component in self.inputs if not isinstance(component, gr.Image)}
        self.typed = [one for one in self.inputs if one in (remembered if typed is None else set(typed))]

        self._shown = {self.inputs.index(component): script for component, script in (shown or {}).items()}

    @property
    def look(self) -> str:
        """Statements of the page's script that put what the page shows among the values of a run."""
        return " ".join(f"values[{place}] = {script};" for place, script in self._shown.items())

    @property
    def signature(self) -> str:
        """Changes with the fields of the form, so that an older page's memory is not taken for this one's."""
        names = [f"{type(component).__name__} {component.elem_id or component.label}" for component in self.typed]
        return f"{zlib.crc32(chr(10).join(names).encode()):08x}"

    def remembered(self, text: Any) -> Any:
        """Return the draft of what a page's script remembers of the typed values, as JSON; None for what cannot be
        read."""
        try:
            values = json.loads(text)
            return self._draft(dict(zip(self.typed, values, strict=True)))
        except (StepwiseError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None  # nothing remembered, or written by hand

    def read(self, values: Iterable[object]) -> Read:
        """Read the form's values in the order of `inputs`.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: they do not come from the page.
            StepwiseError: a person's mistake.
        """
        return self.data_read(dict(zip(self.inputs, values, strict=True)))


class ReadyForms:
    """Holds forms with uploaded pictures, which Gradio has to read, on their way to the route that starts runs.

    Gradio's answer to an event may take longer than a whole run, so the run is started only when the page is there to
    watch it: Gradio reads the form and answers with a random word, and the word is what the page then posts.

    Args:
        clock: for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._forms: OrderedDict[str, tuple[float, int, Read]] = OrderedDict()
        self._lock = threading.Lock()
        self._clock = clock

    def keep(self, read: Read) -> str:
        """Return the word for a form that was read; the oldest that were never posted are forgotten."""
        word = secrets.token_urlsafe(12)
        with self._lock:
            self._forms[word] = self._clock(), _count_picture_bytes(read[1]), read
            self._forget_old()
        return word

    def _forget_old(self) -> None:
        oldest = self._clock() - _READY_SECONDS
        for word in [word for word, (kept, *_) in self._forms.items() if kept < oldest]:
            del self._forms[word]
        # The newest stays however large it is: its page is about to post it.
        while len(self._forms) > 1 and (
            len(self._forms) > _READY or sum(size for _, size, _ in self._forms.values()) > _READY_BYTES
        ):
            self._forms.popitem(last=False)

    def take(self, values: Iterable[Any]) -> Read:
        """Return the form of a word, once.

        Raises:
            KeyError: there is none of this word.
        """
        (word,) = values
        with self._lock:
            self._forget_old()
            return self._forms.pop(word)[-1]


def _count_picture_bytes(values: Mapping[str, object]) -> int:
    """Bytes of the pictures among a task's values."""
    pictures = [
        value.size[0] * value.size[1] * len(value.getbands())
        for value in values.values()
        if isinstance(value, Image.Image)
    ]
    return sum(pictures) + sum(value.nbytes for value in values.values() if isinstance(value, np.ndarray))


class RunningTab:
    """Is the base of such a tab: a run button, a stop button, a notice, and a session that remembers the job's id.

    Attributes:
        key: the tab's own.
        task: key of its task; "" where that is the tab's own.
        draws: whether a run draws a seed that its form shows.
        root: id of the tab's outermost column; its attribute "data-running" says which of the two buttons shows.
        context: the page around the tab.
        form: the request's fields.
    """

    key: ClassVar[str]
    task: ClassVar[str] = ""
    draws: ClassVar[bool] = True
    root: ClassVar[str]
    studio: Studio
    context: PageContext
    form: RequestForm
    session: gr.BrowserState
    notice: gr.HTML
    run: gr.Button
    stop: gr.Button

    def _find_job(self, session: object) -> Job | None:
        """The job that the browser remembers, if it is still known and this tab's."""
        if not (isinstance(session, dict) and "job" in session):
            return None
        try:
            job = self.studio.job(str(session["job"]), identify_person(self.studio))
        except StepwiseError:
            return None
        return job if job.task == (self.task or self.key) else None

    def _wire_run(self, form: Form, live: LiveTab, ready: ReadyForms | None = None) -> Any:
        """Connect both buttons and what a reload finds again; returns the event that ends with a run.

        Args:
            form: what a run takes.
            live: what the tab does behind studio.ui.live_routes's routes.
            ready: for a form that Gradio has to read; `live.read` is then its `take`.
        """
        self.context.live[self.key] = live
        tab = f"{self.key!r}, {self.root!r}"
        follow_event = {
            "fn": None,
            "inputs": [self.session],
            "outputs": [self.notice],
            "js": f"(session) => stepwise.follow({tab}, session)",
            **PLUMBING,
        }
        begin_event = {"fn": None, "outputs": [self.session, self.notice], **PLUMBING}
        if ready is None:
            inputs, begin = (
                [*form.inputs, self.session],
                f"(...values) => {{ {form.look} return stepwise.run({tab}, values); }}",
            )
            started_event = self.run.click(inputs=inputs, js=begin, **begin_event)
        else:
            word = gr.Textbox(label="Ready", visible=False)
            read_event = self.run.click(
                self._build_reader(form, ready, word),
                inputs={*form.inputs},
                outputs=in_order([word, self.notice]),
                js=f"(...values) => stepwise.reading({tab}, values)",
                **PLUMBING,
            )
            begin = f"(...values) => stepwise.runReady({tab}, values)"
            started_event = read_event.then(inputs=[word, self.session], js=begin, **begin_event)
        stop = f"(session) => stepwise.stop({self.key!r}, session)"
        self.stop.click(None, inputs=[self.session], js=stop, **PLUMBING)

        self._wire_typed(form)
        self.context.run_later(lambda: self._wire_load(form, follow_event))
        end_event = started_event.then(**follow_event)
        self._wire_seed(end_event)
        return end_event

    def _wire_typed(self, form: Form) -> None:
        """Have the browser remember what is typed, from one load of the page to the next.

        The page's script presses a hidden button when a form has changed (assets/js/forms.js). A listener on each field
        would do the same, and 740 of them were two thirds of the time in which the page got ready.
        """
        remember = f"(...values) => stepwise.remember({self.key!r}, {form.signature!r}, values)"
        remember_button = gr.Button("Remember", elem_id=f"{self.root}-remember", elem_classes="sw-remember sw-unseen")
        remember_button.click(None, inputs=form.typed, js=remember, trigger_mode="multiple", **PLUMBING)

    def _wire_load(self, form: Form, follow_event: Mapping[str, object]) -> None:
        """Show what a link brings, or else what was typed before a reload; once all tabs stand.

        One event does both, since events of one load come in any order. The page's script presses its button, outside
        the tabs, where there is something to show (`stepwise.bringBack`).
        """
        typed = gr.Textbox(label="Typed", visible=False)
        button = gr.Button("Bring back", elem_id=f"recall-{self.key}", elem_classes="sw-recall sw-unseen")
        lists = self.context.lists.get(self.key)

        def refill(session: object, typed: object, request: gr.Request) -> Data:
            linked = self.context.linked(self.key, request)
            now = lists.updates({component: component.value for component in lists.inputs}) if lists else {}
            updates = self._refilled_form(form, session, typed) if linked is None else linked
            return {**now, **form.first(), **updates, self.session: session}

        receiver = self.context.receive.get(self.key)
        outputs = {
            *form.outputs,
            *(receiver.outputs if receiver else ()),
            *(lists.outputs if lists else ()),
            *self.context.link_outputs,
            self.session,
        }
        recall = f"(session, _) => [session, stepwise.recall({self.key!r}, {form.signature!r})]"
        loaded = button.click(refill, [self.session, typed], in_order(outputs), js=recall, **PLUMBING)
        loaded.then(**follow_event)
        for event in self.context.after_recall.get(self.key, ()):
            loaded.then(**event)
        self._wire_seed(loaded)

    def _refilled_form(self, form: Form, session: object, typed: object) -> Data:
        """What was typed before a reload, or else what the last run took if its job is still known."""
        remembered = session if isinstance(session, dict) else {}
        job = {"job": remembered.get("job")} if self._find_job(remembered) else {}
        draft = form.remembered(typed)
        if draft is None and job:
            draft = remembered.get("draft")
        return form.refilled({**draft, **job}) if isinstance(draft, dict) else {}

    def _wire_seed(self, event: Any) -> None:
        """Show the seed of the picture that is shown where each run takes a new one.

        In the browser, where nobody can type between the question and its answer.
        """
        if not self.draws:
            return
        seed, mode = (self.form.fields[name] for name in ("seed", "seed_mode"))
        show = f"(session, mode, seed) => mode === {RANDOM!r} ? String(session?.seed ?? seed) : seed"
        event.then(None, inputs=[self.session, mode, seed], outputs=[seed], js=show, **PLUMBING)

    def _build_reader(self, form: Form, ready: ReadyForms, word: gr.Textbox) -> Callable[[Data], Data]:
        def read(data: Data) -> Data:
            try:
                return {word: ready.keep(form.data_read(data)), self.notice: ""}
            except StepwiseError as error:
                return {word: "", self.notice: markup.notice(str(error))}

        return read
