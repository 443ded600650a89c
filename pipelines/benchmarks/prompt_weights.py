"""`python -m pipelines.benchmark prompt_weights`: what each rule for (word:1.2) makes of the shipped model's pictures.

Half of the captions have one object and half two; of every second caption the whole is weighted, of the others the
first object. The shipped classifier judges.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource, initial_noise
from pipelines.core.types import Choice, Request
from pipelines.emoji.captions import plain_caption
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import Scene, sample_scene
from pipelines.families.base import Family
from pipelines.families.prompt_tokens import clip_chunks
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING, WEIGHTINGS
from pipelines.families.prompts import encode_clip
from pipelines.learning.cases import Cases
from pipelines.metrics.classifier import Classifier, load_classifier
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import assemble_run, resolve

__all__ = ["main"]

WEIGHTS = (0.5, 1.2, 1.5, 2.0)
FIRST_SEED = 910_000_000
ROWS = 20
_MEMORY = 2**31
_LAST_NORM = "final_layer_norm"


@dataclasses.dataclass(frozen=True)
class _Case:
    scene: Scene
    whole: bool

    def prompt(self, weight: float) -> str:
        text = plain_caption(self.scene)
        if weight == 1:
            return text
        if self.whole:
            return f"({text}:{weight:g})"
        label = self.scene.objects[0].label
        return text.replace(label, f"({label}:{weight:g})", 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark prompt_weights", description=__doc__)
    parser.add_argument("--captions", type=int, default=300, help="whose embeddings are looked at")
    parser.add_argument("--pictures", type=int, default=60, help="how many of them become pictures")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args(arguments)
    catalog = shipped_catalog()
    cases = [
        _Case(sample_scene(catalog, FIRST_SEED + number, "all", 1 + number // 2 % 2), number % 2 == 0)
        for number in range(options.captions)
    ]
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[shipped()]), device="cpu")
    with loader.model("emoji") as family:
        for line in _measure_factors(family, cases):
            print(line, flush=True)
        for line in _judge_pictures(family, cases[: options.pictures], options.steps):
            print(line, flush=True)
    return 0


def _judge_pictures(family: Family, cases: Sequence[_Case], steps: int) -> Iterator[str]:
    """How often the pictures are right, and how surely they show the first object."""
    classifier = load_classifier()
    yield ""
    yield "| rule | weight | all right | adherence | first object |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    yield _write_line("none", 1.0, family, cases, steps, classifier)
    for rule in WEIGHTINGS:
        for weight in WEIGHTS:
            yield _write_line(rule, weight, family, cases, steps, classifier)


def _write_line(
    rule: str, weight: float, family: Family, cases: Sequence[_Case], steps: int, classifier: Classifier
) -> str:
    weighting = DEFAULT_WEIGHTING if rule == "none" else rule
    request = resolve(Request(guidance=Choice("cfg", {"guidance_scale": 4.0}), num_inference_steps=steps), family)
    rows = []
    for start in range(0, len(cases), ROWS):
        part = cases[start : start + ROWS]
        encoded = [family.encode_prompts(case.prompt(weight), "", 1, family.default_size, weighting) for case in part]
        conditionings = {name: type(encoded[0][name]).cat([one[name] for one in encoded]) for name in encoded[0]}
        seeds = range(start, start + len(part))
        noise = initial_noise(NoiseSource(seeds), (len(part), *family.latent_shape(*family.default_size)))
        pictures = Cases(conditionings, noise, tuple(seeds))
        *_, last = denoise(assemble_run(request, family, (pictures.noise, pictures.source()), conditionings))
        with torch.no_grad():
            rows += _judge(classifier, family.decode(last.latents), [case.scene for case in part])
    right, adherence, first = torch.tensor(rows).mean(dim=0).tolist()
    return f"| {rule} | {weight:g} | {right:.0%} | {adherence:.2f} | {first:.2f} |"


def _judge(classifier: Classifier, images: torch.Tensor, scenes: Sequence[Scene]) -> list[tuple[float, float, float]]:
    """Of each picture: is all of it right, the probability of that, and that of the first object."""
    scores, readings, rows = classifier.scores(images), classifier.read(images), []
    for index, (reading, scene) in enumerate(zip(readings, scenes, strict=True)):
        labels = tuple(placed.label for placed in scene.objects)
        right = reading.labels == labels and reading.background == scene.background
        adherence = classifier.truth_probability(images[index : index + 1], labels, scene.background).item()
        head = scores.alone if len(labels) == 1 else scores.left
        rows.append((float(right), adherence, head[index, classifier.labels.index(labels[0])].exp().item()))
    return rows


def _measure_factors(family: Family, cases: Sequence[_Case]) -> Iterator[str]:
    """By what factor each rule scales what has no weight, on the shipped text encoder and on one of random weights."""
    shipped_one = family.components["text_encoder"]
    config = CLIPTextConfig.from_dict({**shipped_one.config.to_dict(), "hidden_size": 32, "num_attention_heads": 2})
    torch.manual_seed(0)
    random_one = CLIPTextModel(config).eval()
    # Without a bias the last layer norm leaves no mean at all, which no trained CLIP has.
    torch.nn.init.normal_(random_one.get_submodule(_LAST_NORM).bias, std=0.1)
    encoders = {"shipped": shipped_one, "random CLIP": random_one}
    yield "| text encoder | rule | weight | least factor | median | largest | sign turned | off by more than half |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, encoder in encoders.items():
        for rule in WEIGHTINGS:
            for weight in (1.2, 2.0):
                ratios = torch.stack(
                    [_measure_factor(family.components["tokenizer"], encoder, case, weight, rule) for case in cases]
                )
                yield (
                    f"| {name} | {rule} | {weight:g} | {ratios.min():.2f} | {ratios.median():.2f} | {ratios.max():.2f} "
                    f"| {int((ratios < 0).sum())} | {int(((ratios - 1).abs() > 0.5).sum())} |"
                )


def _measure_factor(tokenizer, encoder, case: _Case, weight: float, rule: str) -> torch.Tensor:
    def encode(prompt: str) -> torch.Tensor:
        return encode_clip(tokenizer, encoder, prompt, 1, lambda output: (output[0], None), rule)[0][0]

    weights = torch.ones(tokenizer.model_max_length)
    tokens = clip_chunks(tokenizer, case.prompt(weight))[0]
    weights[1 : 1 + len(tokens)] = torch.tensor([one for _, one in tokens])
    plain, weighted = encode(case.prompt(1)), encode(case.prompt(weight))
    rest = weights == 1
    return (plain[rest] * weighted[rest]).sum() / plain[rest].square().sum()


if __name__ == "__main__":
    sys.exit(main())
