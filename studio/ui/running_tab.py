"""What tabs that run a job have in common: previews through `studio.ui.live_routes`, stop, finding a job again."""

from __future__ import annotations

import secrets
import threading
import time
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
from studio.ui.controls import PLUMBING
from studio.ui.form import RequestForm
from studio.ui.live_routes import LiveTab
from studio.ui.page_context import PageContext

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["Form", "ReadyForms", "RunningTab"]

Data = dict[Any, Any]
Read = tuple[dict[str, Any], dict[str, Any]]
"""What the browser remembers, and the values of the task."""

_READY, _READY_BYTES, _READY_SECONDS = 64, 256 * 2**20, 300.0
"""Forms that wait to be posted: how many, what their pictures hold together, and how long a page may take."""


class Form:
    """A tab's form as its runs need it.

    Args:
        inputs: every component that holds a value.
        read: their data by component, to (what the browser remembers, the values of the task).
        outputs: every component that `refilled` may change.
        refilled: what the browser remembers, and the job's id as "job", to the updates that show it; none for what
            cannot be read.
        first: updates where the browser remembers nothing.
    """

    def __init__(
        self,
        inputs: Iterable[Component],
        read: Callable[[Data], Read],
        outputs: Iterable[Any],
        refilled: Callable[[Any], Data],
        first: Callable[[], Data] = dict,
    ):
        self.inputs = sorted(inputs, key=lambda component: component._id)
        self.outputs, self.refilled, self.first, self.data_read = set(outputs), refilled, first, read

    def read(self, values: Iterable[Any]) -> Read:
        """The form's values in the order of `inputs`.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: they do not come from the page.
            StepwiseError: a person's mistake.
        """
        return self.data_read(dict(zip(self.inputs, values, strict=True)))


class ReadyForms:
    """A form with uploaded pictures, which Gradio has to read, on its way to the route that starts runs.

    Gradio's answer to an event may take longer than a whole run, so the run is started only when the page is there to
    watch it: Gradio reads the form and answers with a random word, and the word is what the page then posts.

    Args:
        clock: for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: OrderedDict[str, tuple[float, int, Read]] = OrderedDict()
        self._lock = threading.Lock()
        self._clock = clock

    def keep(self, read: Read) -> str:
        """The word for a form that was read; the oldest that were never posted are forgotten."""
        word = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[word] = self._clock(), _held(read[1]), read
            self._forget_old()
        return word

    def _forget_old(self) -> None:
        oldest = self._clock() - _READY_SECONDS
        for word in [word for word, (kept, *_) in self._kept.items() if kept < oldest]:
            del self._kept[word]
        # The newest stays however large it is: its page is about to post it.
        while len(self._kept) > 1 and (
            len(self._kept) > _READY or sum(size for _, size, _ in self._kept.values()) > _READY_BYTES
        ):
            self._kept.popitem(last=False)

    def take(self, values: Iterable[Any]) -> Read:
        """The form of a word, once.

        Raises:
            KeyError: there is none of this word.
        """
        (word,) = values
        with self._lock:
            self._forget_old()
            return self._kept.pop(word)[-1]


def _held(values: Mapping[str, Any]) -> int:
    """Bytes of the pictures among a task's values."""
    pictures = [
        one.size[0] * one.size[1] * len(one.getbands()) for one in values.values() if isinstance(one, Image.Image)
    ]
    return sum(pictures) + sum(one.nbytes for one in values.values() if isinstance(one, np.ndarray))


class RunningTab:
    """Base of such a tab: a run button, a stop button, a notice, and a session that remembers the job's id.

    Attributes:
        key: the tab's own, which is also its task's.
        root: id of the tab's outermost column; its attribute "data-running" says which of the two buttons shows.
        context: the page around the tab.
        form: the request's fields.
    """

    key: ClassVar[str]
    root: ClassVar[str]
    studio: Studio
    context: PageContext
    form: RequestForm
    session: gr.BrowserState
    notice: gr.HTML
    run: gr.Button
    stop: gr.Button

    def _job(self, remembered: Any) -> Job | None:
        """The job that the browser remembers, if it is still known and this tab's."""
        if not (isinstance(remembered, dict) and "job" in remembered):
            return None
        try:
            job = self.studio.job(str(remembered["job"]))
        except StepwiseError:
            return None
        return job if job.task == self.key else None

    def _wire_run(self, form: Form, live: LiveTab, ready: ReadyForms | None = None) -> Any:
        """Connect both buttons and what a reload finds again; returns the event that ends with a run.

        Args:
            form: what a run takes.
            live: what the tab does behind studio.ui.live_routes's routes.
            ready: for a form that Gradio has to read; `live.read` is then its `take`.
        """
        self.context.live[self.key] = live
        self.context.model_lists[self.form.fields["model"]] = self.form.model_choices
        tab = f"{self.key!r}, {self.root!r}"
        shown = {
            "fn": None,
            "inputs": [self.session],
            "outputs": [self.notice],
            "js": f"(session) => stepwise.follow({tab}, session)",
            **PLUMBING,
        }
        begun = {"fn": None, "outputs": [self.session, self.notice], **PLUMBING}
        if ready is None:
            inputs, begin = [*form.inputs, self.session], f"(...values) => stepwise.run({tab}, values)"
            started = self.run.click(inputs=inputs, js=begin, **begun)
        else:
            word = gr.Textbox(label="Ready", visible=False)
            read = self.run.click(
                self._reading(form, ready, word), inputs={*form.inputs}, outputs={word, self.notice}, **PLUMBING
            )
            begin = f"(...values) => stepwise.runReady({tab}, values)"
            started = read.then(inputs=[word, self.session], js=begin, **begun)
        stop = f"(session) => stepwise.stop({self.key!r}, session)"
        self.stop.click(None, inputs=[self.session], js=stop, **PLUMBING)

        def refill(data: Data) -> Data:
            remembered = data[self.session] if isinstance(data[self.session], dict) else {}
            draft = remembered.get("draft")
            if isinstance(draft, dict):
                draft = {**draft, "job": remembered.get("job")}
            updates = form.refilled(draft) if self._job(remembered) else form.first()
            return {**updates, self.session: data[self.session]}

        outputs = {*form.outputs, self.session}
        found = self.context.demo.load(refill, inputs={self.session}, outputs=outputs, **PLUMBING)
        found.then(**shown)
        return started.then(**shown)

    def _reading(self, form: Form, ready: ReadyForms, word: gr.Textbox) -> Callable[[Data], Data]:
        def read(data: Data) -> Data:
            try:
                return {word: ready.keep(form.data_read(data)), self.notice: ""}
            except StepwiseError as error:
                return {word: "", self.notice: markup.notice(str(error))}

        return read
