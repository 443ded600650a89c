"""The form of the Video tab: a request, its method, frames, keys and first frame, and what will come of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder

from pipelines.core.errors import PictureError, StepwiseError
from pipelines.core.types import Choice
from pipelines.models.entry import CatalogEntry
from pipelines.models.video_models import plan_clip, video_model
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.request import CLIP_FORMATS
from studio.media.clips import NO_MP4, default_format
from studio.media.pictures import open_picture
from studio.ui import markup
from studio.ui.form import FIXED, RequestForm
from studio.ui.presentation import duration, file_size

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["ClipForm", "offered", "plan_markup", "uploaded"]


class ClipForm(RequestForm):
    """The fields of a request for every model that can make clips, with the defaults of its kind.

    Attributes:
        beside: of a model, updates of further components, which come with it.
        beside_outputs: those components.
    """

    beside: Callable[[CatalogEntry], dict[Any, Any]] = staticmethod(lambda entry: {})
    beside_outputs: frozenset[Any] = frozenset()

    @property
    def outputs(self) -> set[Any]:
        return {*super().outputs, *self.beside_outputs}

    def _model_updates(self, entry: CatalogEntry) -> dict[Any, Any]:
        return {**super()._model_updates(entry), **self.beside(entry)}

    def updates(self, values: Mapping[str, Any], current: str = "") -> dict[Any, Any]:
        """As `RequestForm.updates`; a guidance rescale that the model's own pipeline does not take is hidden."""
        updates = super().updates(values, current)
        if named := self._entry(values.get("model")):
            rescale = self.methods["guidance"].settings["cfg"]["guidance_rescale"]
            takes = named.kind != "video" or named.pipeline == "AnimateDiffPipeline" or video_model(named).rescales
            updates[rescale] = offered(takes, updates.get(rescale), 0.0)
        return updates

    @property
    def models(self) -> list[CatalogEntry]:
        return [_complete(entry) for entry in self.studio.models() if VIDEOS.fitting(entry)]

    def entry(self, key: Any) -> CatalogEntry:
        """The catalog's line of a model that is offered; the first for any other."""
        return self._entry(key) or self.first


def offered(takes: bool, update: Any, unset: Any) -> dict[str, Any]:
    """A field's update that also shows it, or hides it with the value that asks for nothing."""
    return {**(update or gr.update()), "visible": takes, **({} if takes else {"value": unset})}


def _complete(entry: CatalogEntry) -> CatalogEntry:
    model = video_model(entry)
    size = {name: side for name, side in zip(("width", "height"), model.size, strict=True) if side}
    return dataclasses.replace(entry, defaults={**size, **model.defaults, **entry.defaults})


def uploaded(value: Any) -> Path | None:
    """The file of an uploaded picture as the browser names it; only one that was uploaded here is taken.

    Raises:
        PictureError: it is another file, or is no longer there.
    """
    if not value:
        return None
    named = value.get("path") if isinstance(value, Mapping) else value
    path = Path(str(named or "")).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise PictureError("The first frame is no longer there. Upload it again.")
    return path


def first_frame(value: Any) -> Any:
    """The uploaded first frame, decoded; None without one."""
    path = uploaded(value)
    return None if path is None else open_picture(path)


def plan_markup(studio: Studio, entry: CatalogEntry, values: Mapping[str, Any]) -> str:
    """What a click will make, as HTML: frames, size and seconds as the model makes them, and what stands in the way.

    Args:
        studio: for the memory that models may take.
        entry: of the model.
        values: "frames", "fps", "width", "height" and "method" as they stand on the form.
    """
    try:
        plan = plan_clip(entry, int(values["frames"] or 0) or 1, int(values["width"] or 0), int(values["height"] or 0))
    except (StepwiseError, ValueError, TypeError) as error:
        return f'<p class="sw-hint sw-plan" data-kind="problem">{markup.escape(error)}</p>'
    seconds = plan.frames / max(1, int(values["fps"] or 1))
    size = f"{plan.width} × {plan.height}" if plan.width and plan.height else "the model's own size"
    said = [f"Makes {plan.frames} frames of {size}: {duration(seconds)}.", *plan.notes, *_obstacles(studio, entry)]
    return f'<p class="sw-hint sw-plan">{markup.escape(" ".join(said))}</p>'


def _obstacles(studio: Studio, entry: CatalogEntry) -> list[str]:
    if entry.problem:
        return [entry.problem]
    known, said = video_model(entry), []
    size, room = file_size(entry.size_bytes), studio.loader.cache.limit
    if not entry.local:
        said.append(f"{entry.label} is downloaded first{f' ({size})' if size else ''}.")
    if (entry.size_bytes or 0) > room and studio.loader.host is None:
        said.append(
            f"It has {size}, and models may take {file_size(room)} of this machine's memory: it cannot run here."
        )
    return [*said, *([known.note] if known.note else [])]


class ClipChoices:
    """Frames, frame rate, format and first frame, in the present layout context.

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
        usual = default_format()
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

    @property
    def plain(self) -> dict[str, Any]:
        """Name to component of what the task takes as it stands."""
        return {"frames": self.frames, "fps": self.fps, "format": self.format}

    @property
    def inputs(self) -> set[Any]:
        return {*self.plain.values(), self.picture}

    @property
    def outputs(self) -> set[Any]:
        return {*self.inputs, self.section}

    def model_updates(self, entry: CatalogEntry) -> dict[Any, Any]:
        """Component to update that brings a model's own frames and rate."""
        model = video_model(entry)
        return {
            self.frames: entry.num_frames or model.frames,
            self.fps: model.fps,
            self.section: gr.update(visible=model.first_frame != "no"),
        }


def request_draft(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored clip's settings as the form's own draft: see `VideoTab.updates`."""
    animate = values.get("animate")
    given = animate if isinstance(animate, Mapping) else {}
    kept = {name: given[name] for name in ("frames", "fps", "format", "keys") if name in given}
    method = Choice.parse(given["method"]).to_json() if given.get("method") else None
    return {"form": {"seed_mode": FIXED, **values, "batch_size": 1}, **kept, **({"method": method} if method else {})}
