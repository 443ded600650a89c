"""Runs of a model that calibrated quantizers learn from: a few prompts, from the noise to the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.emoji.captions import plain_caption
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import sample_scene
from pipelines.families.base import Family
from pipelines.quantizers.calibrated import Progress
from pipelines.quantizers.calibration import Calibration, recorded_calls
from pipelines.requests.text_to_image import build_run, resolve

__all__ = ["PROMPTS", "STEPS", "list_prompts", "record_calibration"]

PROMPTS, STEPS = 8, 10
FIRST_SEED = 700_000_000

GENERAL = (
    "a photograph of a fox in the snow",
    "portrait of an old fisherman, oil painting",
    "a bowl of fruit on a wooden table",
    "a city street at night in the rain",
    "mountains behind a lake at sunrise",
    "a red sports car, studio light",
    "a cat sleeping on a stack of books, watercolor",
    "an astronaut riding a horse, digital art",
)
"""For models that draw anything."""

SMALL = 256
"""Pixels up to which a model is taken for one of ours, which draw emoji."""


def list_prompts(family: Family) -> Sequence[str]:
    """List the prompts of a family's calibration: captions of emoji for a small model, general ones for the others."""
    if max(family.default_size) > SMALL:
        return GENERAL
    catalog = shipped_catalog()
    return [plain_caption(sample_scene(catalog, FIRST_SEED + seed, "all", 1 + seed % 2)) for seed in range(PROMPTS)]


def record_calibration(
    family: Family,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = lambda stage, done, total: None,
    prompts: Sequence[str] | None = None,
    steps: int = STEPS,
) -> Calibration:
    """Run the model in full precision and record what its network is called with.

    Args:
        family: the model.
        cancelled: polled before every evaluation.
        progress: called for each prompt.
        prompts: one run each, one after another; None takes `list_prompts`.
        steps: of each run.

    Raises:
        Cancelled: the person stopped it.
    """
    prompts = list_prompts(family) if prompts is None else prompts
    sampler = Choice("flow_euler" if family.traits.flow else "dpmpp_2m")
    with recorded_calls(family.network) as calls:
        for index, prompt in enumerate(prompts):
            progress("Calibrating: run", index, len(prompts))
            request = Request(prompt=prompt, num_inference_steps=steps, seed=FIRST_SEED + index, sampler=sampler)
            for _ in denoise(build_run(resolve(request, family), family, cancelled)):
                pass
    return Calibration(tuple(calls))
