"""What each video pipeline makes: frame counts and sizes it snaps to, its defaults, whether it takes a first frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipelines.core.errors import SettingsError
from pipelines.models.entry import CatalogEntry

__all__ = ["VIDEO_MODELS", "ClipPlan", "VideoModel", "plan_clip", "video_model"]


@dataclasses.dataclass(frozen=True)
class VideoModel:
    """Describes one diffusers pipeline as a maker of clips.

    Attributes:
        label: of the family of models, for sentences.
        frames: by default.
        fps: by default.
        size: (width, height) by default; (0, 0) leaves it to the model.
        frame_step: a clip has frame_step * k + 1 frames; 1 for any number.
        size_step: sides are multiples of this.
        max_frames: most frames of one clip; 0 for the server's cap alone.
        first_frame: "no", "takes" or "needs".
        from_picture: class of the pipeline of the same parts that starts from a picture; "" if it is this one.
        prompt: whether it reads a prompt.
        rescales: whether its pipeline takes a guidance rescale.
        true_guidance: whether its pipeline reads a negative prompt only at a true guidance scale above 1.
        defaults: of a request, where the catalog says nothing.
        note: what a person should know, in plain words.
    """

    label: str
    frames: int
    fps: int
    size: tuple[int, int] = (0, 0)
    frame_step: int = 1
    size_step: int = 8
    max_frames: int = 0
    first_frame: str = "no"
    from_picture: str = ""
    prompt: bool = True
    rescales: bool = False
    true_guidance: bool = False
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    note: str = ""


def _build_defaults(steps: int, scale: float, **more: float) -> dict[str, Any]:
    return {"num_inference_steps": steps, "guidance": {"key": "cfg", "guidance_scale": scale, **more}}


def _build_wan(**more: Any) -> VideoModel:
    return VideoModel(
        **{
            "label": "Wan",
            "frames": 81,
            "fps": 16,
            "size": (832, 480),
            "frame_step": 4,
            "size_step": 16,
            "defaults": _build_defaults(50, 5.0),
            **more,
        }
    )


def _build_ltx(**more: Any) -> VideoModel:
    return VideoModel(
        **{
            "label": "LTX",
            "frames": 161,
            "fps": 25,
            "size": (704, 512),
            "frame_step": 8,
            "size_step": 32,
            "first_frame": "takes",
            "rescales": True,
            "defaults": _build_defaults(50, 3.0),
            **more,
        }
    )


def _build_skyreels(**more: Any) -> VideoModel:
    return _build_wan(
        **{
            "label": "SkyReels",
            "frames": 97,
            "fps": 24,
            "size": (960, 544),
            "defaults": _build_defaults(50, 6.0),
            **more,
        }
    )


_COG: dict[str, Any] = {
    "label": "CogVideoX",
    "frames": 49,
    "fps": 8,
    "size": (720, 480),
    "frame_step": 4,
    "size_step": 16,
    "defaults": _build_defaults(50, 6.0),
}
_HUNYUAN: dict[str, Any] = {
    "label": "HunyuanVideo",
    "frames": 129,
    "fps": 24,
    "size": (1280, 720),
    "frame_step": 4,
    "size_step": 16,
    "true_guidance": True,
    "defaults": _build_defaults(50, 6.0),
}
_SILENT = "It makes sound too, which is left out."
_LTX2 = _build_defaults(30, 3.0, guidance_rescale=0.7)

VIDEO_MODELS: Mapping[str, VideoModel] = {
    "StableVideoDiffusionPipeline": VideoModel(
        "Stable Video Diffusion",
        25,
        7,
        (1024, 576),
        size_step=64,
        first_frame="needs",
        prompt=False,
        defaults=_build_defaults(25, 3.0),
        note="It starts from a picture and reads no prompt.",
    ),
    "AnimateDiffPipeline": VideoModel(
        "AnimateDiff", 16, 8, max_frames=32, first_frame="takes", defaults=_build_defaults(25, 7.5)
    ),
    "LTXPipeline": _build_ltx(from_picture="LTXImageToVideoPipeline"),
    "LTXImageToVideoPipeline": _build_ltx(first_frame="needs"),
    "LTX2Pipeline": _build_ltx(
        frames=121,
        fps=24,
        size=(768, 512),
        from_picture="LTX2ImageToVideoPipeline",
        defaults=_LTX2,
        note=_SILENT,
    ),
    "LTX2ImageToVideoPipeline": _build_ltx(
        frames=121, fps=24, size=(768, 512), first_frame="needs", defaults=_LTX2, note=_SILENT
    ),
    "WanPipeline": _build_wan(),
    "WanImageToVideoPipeline": _build_wan(first_frame="needs"),
    "AnyFlowPipeline": _build_wan(label="AnyFlow", defaults=_build_defaults(4, 1.0)),
    "CogVideoXPipeline": VideoModel(**_COG),
    "CogVideoXImageToVideoPipeline": VideoModel(**_COG, first_frame="needs"),
    "HunyuanVideoPipeline": VideoModel(**_HUNYUAN),
    "HunyuanVideoImageToVideoPipeline": VideoModel(**_HUNYUAN, first_frame="needs"),
    "SkyReelsV2Pipeline": _build_skyreels(),
    "SkyReelsV2ImageToVideoPipeline": _build_skyreels(first_frame="needs"),
    "SkyReelsV2DiffusionForcingPipeline": _build_skyreels(
        first_frame="takes",
        from_picture="SkyReelsV2DiffusionForcingImageToVideoPipeline",
        defaults=_build_defaults(30, 6.0),
    ),
}
"""Pipeline class to what it makes, as the classes of diffusers 0.42.1 check and round it."""

_PICTURES = VideoModel("a walk", 24, 12)
_UNKNOWN = VideoModel("this model", 16, 8, first_frame="takes")


def video_model(entry: CatalogEntry) -> VideoModel:
    """Say what is known of a catalog entry as a maker of clips; a model of pictures makes them one by one."""
    if entry.pipeline in VIDEO_MODELS:
        return VIDEO_MODELS[entry.pipeline]
    return _UNKNOWN if entry.kind == "video" else _PICTURES


@dataclasses.dataclass(frozen=True)
class ClipPlan:
    """Says what a clip will be, settled before it is made.

    Attributes:
        frames, width, height: as the model makes them; sides of 0 are the model's own, known when it is loaded.
        notes: what was changed and why, as sentences.
    """

    frames: int
    width: int
    height: int
    notes: tuple[str, ...] = ()


def plan_clip(entry: CatalogEntry, frames: int, width: int = 0, height: int = 0) -> ClipPlan:
    """Return the clip that a model makes of a wish: the nearest frame count and size that it can.

    Args:
        entry: of the model.
        frames: wished for, at least 1.
        width, height: in pixels; 0 for the model's default.

    Raises:
        SettingsError: more frames than the model can make.
    """
    model, notes = video_model(entry), []
    if model.max_frames and frames > model.max_frames:
        raise SettingsError(
            f"The number of frames is {frames}. {model.label} knows {model.max_frames} places in time: choose no more."
        )
    num_frames = _round_frames(frames, model.frame_step)
    if num_frames != frames:
        notes.append(f"{model.label} makes {model.frame_step}k + 1 frames: {frames} becomes {num_frames}.")
    wished = (
        width or entry.defaults.get("width", 0) or model.size[0],
        height or entry.defaults.get("height", 0) or model.size[1],
    )
    size = wished
    if entry.kind == "video":
        size = (_round_side(wished[0], model.size_step), _round_side(wished[1], model.size_step))
    if size != wished:
        notes.append(
            f"{model.label} makes sides that are multiples of {model.size_step}: {wished[0]} × {wished[1]} "
            f"becomes {size[0]} × {size[1]}."
        )
    return ClipPlan(num_frames, *size, tuple(notes))


def _round_frames(frames: int, step: int) -> int:
    """The nearest of step * k + 1; halfway goes down, as Wan's own rounding does."""
    below = (frames - 1) // step * step + 1
    return below + step if frames - below > step / 2 else below


def _round_side(side: int, step: int) -> int:
    return side and max(step, (side + step // 2) // step * step)
