"""`python -m pipelines.benchmark guidance`: every guidance method on captions of two objects, beside plain guidance.

Every method draws the same pictures from the same noise. Adherence is the detector's probability that a picture shows
what its caption says, and nothing else; PSNR is that to classifier-free guidance's picture of the same noise; sharpness
(mean square of the Laplacian) and saturation (mean of maximum less minimum) are ratios to its. Times are ratios of
processor time on one thread, without the decoder.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.benchmarks.speed_runs import draw
from pipelines.core.errors import StepwiseError
from pipelines.core.types import Choice, Request
from pipelines.emoji.composition_captions import Description
from pipelines.emoji.objects import shipped_catalog
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.metrics.composition_adherence import description_probability
from pipelines.metrics.detector import Detector, load_detector
from pipelines.metrics.pictures import psnr
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped_128, shipped_flow
from pipelines.models.loader import Loader
from pipelines.requests.encoding import as_uint8
from pipelines.training.composition_measures import named_compositions

__all__ = ["Score", "main", "saturation", "sharpness", "summarize"]

_MEMORY = 4 * 2**30
_KINDS = ("left of", "above")
_FURTHER: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "slg": ({"first_block": 2, "last_block": 3},),
    "autoguidance": ({}, {"bits": 4}),
    "linear": ({}, {"share": 1.0}),
    "nag": ({"guidance_scale": 4.0},),
    "nasa": ({"guidance_scale": 4.0},),
}
"""Settings beside the defaults, which fit the shipped models: they are guided, and have fewer blocks."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Holds what one picture came to.

    Attributes:
        adherence: probability, 0 to 1.
        psnr: to the reference, in dB.
        sharpness, saturation: of the picture.
        evaluations: of the network.
        seconds: of processor time.
    """

    adherence: float
    psnr: float
    sharpness: float
    saturation: float
    evaluations: float
    seconds: float


def sharpness(picture: torch.Tensor) -> float:
    """Compute the mean square of the Laplacian of a picture (3, H, W) in [0, 1]."""
    kernel = picture.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(F.conv2d(picture[:, None], kernel).square().mean())


def saturation(picture: torch.Tensor) -> float:
    """Compute the mean difference of the largest and the least color of a picture's (3, H, W) pixels."""
    return float((picture.amax(0) - picture.amin(0)).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark guidance", description=__doc__)
    parser.add_argument("--captions", type=int, default=24, help="of two objects, left and right or above each other")
    parser.add_argument("--steps", type=int, default=8, help="of a run: few, so that methods differ")
    parser.add_argument("--flow", action="store_true", help="the flow transformer in the place of the UNet")
    parser.add_argument("--only", nargs="*", choices=list(GUIDANCE), help="methods beside cfg")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entry = shipped_flow() if options.flow else shipped_128()
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[entry]), device="cpu")
    with loader.model(entry.key) as family:
        base = Request.parse({**entry.defaults, "model": entry.key, "num_inference_steps": options.steps})
        for line in _compare(family, base, _list_choices(family, options.only), _draw_captions(options.captions)):
            print(line, flush=True)
    return 0


def _draw_captions(count: int) -> list[tuple[str, Description]]:
    catalog = shipped_catalog(None)
    halves = [named_compositions(catalog, (count + 1 - index) // 2, "train", kind) for index, kind in enumerate(_KINDS)]
    return [(text, description) for half in halves for _, text, description in half]


def _list_choices(family: Family, only: Sequence[str] | None) -> list[Choice]:
    keys = [key for key, one in GUIDANCE.items() if not one.fit(family.traits) and (not only or key in only)]
    return [Choice(key, dict(one)) for key in keys if key != "cfg" for one in _FURTHER.get(key, ({},))]


def _compare(
    family: Family, base: Request, choices: Sequence[Choice], captions: Sequence[tuple[str, Description]]
) -> Iterator[str]:
    """The lines of the table."""
    detector, references = load_detector(), list[torch.Tensor]()
    plain = _score(
        family, base.replace(guidance=Choice("cfg", {"guidance_scale": 4.0})), captions, detector, references
    )
    yield f"{base.model}, {base.num_inference_steps} steps, {len(captions)} captions of two objects:"
    yield ""
    yield "| guidance | settings | adherence | PSNR, dB | sharpness | saturation | evaluations | time |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    yield summarize("Classifier-free guidance", {"guidance_scale": 4.0}, plain, plain)
    for choice in choices:
        label = GUIDANCE[choice.key].label
        try:
            scores = _score(family, base.replace(guidance=choice), captions, detector, references)
        except StepwiseError as error:
            yield f"| {label} | not run: {error} | | | | | | |"
            continue
        yield summarize(label, choice.settings, scores, plain)


def _score(
    family: Family,
    request: Request,
    captions: Sequence[tuple[str, Description]],
    detector: Detector,
    references: list[torch.Tensor],
) -> list[Score]:
    """Draw and judge; the references are filled by the first call."""
    is_first, scores = not references, []
    for number, (text, description) in enumerate(captions):
        start = time.thread_time()
        latents, evaluations = draw(family, request.replace(prompt=text, seed=number))
        seconds = time.thread_time() - start
        picture = family.decode(latents)
        if is_first:
            references.append(picture)
        with torch.no_grad():
            shown = float(description_probability(detector, detector.scores(picture), description)[0])
        near = 99.0 if is_first else min(psnr(_pixels(picture), _pixels(references[number])), 99.0)
        look = (sharpness(picture[0]), saturation(picture[0]))
        scores.append(Score(shown, near, *look, evaluations, seconds))
    return scores


def _pixels(picture: torch.Tensor) -> np.ndarray:
    pixels: np.ndarray = as_uint8(picture)[0].numpy()
    return pixels


def summarize(label: str, settings: Mapping[str, object], scores: Sequence[Score], plain: Sequence[Score]) -> str:
    """Write a line: means, and the last figures as ratios to plain guidance's."""

    def mean(name: str, rows: Sequence[Score]) -> float:
        return sum(getattr(one, name) for one in rows) / len(rows)

    words = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items()) or "as they are"
    ratios = [f"{mean(name, scores) / mean(name, plain):.2f}" for name in ("sharpness", "saturation")]
    near = "–" if scores is plain else f"{mean('psnr', scores):.1f}"
    time_ratio = mean("seconds", scores) / mean("seconds", plain)
    return (
        f"| {label} | {words} | {mean('adherence', scores):.3f} | {near} | {ratios[0]} | {ratios[1]} "
        f"| {mean('evaluations', scores):.1f} | {time_ratio:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
