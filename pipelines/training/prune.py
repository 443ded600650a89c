"""Make a smaller model of a Stable Diffusion folder: `python -m pipelines.training.prune`.

Each part of the UNet is left out in turn; those without which the latents change least go, until the budget holds. What
is left is then fine-tuned to say what the whole network says, on latents that the model itself has drawn: no data is
needed. The result is a diffusers folder, which stock diffusers loads as the studio does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from pipelines.core.errors import TrainingError
from pipelines.core.gradients import no_grad
from pipelines.emoji.vocabulary import shipped_vocabulary
from pipelines.training.objectives import learning_rate, psnr
from pipelines.training.pruning import Unit, choose_units, count_parameters, list_units, remove_units, score_change
from pipelines.training.tokenizer import encode_captions
from pipelines.training.trainer import (
    add_arguments,
    generator_for,
    pick_device,
    picture_sheet,
    settings_from,
    train,
    use_threads,
)

__all__ = ["PruneTask", "draw_latents", "score_units"]

GUIDANCE, BATCH, RATE = 4.0, 32, 3e-4
_EMPTY = 0.15
"""Share of the samples whose prompt is left out, as guidance needs."""


@no_grad
def draw_latents(
    pipeline: StableDiffusionPipeline, network: UNet2DConditionModel, prompts: Sequence[str], steps: int, seed: int
) -> torch.Tensor:
    """Draw the finished latents of prompts, (N, C, h, w), each of a seed of its own, with another network.

    Args:
        pipeline: all else of the model; it is left as it is.
        network: that denoises.
        prompts: N.
        steps: of DDIM.
        seed: of the first; prompt i has seed + i.
    """
    parts = dict(pipeline.components) | {"unet": network, "safety_checker": None, "feature_extractor": None}
    own = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    own.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    own.set_progress_bar_config(disable=True)
    drawn = [
        own(
            list(prompts[start : start + BATCH]),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            output_type="latent",
            generator=[torch.Generator().manual_seed(seed + i) for i in range(start, min(start + BATCH, len(prompts)))],
        ).images
        for start in range(0, len(prompts), BATCH)
    ]
    return torch.cat(drawn).float().cpu()


def score_units(pipeline: StableDiffusionPipeline, prompts: Sequence[str], steps: int, seed: int) -> dict[Unit, float]:
    """Score each part of the UNet by how far the latents of prompts move without it."""
    whole = draw_latents(pipeline, pipeline.unet, prompts, steps, seed)
    scores = {}
    for unit in list_units(pipeline.unet.config):
        without = draw_latents(pipeline, remove_units(pipeline.unet, [unit]), prompts, steps, seed)
        scores[unit] = score_change(whole, without)
        print(f"without {unit}: {scores[unit]:.3f}", flush=True)
    return scores


class PruneTask:
    """The loss of a pruned network against the whole one, on noised latents of the model's own.

    Args:
        pipeline: the whole model; its networks are left as they are.
        student: the pruned network, which is trained.
        pool: latents (N, C, h, w) that the model drew.
        prompts: theirs.
        seed: of everything drawn.
        steps: length of the run.
        facts: is written beside an export.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        student: UNet2DConditionModel,
        pool: torch.Tensor,
        prompts: Sequence[str],
        seed: int = 0,
        steps: int = 1_000,
        facts: Mapping[str, object] | None = None,
    ):
        self.pipeline, self.student, self.facts = pipeline, student, dict(facts or {})
        self.pool, self.prompts, self.seed, self.steps, self.batch = pool, list(prompts), seed, steps, BATCH
        self.device = pipeline.unet.device
        self.teacher = pipeline.unet.eval().requires_grad_(False)
        pipeline.text_encoder.eval().requires_grad_(False)
        self.networks: torch.nn.Module = student.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0)
        self.alphas = DDIMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod

    def learning_rate(self, step: int) -> float:
        """Of this step."""
        return learning_rate(step, self.steps, RATE, 20, 0.5)

    def loss(self, step: int) -> torch.Tensor:
        """Mean squared error of the student's output against the whole network's, at random noise levels."""
        generator, rng = generator_for(self.seed, step), np.random.default_rng([self.seed, step])
        places = rng.integers(len(self.pool), size=self.batch)
        texts = [self.prompts[i] if rng.random() >= _EMPTY else "" for i in places]
        latents = self.pool[torch.from_numpy(places)]
        times = torch.randint(len(self.alphas), (self.batch,), generator=generator)
        alphas = self.alphas[times].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = (alphas.sqrt() * latents + (1 - alphas).sqrt() * noise).to(self.device)
        with torch.no_grad():
            tokens = encode_captions(self.pipeline.tokenizer, texts).to(self.device)
            embeds = self.pipeline.text_encoder(tokens)[0]
            wanted = self.teacher(noisy, times.to(self.device), embeds, return_dict=False)[0].float()
        said = self.student(noisy, times.to(self.device), embeds, return_dict=False)[0].float()
        return (said - wanted).square().mean()

    def export(self, folder: Path) -> None:
        """Write the whole model with the pruned network, a diffusers folder, and what went."""
        parts = dict(self.pipeline.components) | {"unet": self.student}
        StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
        (folder / "pruning.json").write_text(json.dumps(self.facts, indent=1) + "\n", "utf-8")

    def sheet(self, path: Path) -> None:
        """Draw pictures of the first prompts, above by the whole network and below by the pruned one."""
        prompts = self.prompts[:12]
        drawn = [draw_latents(self.pipeline, one, prompts, 20, 0) for one in (self.teacher, self.student)]
        picture_sheet(_decode(self.pipeline, torch.cat(drawn)), len(prompts)).save(path)


@no_grad
def _decode(pipeline: StableDiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
    config = pipeline.vae.config
    scaled = latents / config.scaling_factor + (config.get("shift_factor") or 0)
    pictures = [pipeline.vae.decode(row.to(pipeline.vae.device), return_dict=False)[0] for row in scaled.split(1)]
    return (torch.cat(pictures).float().cpu() / 2 + 0.5).clamp(0, 1)


def measure(
    pipeline: StableDiffusionPipeline, network: UNet2DConditionModel, prompts: Sequence[str], seed: int
) -> dict[str, float]:
    """Measure a network beside the pipeline's own: its share of the weights and of an evaluation's processor time, and
    the mean PSNR of pictures of 25 steps, in dB."""
    whole, pruned = (draw_latents(pipeline, one, prompts, 25, seed) for one in (pipeline.unet, network))
    pairs = zip(_decode(pipeline, whole), _decode(pipeline, pruned), strict=True)
    return {
        "weights": count_parameters(network) / count_parameters(pipeline.unet),
        "time": _time(network, pipeline) / _time(pipeline.unet, pipeline),
        "psnr": float(np.mean([float(psnr(one[None], other[None])) for one, other in pairs])),
    }


@no_grad
def _time(network: UNet2DConditionModel, pipeline: StableDiffusionPipeline) -> float:
    """The least processor time of an evaluation, with and without the prompt in one batch."""
    size, config = network.config.sample_size, network.config
    latents = torch.zeros(2, config.in_channels, size, size, device=network.device)
    embeds = pipeline.text_encoder(encode_captions(pipeline.tokenizer, ["", ""]).to(network.device))[0]
    best = float("inf")
    for _ in range(8):
        start = time.process_time()
        network(latents, 500, embeds)
        best = min(best, time.process_time() - start)
    return best


def _read_prompts(options: argparse.Namespace, count: int, seed: int) -> list[str]:
    """Lines of a file, in turn; of a shipped model where none is given, what it draws on the colors that it knows."""
    path: Path | None = options.prompts
    vocabulary = shipped_vocabulary(options.start.resolve().name)
    if path is None:
        if vocabulary is None:
            raise TrainingError("Give --prompts, a file of prompts that the model is used with, one a line.")
        rng, subjects = np.random.default_rng([seed, 77]), list(vocabulary.subjects.values())
        return [f"{rng.choice(subjects)} on a {rng.choice(vocabulary.backgrounds)} background" for _ in range(count)]
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise TrainingError(f"{path.name} has no prompts. Write one in each line.")
    return [lines[i % len(lines)] for i in range(count)]


def _describe_model(pipeline: StableDiffusionPipeline) -> str:
    """Return a digest of the UNet's weights, which tells one model from another wherever its folder lies."""
    digest = hashlib.sha256()
    for name, tensor in pipeline.unet.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_plan(path: Path, pipeline: StableDiffusionPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """What goes, as an earlier session has found, or found now and written down."""
    if path.is_file():
        plan: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if plan["budget"] != options.budget:
            raise TrainingError(f"This run was begun with a budget of {plan['budget']}. Use another --run-dir.")
        if plan.get("model", own := _describe_model(pipeline)) != own:
            raise TrainingError("This run was begun with another model. Use another --run-dir.")
        return plan
    prompts = _read_prompts(options, options.scored, options.seed)
    scores = score_units(pipeline, prompts, 10, options.seed)

    def count_left(units: Sequence[Unit]) -> int:
        return count_parameters(remove_units(pipeline.unet, units))

    chosen = choose_units(scores, count_left, options.budget * count_parameters(pipeline.unet))
    plan = {
        "budget": options.budget,
        "model": _describe_model(pipeline),
        "removed": [[unit.kind, unit.block, unit.index] for unit in chosen],
        "scores": {str(unit): score for unit, score in scores.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan, indent=1) + "\n", "utf-8")
    return plan


def _draw_pool(path: Path, pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int) -> torch.Tensor:
    if path.is_file():
        return load_file(path)["latents"]
    pool = draw_latents(pipeline, pipeline.unet, prompts, 20, seed + 1_000)
    save_file({"latents": pool}, path)
    return pool


def main(arguments: list[str] | None = None) -> None:
    """Prune and fine-tune, or go on, in --run-dir; the model is then in its folder "export"."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, required=True, help="the diffusers folder to make smaller")
    parser.add_argument("--budget", type=float, default=0.7, help="share of the UNet's weights that may be left")
    parser.add_argument("--prompts", type=Path, help="a file of prompts, one a line (default: the shipped models')")
    parser.add_argument("--scored", type=int, default=16, help="pictures by which each part is judged")
    parser.add_argument("--pool", type=int, default=256, help="latents that the fine-tuning sees")
    options = parser.parse_args(arguments)
    if not 0 < options.budget <= 1 or options.scored < 2 or options.pool < 1:
        raise TrainingError("The budget is a share from 0 to 1, at least 2 pictures judge and 1 is in the pool.")
    if not (options.start / "unet" / "config.json").is_file():
        raise TrainingError(
            f"{options.start} is no diffusers folder of Stable Diffusion, with a UNet. Choose one that is."
        )
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    settings = settings_from(options, 400, 0.99)
    pipeline = StableDiffusionPipeline.from_pretrained(options.start, dtype=torch.float32).to(pick_device())
    pipeline.unet.eval()
    folder = options.run_dir
    plan = _read_plan(folder / "plan.json", pipeline, options)
    student = remove_units(pipeline.unet, [Unit(*one) for one in plan["removed"]])
    judged = _read_prompts(options, 8, options.seed + 1)
    before = measure(pipeline, student, judged, 7_000)
    prompts = _read_prompts(options, options.pool, options.seed + 2)
    pool = _draw_pool(folder / "latents.safetensors", pipeline, prompts, options.seed)
    task = PruneTask(pipeline, student, pool, prompts, options.seed, settings.steps, plan)
    if train(task, folder, settings) < settings.steps:
        print("Not finished: run it again to go on.")
        return
    trained = UNet2DConditionModel.from_pretrained(folder / "export", subfolder="unet").to(pipeline.device).eval()
    after = measure(pipeline, trained, judged, 7_000)
    print(f"without {', '.join(str(Unit(*one)) for one in plan['removed'])}")
    for name, unit in (
        ("weights", "of the whole"),
        ("time", "of the whole, an evaluation"),
        ("psnr", "dB to the whole"),
    ):
        print(f"{name}: {before[name]:.3f} before fine-tuning, {after[name]:.3f} after ({unit})")


if __name__ == "__main__":
    main()
