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
from studio.media.clips import (
    INSTALL_MP4,
    LARGEST_CLIP,
    SUFFIXES,
    check_format,
    decode_clip,
    encode_clip,
    get_default_format,
)
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING, build_elem_id
from studio.ui.markup import prose
from studio.ui.outputs import in_order
from studio.ui.results_route import build_archive_address

if TYPE_CHECKING:
    from studio.results.store import Record

__all__ = ["ClipExport", "convert_clip", "is_clip"]

_LABELS = {"mp4": "MP4", "webp": "WebP", "gif": "GIF"}


def is_clip(record: Record) -> bool:
    """Say whether a result is a clip that can be taken away in another format."""
    return "animate" in record.metadata and record.path.suffix in SUFFIXES.values()


def convert_clip(record: Record, format: str, folder: Path) -> Path:
    """Convert a stored clip into another format, with its settings as text inside, as a new file.

    Args:
        record: of the store.
        format: "mp4", "webp" or "gif".
        folder: for the file; made if missing.

    Raises:
        SettingsError: it is no clip, PyAV is wanted and not installed, or the clip is too large.
        StoreError: it cannot be read or written.
    """
    if not is_clip(record):
        raise SettingsError("This result is not a clip. Choose a clip to save it in another format.")
    check_format(format)
    fps = _whole(record, "fps", 240)
    frames, measured = decode_clip(record.path, fps, _whole(record, "frames", LARGEST_CLIP))
    if record.width and record.height:  # an mp4 is padded to even sides
        frames = frames[:, : record.height, : record.width]
    data = encode_clip(frames, fps or measured, format, record.parameters)
    path = folder / f"{record.id}{SUFFIXES[format]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"The clip cannot be written: {error.strerror or error}. Make room, and try again.") from error
    return path


def _whole(record: Record, name: str, most: int) -> int | None:
    """A whole number from 1 of the clip's saved request, which a file may not know: a GIF counts in hundredths of a
    second, and a WebP of equal frames has neither a rate nor a length. None for anything else.
    """
    animate = record.metadata["animate"]
    value = animate.get(name) if isinstance(animate, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most else None


class ClipExport:
    """Lays out a button a format, in the present layout context; hidden until there is a clip.

    Args:
        prefix: begins every component's id.
    """

    def __init__(self, prefix: str):
        with gr.Row(elem_classes="sw-acts", visible=False) as self.row:
            self.buttons = {
                format: gr.Button(
                    f"Save as {_LABELS[format]}", size="sm", min_width=0, elem_id=build_elem_id(prefix, "save", format)
                )
                for format in CLIP_FORMATS
            }
            if not self._has_mp4:
                gr.HTML(f'<p class="sw-hint">{prose(INSTALL_MP4)}</p>', elem_id=build_elem_id(prefix, "save-hint"))
        self.file = gr.Textbox(label="Exported clip", visible=False)

    @property
    def _has_mp4(self) -> bool:
        return get_default_format() == "mp4"

    @property
    def outputs(self) -> set[Block]:
        """Return everything that `updates` may change."""
        return {self.row, *self.buttons.values()}

    def updates(self, record: Record | None) -> Data:
        """Map each component to the update for the clip that is there: grayed is its own format, and what this machine
        cannot do."""
        if record is None or not is_clip(record):
            return {self.row: gr.update(visible=False)}
        source_suffix = record.path.suffix
        convertible = {
            format: SUFFIXES[format] != source_suffix and self._is_convertible(format, source_suffix)
            for format in self.buttons
        }
        grayed = {button: gr.update(interactive=convertible[format]) for format, button in self.buttons.items()}
        return {self.row: gr.update(visible=True), **grayed}

    def _is_convertible(self, format: str, source_suffix: str) -> bool:
        return self._has_mp4 or SUFFIXES["mp4"] not in (SUFFIXES[format], source_suffix)

    def wire(self, inputs: Iterable[Any], record: Callable[[Data], Record]) -> None:
        """Connect the buttons.

        Args:
            inputs: components that say which clip.
            record: from their data to the clip; StepwiseError where it is there no more.
        """
        for format, button in self.buttons.items():
            saved = button.click(
                lambda data, format=format: self._save(format, data, record),
                inputs=set(inputs),
                outputs=in_order([self.file]),
                **{**PLUMBING, "queue": True, "concurrency_limit": 2},
            )
            saved.success(None, inputs=[self.file], js="(address) => stepwise.download(address)", **PLUMBING)

    def _save(self, format: str, data: Data, record: Callable[[Data], Record]) -> Data:
        try:
            path = convert_clip(record(data), format, Path(get_upload_folder()) / secrets.token_hex(16))
        except StepwiseError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {self.file: build_archive_address(path)}
