"""The form of the Video tab: a request, its method, frames, keys and first frame, and what will come of them."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder

from pipelines.core.errors import PictureError, StepwiseError
from pipelines.core.types import Choice
from pipelines.models.entry import CatalogEntry
from pipelines.models.video_models import plan_clip, video_model
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.request import CLIP_FORMATS
from studio.media.clips import NO_MP4, get_default_format
from studio.media.pictures import open_picture
from studio.ui import markup
from studio.ui.component_data import Block, Data
from studio.ui.form import FIXED, RequestForm
from studio.ui.presentation import format_duration, format_file_size

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["ClipForm", "build_plan_markup", "find_uploaded"]


class ClipForm(RequestForm):
    """Lays out the fields of a request for every model that can make clips, with the defaults of its kind.

    Attributes:
        beside: of a model, updates of further components, which come with it.
        beside_outputs: those components.
    """

    beside: Callable[[CatalogEntry], Data] = staticmethod(lambda entry: {})
    beside_outputs: frozenset[Block] = frozenset()

    @property
    def outputs(self) -> set[Block]:
        return {*super().outputs, *self.beside_outputs}

    def _build_model_updates(self, entry: CatalogEntry) -> Data:
        return {**super()._build_model_updates(entry), **self.beside(entry)}

    def updates(self, values: Mapping[str, object], current: str = "") -> Data:
        """Update as `RequestForm.updates` does; a guidance rescale that the model's own pipeline does not take is
        hidden."""
        updates = super().updates(values, current)
        if entry := self._find_entry(values.get("model")):
            takes = entry.kind != "video" or entry.pipeline == "AnimateDiffPipeline" or video_model(entry).rescales
            updates |= self.methods["guidance"].panel.alter(
                {"cfg": {"guidance_rescale": {"hidden": not takes}}}, updates
            )
        return updates

    @property
    def models(self) -> list[CatalogEntry]:
        return [_add_model_defaults(entry) for entry in self.studio.models() if VIDEOS.fitting(entry)]

    def size_multiple(self, entry: CatalogEntry) -> int:
        return super().size_multiple(entry) if entry.kind == "image" else video_model(entry).size_step

    def get_entry(self, key: object) -> CatalogEntry:
        """Return the catalog's line of a model that is offered; the first for any other."""
        return self._find_entry(key) or self.first


def _add_model_defaults(entry: CatalogEntry) -> CatalogEntry:
    model = video_model(entry)
    size = {name: side for name, side in zip(("width", "height"), model.size, strict=True) if side}
    return dataclasses.replace(entry, defaults={**size, **model.defaults, **entry.defaults})


def find_uploaded(value: object) -> Path | None:
    """Find the file of an uploaded picture as the browser names it; only one that was uploaded here is taken.

    Raises:
        PictureError: it is another file, or is no longer there.
    """
    if not value:
        return None
    name = value.get("path") if isinstance(value, Mapping) else value
    path = Path(str(name or "")).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise PictureError("The first frame is no longer there. Upload it again.")
    return path


def copy_result(path: Path, results: Path) -> Path:
    """Copy a result's picture to the uploaded ones, which a run takes: gradio leaves results where they are.

    Args:
        path: of the picture; returned as it is where it is no result.
        results: the folder of the results.
    """
    if not path.resolve().is_relative_to(results.resolve()) or not path.is_file():
        return path
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return Path(shutil.copyfile(path, folder / path.name))


def open_first_frame(value: object) -> Any:
    """Open the uploaded first frame, decoded; None without one."""
    path = find_uploaded(value)
    return None if path is None else open_picture(path)


def build_plan_markup(studio: Studio, entry: CatalogEntry, values: Mapping[str, Any]) -> str:
    """Say what a click will make, as HTML: frames, size and seconds as the model makes them, and what stands in the
    way.

    Args:
        studio: for the memory that models may take.
        entry: of the model.
        values: "frames", "fps", "width", "height" and "method" as they stand on the form.
    """
    try:
        plan = plan_clip(entry, int(values["frames"] or 0) or 1, int(values["width"] or 0), int(values["height"] or 0))
    except (StepwiseError, ValueError, TypeError) as error:
        return f'<p class="sw-hint sw-plan" data-kind="problem">{markup.prose(error)}</p>'
    seconds = plan.frames / max(1, int(values["fps"] or 1))
    size = f"{plan.width} × {plan.height}" if plan.width and plan.height else "the model's own size"
    sentences = [
        f"Makes {plan.frames} frames of {size}: {format_duration(seconds)}.",
        *plan.notes,
        *_list_obstacles(studio, entry),
    ]
    return f'<p class="sw-hint sw-plan">{markup.prose(" ".join(sentences))}</p>'


def _list_obstacles(studio: Studio, entry: CatalogEntry) -> list[str]:
    if entry.problem:
        return [entry.problem]
    model, sentences = video_model(entry), []
    size, room = format_file_size(entry.size_bytes), studio.loader.cache.limit
    if not entry.local:
        sentences.append(f"{entry.label} is downloaded first{f' ({size})' if size else ''}.")
    if (entry.size_bytes or 0) > room and studio.loader.host is None:
        sentences.append(
            f"It has {size}, and models may take {format_file_size(room)} of this machine's memory: it cannot run here."
        )
    return [*sentences, *([model.note] if model.note else [])]


class ClipChoices:
    """Lays out frames, frame rate, format and first frame, in the present layout context.

    Args:
        studio: for the caps.
        entry: of the model chosen at first.
    """

    def __init__(self, studio: Studio, entry: CatalogEntry):
        model, limits = video_model(entry), studio.limits
        self.frames = gr.Slider(
            1, limits.max_frames, value=model.frames, step=1, label="Frames", buttons=[], elem_id="vid-frames"
        )
        self.fps = gr.Slider(
            1, limits.max_fps, value=model.fps, step=1, label="Frames a second", buttons=[], elem_id="vid-fps"
        )
        usual = get_default_format()
        has_mp4 = usual == "mp4"
        labels = {"mp4": "MP4 (H.264)" if has_mp4 else "MP4 (not installed)", "webp": "WebP", "gif": "GIF"}
        self.format = gr.Radio(
            [(labels[format], format) for format in CLIP_FORMATS],
            value=usual,
            label="File",
            info=None if has_mp4 else NO_MP4,
            elem_id="vid-format",
        )
        with gr.Column(visible=model.first_frame != "no", min_width=0, elem_classes="sw-first") as self.section:
            self.picture = gr.Image(
                type="filepath",
                image_mode=None,
                format="png",
                sources=["upload", "clipboard"],
                label="First frame",
                buttons=[],
                height=180,
                placeholder="Drop or choose the picture to start from",
                elem_id="vid-first",
            )
            gr.HTML("<p class='sw-hint'>The clip begins with it. Say in the prompt what it shows and how it moves.</p>")

    @property
    def settings(self) -> dict[str, Any]:
        """Name to component of what the task takes as it stands."""
        return {"frames": self.frames, "fps": self.fps, "format": self.format}

    @property
    def inputs(self) -> set[Component]:
        return {*self.settings.values(), self.picture}

    @property
    def outputs(self) -> set[Block]:
        return {*self.inputs, self.section}

    def build_model_updates(self, entry: CatalogEntry) -> Data:
        """Map each component to the update that brings a model's own frames and rate."""
        model = video_model(entry)
        return {
            self.frames: entry.num_frames or model.frames,
            self.fps: model.fps,
            self.section: gr.update(visible=model.first_frame != "no"),
        }


def build_draft(values: Mapping[str, object]) -> dict[str, Any]:
    """Return a stored clip's settings as the form's own draft: see `VideoTab.updates`."""
    animate = values.get("animate")
    stored = animate if isinstance(animate, Mapping) else {}
    settings = {name: stored[name] for name in ("frames", "fps", "format", "keys") if name in stored}
    method = Choice.parse(stored["method"]).to_json() if stored.get("method") else None
    return {
        "form": {"seed_mode": FIXED, **values, "batch_size": 1},
        **settings,
        **({"method": method} if method else {}),
    }
