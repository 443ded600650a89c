"""The row under a comparison that saves one of its quantized models, for the other tabs to use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import StepwiseError
from studio.jobs.job import Job, JobStatus, View
from studio.ui import markup, presentation
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.outputs import in_order
from studio.ui.page_context import PageContext, Receiver

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["SavingRow"]

USED_IN = "text_to_image"
_REPORT_SECONDS = 2.0
"""Seconds after which the state of a waiting job is reported again."""


class SavingRow:
    """Lays out a list of the quantized models and the buttons that save one, in the present layout context.

    Args:
        studio: saves the models, in a job of its own.
        context: the page around the tab.
        notice: shows how the saving goes.
        find_job: returns the comparison that the browser remembers, if it is still known.
    """

    def __init__(
        self, studio: Studio, context: PageContext, notice: gr.HTML, find_job: Callable[[Any], Job | None]
    ) -> None:
        self.studio, self.context, self.notice, self.find_job = studio, context, notice, find_job
        with gr.Row(elem_classes="qz-keep"):
            self.variant = gr.Dropdown([], label="Save for the other tabs", filterable=False, elem_id="qz-which")
            self.save_button = gr.Button("Save it", size="sm", min_width=0, elem_id="qz-keep")
            self.use_button = gr.Button("Save and use it", size="sm", min_width=0, elem_id="qz-use")

    def wire(self, key: str, session: Component, finished: Any) -> None:
        """Connect the list with a run's end and with a reload of the page, and the buttons once all tabs stand.

        Args:
            key: of the tab.
            session: remembers the comparison's job in the browser.
            finished: the event that ends with a run.
        """
        self.session = session
        events = {"inputs": {session}, "outputs": {self.variant}, **PLUMBING}
        finished.then(self._offer_variants, **events)
        self.context.after_recall.setdefault(key, []).append({"fn": self._offer_variants, **events})
        self.context.run_later(self._wire_buttons)

    def _wire_buttons(self) -> None:
        receiver, lists = self.context.receive[USED_IN], self.context.list_outputs
        inputs = {self.session, self.variant, *self.context.list_inputs}
        events = {"inputs": inputs, **PLUMBING, "queue": True, "concurrency_limit": None}
        self.save_button.click(self.save, outputs=in_order([self.notice, *lists]), **events)
        self.use_button.click(
            self.save_and_use, outputs=in_order([self.notice, self.context.tabs, *lists, *receiver.outputs]), **events
        )

    def _offer_variants(self, data: Data) -> Any:
        """Offer what a run that is over, or that a loaded page remembers, has quantized."""
        job = self.find_job(data[self.session])
        if job is None:
            return gr.skip()
        copies = [(cell.label, index) for index, cell in enumerate(job.view().cells[1:])]
        return {self.variant: gr.update(choices=copies, value=copies[0][1] if copies else None)}

    def save(self, data: Data, receiver: Receiver | None = None) -> Iterator[Data]:
        """Submit the saving of the chosen model, and report on it until the queue has come to it and it is saved.

        Args:
            data: of the session, the list and the lists of models in all tabs.
            receiver: the tab that is opened with the saved model; None to stay.

        Yields:
            Updates by component: the notice alone, and at the end every list of models too.
        """
        job, index = self.find_job(data[self.session]), data[self.variant]
        if job is None or not isinstance(index, int) or not 0 <= index < len(job.request.variants):
            yield {self.notice: markup.notice("There is no quantized model to save any more. Run it again.")}
            return
        values = {"model": job.request.base.model, "variant": job.request.variants[index]}
        try:
            saving_job = self.studio.submit("keep", values, job.owner)
        except StepwiseError as error:
            yield {self.notice: markup.notice(str(error))}
            return
        view = saving_job.view()
        while not view.status.final:
            yield {self.notice: markup.notice(", ".join(presentation.list_progress_parts(view)), "news")}
            view = saving_job.wait(view.version, _REPORT_SECONDS)
        yield self._report_end(view, data, receiver)

    def save_and_use(self, data: Data) -> Iterator[Data]:
        """Save the chosen model as `save` does, and open the tab that draws with it."""
        yield from self.save(data, self.context.receive[USED_IN])

    def _report_end(self, view: View, data: Data, receiver: Receiver | None) -> Data:
        if view.status is not JobStatus.DONE:
            return {self.notice: markup.notice(view.message or "Stopped: the model was not saved.")}
        key = view.outcome["key"]
        text = f"Saved as {key}: it is in every tab’s list of models, and found again after a restart."
        updates: Data = {**self.context.update_lists(data), self.notice: markup.notice(text, "news")}
        if receiver is not None:
            updates |= {**receiver.updates({"model": key}), self.context.tabs: gr.Tabs(selected=USED_IN)}
        return updates
