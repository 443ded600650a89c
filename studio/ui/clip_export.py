"""A finished clip in another format: buttons for it, and the file behind them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder

from pipelines.core.errors import SettingsError, StepwiseError, StoreError
from pipelines.workflows.video.request import CLIP_FORMATS
from studio.media.clips import INSTALL_MP4, SUFFIXES, check_format, decode_clip, default_format, encode_clip
from studio.ui.controls import PLUMBING, elem_id
from studio.ui.markup import escape
from studio.ui.results_route import archive_address

if TYPE_CHECKING:
    from studio.results.store import Record

__all__ = ["ClipExport", "converted", "is_clip"]

_LABELS = {"mp4": "MP4", "webp": "WebP", "gif": "GIF"}


def is_clip(record: Record) -> bool:
    """Whether a result is a clip that can be taken away in another format."""
    return "animate" in record.metadata and record.path.suffix in SUFFIXES.values()


def converted(record: Record, format: str, folder: Path) -> Path:
    """A stored clip in another format, with its settings as text inside, as a new file.

    Args:
        record: of the store.
        format: "mp4", "webp" or "gif".
        folder: for the file; made if missing.

    Raises:
        SettingsError: it is no clip, PyAV is wanted and not installed, or the clip is too large.
        StoreError: it cannot be read or written.
    """
    if not is_clip(record):
        raise SettingsError("This result is no clip. Choose a clip to take it away in another format.")
    check_format(format)
    frames, fps = decode_clip(record.path)
    if record.width and record.height:  # an mp4 is padded to even sides
        frames = frames[:, : record.height, : record.width]
    data = encode_clip(frames, _rate(record, fps), format, record.parameters)
    path = folder / f"{record.id}{SUFFIXES[format]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"The clip cannot be written: {error.strerror or error}. Make room, and try again.") from error
    return path


def _rate(record: Record, measured: int) -> int:
    """The rate that the clip was made with: a GIF's own counts in hundredths of a second only."""
    animate = record.metadata["animate"]
    rate = animate.get("fps") if isinstance(animate, Mapping) else None
    return rate if isinstance(rate, int) and not isinstance(rate, bool) and 1 <= rate <= 240 else measured


class ClipExport:
    """A button a format, in the present layout context; hidden until there is a clip.

    Args:
        prefix: begins every component's id.
    """

    def __init__(self, prefix: str):
        with gr.Row(elem_classes="sw-acts", visible=False) as self.row:
            self.buttons = {
                format: gr.Button(
                    f"Save as {_LABELS[format]}", size="sm", min_width=0, elem_id=elem_id(prefix, "save", format)
                )
                for format in CLIP_FORMATS
            }
            if not self._has_mp4:
                gr.HTML(f'<p class="sw-hint">{escape(INSTALL_MP4)}</p>', elem_id=elem_id(prefix, "save-hint"))
        self.file = gr.Textbox(label="Exported clip", visible=False)

    @property
    def _has_mp4(self) -> bool:
        return default_format() == "mp4"

    @property
    def outputs(self) -> set[Any]:
        """Everything that `updates` may change."""
        return {self.row, *self.buttons.values()}

    def updates(self, record: Record | None) -> dict[Any, Any]:
        """Component to update for the clip that is there: grayed is its own format, and what this machine cannot do."""
        if record is None or not is_clip(record):
            return {self.row: gr.update(visible=False)}
        own = record.path.suffix
        able = {format: SUFFIXES[format] != own and self._able(format, own) for format in self.buttons}
        grayed = {button: gr.update(interactive=able[format]) for format, button in self.buttons.items()}
        return {self.row: gr.update(visible=True), **grayed}

    def _able(self, format: str, own: str) -> bool:
        return self._has_mp4 or SUFFIXES["mp4"] not in (SUFFIXES[format], own)

    def wire(self, inputs: Iterable[Any], record: Callable[[dict[Any, Any]], Record]) -> None:
        """Connect the buttons.

        Args:
            inputs: components that say which clip.
            record: from their data to the clip; StepwiseError where it is there no more.
        """
        for format, button in self.buttons.items():
            made = button.click(
                lambda data, format=format: self._saved(format, data, record),
                inputs=set(inputs),
                outputs={self.file},
                **{**PLUMBING, "queue": True, "concurrency_limit": 2},
            )
            made.success(None, inputs=[self.file], js="(address) => stepwise.download(address)", **PLUMBING)

    def _saved(self, format: str, data: dict[Any, Any], record: Callable[[dict[Any, Any]], Record]) -> dict[Any, Any]:
        try:
            path = converted(record(data), format, Path(get_upload_folder()) / secrets.token_hex(16))
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {self.file: archive_address(path)}
