"""What the tests of videos share."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.core.types import Choice, Request
from pipelines.workflows.video.base import ClipFrames, ClipStep, VideoJob
from pipelines.workflows.video.walk import Walk, WalkSettings

BASE = Request(
    model="tiny", prompt="a red fox", num_inference_steps=3, seed=3, width=32, height=32, sampler=Choice("ddim")
)
OTHER = {"prompt": "a blue cat", "seed": 9}


def walk(family, keys, frames=5, **settings):
    """The frames of a walk, (F, H, W, 3), and its steps."""
    method = Walk(WalkSettings(**{"easing": "linear", **settings}))
    job = VideoJob(tuple(keys), frames, 8)
    method.check(job)
    events = list(method.run(job, family, lambda: False))
    pictures = [event for event in events if isinstance(event, ClipFrames)]
    assert [event.first for event in pictures] == list(np.cumsum([0, *(len(one.pictures) for one in pictures[:-1])]))
    return np.concatenate([one.pictures for one in pictures]), [one for one in events if isinstance(one, ClipStep)]


def weights(pipe):
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for name, part in parts.items()
        for module in part.modules()
        if "encoder" not in name
    )
    state = {f"{name}.{key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}
    return {**state, "hooks": torch.tensor(hooks)}


def made(method, job, model):
    """The steps of a whole run, and its frames."""
    events = list(method.run(job, model, lambda: False))
    assert isinstance(events[-1], ClipFrames)
    frames = np.concatenate([event.pictures for event in events if isinstance(event, ClipFrames)])
    return [event for event in events if isinstance(event, ClipStep)], frames
