"""Several pictures edited one after the other with the same settings: each becomes the source, and is then run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from pipelines.core.errors import PictureError
from pipelines.edits import EDITS
from studio.media.pictures import open_picture
from studio.page.edit.form import EditForm
from studio.ui import markup
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.presentation import format_count

__all__ = ["MOST_PICTURES", "SeveralPictures"]

MOST_PICTURES = 200
_SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif"]
_RUN = "(place) => stepwise.runSeveral({0!r}, place)"


class SeveralPictures:
    """Lays out a fold with the pictures and their button, in the present layout context.

    The page's script asks for the next picture when a run is done (assets/js/prompts.js); a run that is stopped or
    fails is the last.
    """

    def __init__(self) -> None:
        with gr.Accordion("Several pictures", open=False, elem_id="edit-several-fold"):
            self.files = gr.File(
                file_count="multiple",
                file_types=_SUFFIXES,
                type="filepath",
                label="Pictures",
                height=150,
                elem_id="edit-files",
            )
            gr.HTML(
                "<p class='sw-hint'>Each becomes the source and is edited with the settings above, one after the "
                "other. The results are in the gallery. Stop ends it.</p>"
            )
            self.start = gr.Button("Edit all", size="sm", elem_id="edit-all")
            self.state = gr.HTML(elem_id="edit-several")
            # Pressed by the page's script. No gr.State: one of those keeps a connection open all the time.
            self.next = gr.Button("Next", elem_id="edit-next", elem_classes="sw-unseen")
            self.place = gr.Number(0, precision=0, visible=False)

    def wire(self, form: EditForm, notice: gr.HTML, root: str) -> None:
        """Connect the buttons.

        Args:
            form: whose source they change.
            notice: where it is said what went wrong.
            root: id of the tab's outermost column.
        """
        inputs: Any = {self.files, form.edit.method, self.place}
        outputs: Any = {form.picture, form.mask, self.place, self.state, notice}

        def take(data: Data, place: int) -> Data:
            files = [str(one) for one in data[self.files] or ()]
            ended: Data = {self.place: 0, self.state: ""}
            if not files:
                return {**ended, notice: markup.notice("Choose the pictures first.")}
            if len(files) > MOST_PICTURES:
                text = f"{len(files)} pictures are chosen. Choose {MOST_PICTURES} at most."
                return {**ended, notice: markup.notice(text)}
            if EDITS[data[form.edit.method]].build().masked:
                text = "This edit takes a mask, which each picture would need for itself. Choose another edit method."
                return {**ended, notice: markup.notice(text)}
            if place >= len(files):
                text = f"{format_count(len(files), 'picture')} edited; the gallery has them."
                return {**ended, self.state: f'<p class="sw-hint" role="status">{text}</p>', notice: ""}
            return {**self._show(form, files[place], notice), **self._count(place, len(files), files[place])}

        self.start.click(lambda data: take(data, 0), inputs, outputs, **PLUMBING).then(
            None, inputs=[self.place], js=_RUN.format(root), **PLUMBING
        )
        self.next.click(lambda data: take(data, max(0, int(data[self.place] or 0))), inputs, outputs, **PLUMBING).then(
            None, inputs=[self.place], js=_RUN.format(root), **PLUMBING
        )

    def _show(self, form: EditForm, path: str, notice: gr.HTML) -> Data:
        """Make a picture the source; one that cannot be read ends the row, and is named."""
        try:
            open_picture(path)
        except PictureError as error:
            raise gr.Error(f"{Path(path).name}: {error}", print_exception=False) from None
        return {form.picture: path, form.mask: "", notice: ""}

    def _count(self, place: int, total: int, path: str) -> dict[Any, Any]:
        text = f"Picture {place + 1} of {total}: {Path(path).name}"
        return {self.place: place + 1, self.state: f'<p class="sw-hint" role="status">{markup.escape(text)}</p>'}
