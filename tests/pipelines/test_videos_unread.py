"""What a video model's own pipeline does not read is refused, what it reads by another name reaches it."""

from __future__ import annotations

import inspect
import types

import diffusers
import pytest

from pipelines.core.errors import MethodFitError
from pipelines.core.types import Choice, Request
from pipelines.models.catalog import published
from pipelines.models.video_models import VIDEO_MODELS
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.base import VideoJob

OWN = {name: model for name, model in VIDEO_MODELS.items() if name != "AnimateDiffPipeline"}
STRONG = {"true_guidance_scale": 6.0}


def accepted(pipeline: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(diffusers, pipeline).__call__).parameters)


def arguments(pipeline: str, settings=None, guidance_name: str | None = None, **changes):
    """diffusers' arguments for a clip of a published model: where it takes two scales, the network is distilled."""
    names = frozenset(accepted(pipeline))
    name = "guidance_scale" if "guidance_scale" in names else ""
    stock = types.SimpleNamespace(accepted=names, guidance_name=name if guidance_name is None else guidance_name)
    job = VideoJob((Request(prompt="a red fox", **changes),), 5, 8)
    return VIDEOS["svd" if pipeline.startswith("Stable") else "pipeline"].build(settings).arguments(job, stock)


@pytest.mark.parametrize("pipeline", OWN)
def test_rescaled_guidance_is_passed_on_or_refused(pipeline):
    guidance = Choice("cfg", {"guidance_scale": 5.0, "guidance_rescale": 0.4})
    assert OWN[pipeline].rescales == ("guidance_rescale" in accepted(pipeline))
    if OWN[pipeline].rescales:
        assert arguments(pipeline, guidance=guidance)["guidance_rescale"] == 0.4
        usual = accepted(pipeline)["guidance_rescale"].default
        assert OWN[pipeline].defaults["guidance"].get("guidance_rescale", 0.0) == usual
        return
    with pytest.raises(MethodFitError, match="guidance rescale is 0.4.*Set it to 0"):
        arguments(pipeline, guidance=guidance)
    plain = arguments(pipeline, guidance=Choice("cfg", {"guidance_scale": 5.0}))
    assert "guidance_rescale" not in plain and 5.0 in (plain.get("guidance_scale"), plain.get("max_guidance_scale"))


@pytest.mark.parametrize("pipeline", [name for name, model in OWN.items() if model.prompt])
def test_a_negative_prompt_counts_or_is_refused(pipeline):
    assert OWN[pipeline].true_guidance == ("true_cfg_scale" in accepted(pipeline))
    if not OWN[pipeline].true_guidance:
        assert arguments(pipeline, negative_prompt="blurry")["negative_prompt"] == "blurry"
        with pytest.raises(MethodFitError, match="no true guidance scale.*Set it to 1"):
            arguments(pipeline, STRONG, negative_prompt="blurry")
        return
    with pytest.raises(MethodFitError, match="reads a negative prompt only at a true guidance scale above 1"):
        arguments(pipeline, negative_prompt="blurry")
    with pytest.raises(MethodFitError, match="true guidance scale is 6.*Write a negative prompt"):
        arguments(pipeline, STRONG)
    made = arguments(pipeline, STRONG, negative_prompt="blurry")
    assert (made["negative_prompt"], made["true_cfg_scale"], made["guidance_scale"]) == ("blurry", 6.0, 4.0)
    assert "true_cfg_scale" not in arguments(pipeline) and not {*STRONG} & made.keys()


def test_a_network_that_is_not_distilled_is_guided_by_the_guidance_scale():
    made = arguments("HunyuanVideoPipeline", None, "true_cfg_scale", guidance=Choice("cfg", {"guidance_scale": 5.0}))
    assert (made["true_cfg_scale"], made["negative_prompt"], "guidance_scale" in made) == (5.0, " ", False)
    made = arguments("HunyuanVideoPipeline", None, "true_cfg_scale", negative_prompt="blurry")
    assert (made["true_cfg_scale"], made["negative_prompt"]) == (4.0, "blurry")
    with pytest.raises(MethodFitError, match="beside its guidance scale. Set it to 1"):
        arguments("HunyuanVideoPipeline", STRONG, "true_cfg_scale", negative_prompt="blurry")


@pytest.mark.parametrize("entry", [one for one in published() if one.kind == "video"], ids=lambda one: one.key)
def test_the_catalog_asks_for_the_guidance_that_the_pipeline_has_by_itself(entry):
    wanted = VIDEO_MODELS[entry.pipeline].defaults["guidance"]
    assert entry.defaults["guidance"].get("guidance_rescale") == wanted.get("guidance_rescale")
