"""What the samplers benchmark runs on: 64 captions of a shipped model's grammar, and a 999-step reference."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.core.gradients import no_grad
from pipelines.core.loop import denoise
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Choice, Request
from pipelines.families.base import Family
from pipelines.learning.cases import Cases, make_cases
from pipelines.metrics.composition_adherence import adherence
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped, shipped_128
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import assemble_run, resolve

__all__ = [
    "ALONE",
    "BASE",
    "BRANCHES",
    "GUIDANCE_SCALE",
    "MODELS",
    "PICTURES",
    "REFERENCE_STEPS",
    "Bench",
    "open_bench",
]

MODELS = ("emoji", "emoji-128")
"""Shipped models that it can run on."""

PICTURES, FIRST_SEED, GUIDANCE_SCALE, REFERENCE_STEPS = 64, 7_000, 4.0, 999
_TWO_OBJECTS, _FIRST_COMPOSITION = 16, 90_000
_MEMORY = 2**31

ROWS = 16
"""Pictures evaluated at a time."""

BRANCHES = 2
"""Of the guidance, evaluated together."""

ALONE = ("mcmc",)
"""Starts after which each picture has a number of steps of its own."""

BASE = Request(guidance=Choice("cfg", {"guidance_scale": GUIDANCE_SCALE}))
"""What all runs have in common; its sampler is DPM-Solver++(2M), its schedule uniform."""


class _Remembering:
    """A network that answers the first question of every run, asked by all of them, once.

    Args:
        family: the network.
    """

    def __init__(self, family: Family):
        self.family, self.prediction_type, self.max_rows = family, family.prediction_type, family.max_rows
        self._outputs: dict[str, torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        if timesteps[0] < self.family.noise_schedule.num_train_timesteps - 1:
            return self.family.predict_raw(latents, timesteps, conditioning)
        parts = (latents, timesteps, *conditioning.tensors.values())
        key = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
        if key not in self._outputs:
            self._outputs[key] = self.family.predict_raw(latents, timesteps, conditioning).clone()
        return self._outputs[key]


@dataclasses.dataclass(frozen=True)
class Bench:
    """A shipped model with the pictures that every sampler makes.

    Attributes:
        family: a shipped model.
        cases: the pictures.
        judges: one a picture (1, 3, H, W) in [0, 1]: the probability (1,) that it shows what its caption says.
        network: the family, answering the runs' common first question once.
        model: its key.
    """

    family: Family
    cases: Cases
    judges: Sequence[Callable[[torch.Tensor], torch.Tensor]]
    network: Any
    model: str = MODELS[0]

    def first(self, pictures: int) -> Bench:
        """Return the same with only the first pictures."""
        return dataclasses.replace(self, cases=self.cases.part(0, pictures), judges=self.judges[:pictures])

    def run(self, request: Request) -> torch.Tensor:
        """Run as `run_and_count` does, without the count."""
        return self.run_and_count(request)[0]

    def run_and_count(self, request: Request) -> tuple[torch.Tensor, float]:
        """Compute the pictures' final latents, and evaluations a picture; prompt and seed of the request are not read.

        A pair of guidance is one evaluation. Where each picture has a chain of its own, they differ: then it is their
        mean.

        Raises:
            StepwiseError: the request does not fit the model.
        """
        resolved, ends, evaluations = resolve(request, self.family), [], 0.0
        alone = request.start.key in ALONE
        for part in self.cases.parts(1 if alone else ROWS):
            run = assemble_run(resolved, self.network, (part.noise, part.source()), dict(part.conditionings))
            *_, last = denoise(run)
            ends.append(last.latents)
            evaluations += len(part) * last.evaluations / BRANCHES
        return torch.cat(ends), evaluations / len(self.cases)

    @property
    def identity(self) -> str:
        """Names the weights and the pictures: figures with another name are not comparable."""
        state = self.family.network.state_dict()
        inputs = [self.cases.noise[:ROWS], *self.cases.part(0, ROWS).conditionings["positive"].tensors.values()]
        parts = [*inputs, *state.values()]
        return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()[:16]

    def reference(self, folder: Path) -> torch.Tensor:
        """Compute the final latents of DPM-Solver++(2M) over 999 of the 1000 trained times; read where they are kept
        here."""
        from safetensors.torch import load_file, save_file  # late: PyTorch is imported with it

        folder.mkdir(parents=True, exist_ok=True)
        ends = []
        for start in range(0, len(self.cases), ROWS):
            part = dataclasses.replace(self, cases=self.cases.part(start, start + ROWS))
            path = folder / f"reference-{self.identity}-{start}.safetensors"
            latents = load_file(path)["latents"] if path.is_file() else torch.empty(0)
            if len(latents) < len(part.cases):  # not there, or of a run with fewer pictures
                latents = part.run(BASE.replace(model=self.model, num_inference_steps=REFERENCE_STEPS))
                save_file({"latents": latents.contiguous()}, path)
            ends.append(latents[: len(part.cases)])
        return torch.cat(ends)

    @no_grad
    def adherence(self, latents: torch.Tensor) -> float:
        """Measure the mean probability, by the judge of these captions, that a picture shows what its caption says."""
        images = self.family.decode(latents)
        return float(torch.cat([judge(images[i : i + 1]) for i, judge in enumerate(self.judges)]).mean())


def captions() -> list[tuple[str, tuple[tuple[str, ...], str]]]:
    """Return captions that no training run saw, most of one object, the last quarter of two, and what they name."""
    from pipelines.emoji.objects import shipped_catalog
    from pipelines.training.measures import named_captions

    catalog = shipped_catalog()
    cases = named_captions(catalog, PICTURES - _TWO_OBJECTS, "train", 1) + named_captions(
        catalog, _TWO_OBJECTS, "train", 2
    )
    return [(text, (tuple(placed.label for placed in scene.objects), scene.background)) for scene, text in cases]


def _caption_judges() -> list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]:
    """The captions of the 64 px model, each with the classifier's probability of it."""
    from pipelines.metrics.classifier import load_classifier  # late: PyTorch is imported with it

    classifier = load_classifier()
    return [
        (text, lambda images, truth=truth: classifier.truth_probability(images, *truth))  # type: ignore[misc]
        for text, truth in captions()
    ]


def _composition_judges() -> list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]:
    """Captions of the 128 px models, of pairs that no training run saw, each with the detector's probability of it."""
    from pipelines.emoji.composition_captions import describe_plainly
    from pipelines.emoji.compositions import sample_composition
    from pipelines.emoji.objects import shipped_catalog
    from pipelines.metrics.detector import load_detector  # late: PyTorch is imported with it

    catalog, detector, texts = shipped_catalog(), load_detector(), dict[str, None]()
    for seed in itertools.count(_FIRST_COMPOSITION):
        texts[describe_plainly(sample_composition(catalog, seed, "held-out"))] = None
        if len(texts) == PICTURES:
            break
    return [(text, lambda images, text=text: adherence(detector, images, text)) for text in texts]  # type: ignore[misc]


@contextlib.contextmanager
def open_bench(pictures: int = PICTURES, model: str = MODELS[0]) -> Iterator[Bench]:
    """Provide a shipped model in float32 on the CPU, with its pictures, while the context lasts.

    Args:
        pictures: the first so many of them.
        model: of `MODELS`.
    """
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[shipped(), shipped_128()]), device="cpu")
    with loader.model(model) as family:
        selected = (_caption_judges() if model == MODELS[0] else _composition_judges())[:pictures]
        cases = make_cases(family, [text for text, _ in selected], range(FIRST_SEED, FIRST_SEED + pictures))
        yield Bench(family, cases, [judge for _, judge in selected], _Remembering(family), model)
