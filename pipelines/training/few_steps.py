"""Train a few-step LoRA for the 128 px model: `python -m pipelines.training.few_steps`.

The student learns to jump along the guided trajectory of the model itself to the end of a segment of it, in one
evaluation without guidance. One segment gives a latent consistency model (LCM), four give four deterministic steps.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, LCMScheduler, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from pipelines.core.errors import TrainingError
from pipelines.training.composition_denoiser import SHEET_CAPTIONS, CompositionPool
from pipelines.training.fit import PARTS, require_fit
from pipelines.training.low_rank import add_low_rank, load_changes, save_lora
from pipelines.training.muon import Muon
from pipelines.training.objectives import assign_noise, learning_rate
from pipelines.training.recipes import Recipe, catalog_for, find_recipe
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

__all__ = ["FewStepTask", "few_step_scheduler", "jump", "segment_end", "velocity_of_jump"]

HOPS = 40
"""Levels of the teacher's trajectory: 999, 974, ..., 24, and the clean picture."""
GUIDANCE, RANK, BATCH, RATE = 4.0, 32, 64, 1e-3


def segment_end(hop: torch.Tensor, segments: int) -> torch.Tensor:
    """Find where the segment of a hop ends: the largest of its lower edges below the hop.

    Args:
        hop: (B,) integers from 1 (nearly clean) to HOPS (noise).
        segments: how many the trajectory is cut into; it divides HOPS.
    Returns: (B,) integers; 0 is the clean picture.
    """
    length = HOPS // segments
    return (hop - 1) // length * length


def jump(
    latents: torch.Tensor, velocity: torch.Tensor, start: tuple[torch.Tensor, ...], end: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Go from one noise level to another along a straight line in x0 and noise: a DDIM step.

    Args:
        latents, velocity: (B, C, H, W) at the start; v = alpha eps - sigma x0.
        start, end: alpha and sigma of the levels, (B, 1, 1, 1) each.
    Returns: (B, C, H, W) at the end.
    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, equation 12 at eta 0.
    """
    alpha, sigma = start
    clean, noise = alpha * latents - sigma * velocity, sigma * latents + alpha * velocity
    return end[0] * clean + end[1] * noise


def velocity_of_jump(
    latents: torch.Tensor, arrival: torch.Tensor, start: tuple[torch.Tensor, ...], end: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Compute the velocity with which `jump` goes from `latents` to `arrival`.

    Args: as of `jump`; the end is less noisy than the start.
    Returns: (B, C, H, W).
    """
    (alpha, sigma), ratio = start, end[1] / start[1]
    clean = (arrival - ratio * latents) / (end[0] - ratio * start[0])
    return (alpha * latents - clean) / sigma


def few_step_scheduler(segments: int, config: dict) -> SchedulerMixin:
    """Build the scheduler that the weights are made for: LCM for one segment, DDIM at trailing steps for more."""
    if segments == 1:
        return LCMScheduler.from_config(config)
    return DDIMScheduler.from_config(config, timestep_spacing="trailing", set_alpha_to_one=True)


class FewStepTask:
    """The loss of consistency distillation within segments, on the training compositions.

    From a noised latent the guided teacher goes one hop; from there the student, held still, jumps to the end of the
    segment. The student's jump from where it all began must arrive at the same place.

    Args:
        recipe: of the model.
        pipeline: the model; its networks are left as they are.
        pool: the latents and captions.
        segments: how many the trajectory is cut into.
        seed: of everything drawn.
        steps: length of the run.
        rank: of the changes.
        lora: a file of this kind to go on from; None begins without a change.
    Source: Luo et al., Latent Consistency Models, arXiv 2310.04378, algorithm 1, with the guided hop of section 4.2;
        Wang et al., Phased Consistency Models, arXiv 2405.18407, section 3, for the segments.
    Differs: the target is the student's own present weights, not their average (Song and Dhariwal, arXiv 2310.14189,
        section 3.2); the error is that of the velocity, which is the network's own output; the guidance is one
        number and no input; every layer has a change, not the attention alone.
    """

    def __init__(
        self,
        recipe: Recipe,
        pipeline: StableDiffusionPipeline,
        pool: CompositionPool,
        segments: int,
        seed: int = 0,
        steps: int = 1_000,
        rank: int = RANK,
        lora: Path | None = None,
    ):
        if segments < 1 or HOPS % segments:
            raise TrainingError(f"{segments} segments do not divide {HOPS} hops. Choose 1, 2, 4 or 8.")
        self.recipe, self.pipeline, self.pool, self.segments = recipe, pipeline, pool, segments
        self.seed, self.steps, self.batch = seed, steps, BATCH
        self.device = pipeline.unet.device
        self.teacher = pipeline.unet.eval().requires_grad_(False)
        pipeline.text_encoder.eval().requires_grad_(False)
        self.student: UNet2DConditionModel = copy.deepcopy(self.teacher)
        self.changes = add_low_rank(self.student, rank)
        if lora is not None:
            load_changes(self.changes, lora)
        self.networks = torch.nn.ModuleList(self.changes.values())
        if self.device.type == "cpu":
            # PyTorch's fused attention has a slow backward there
            self.student.set_attn_processor(AttnProcessor())
        self.optimizer = Muon(self.networks.parameters(), lr=RATE)
        alphas = DDIMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod
        hops = torch.arange(1, HOPS + 1) * (len(alphas) // HOPS) - 1
        self.timesteps = torch.cat([torch.zeros(1, dtype=torch.long), hops]).to(self.device)
        self.alphas = torch.cat([torch.ones(1), alphas[hops]]).to(self.device)

    def learning_rate(self, step: int) -> float:
        """Of this step."""
        return learning_rate(step, self.steps, RATE, 50, 0.5)

    def loss(self, step: int) -> torch.Tensor:
        """Squared error of the student's velocity against the one that arrives where the target does."""
        rng = np.random.default_rng([self.seed, step])
        latents, captions, _ = self.pool.batch(step, self.batch, rng, 0.0)
        generator = generator_for(self.seed, step)
        noise = assign_noise(latents, torch.randn(latents.shape, generator=generator))
        latents, noise = latents.to(self.device), noise.to(self.device)
        spread = torch.arange(self.batch) + torch.rand(self.batch, generator=generator)
        hop = (spread / self.batch * HOPS).long().clamp(max=HOPS - 1).to(self.device) + 1
        end = segment_end(hop, self.segments)
        start = self._level(hop)
        noisy = start[0] * latents + start[1] * noise
        with torch.no_grad():
            embeds, target = self._target(noisy, hop, end, captions)
        predicted = self.student(noisy, self.timesteps[hop], embeds, return_dict=False)[0]
        return (predicted.float() - target).square().mean()

    def export(self, folder: Path) -> None:
        """Write the LoRA."""
        save_lora(self.changes, self.student, folder / "few_steps.safetensors", self.recipe.name)

    def sheet(self, path: Path) -> None:
        """Draw two pictures in four steps for each of a few fixed captions."""
        parts = dict(self.pipeline.components) | {"unet": self.student}
        pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        pipeline.scheduler = few_step_scheduler(self.segments, dict(self.pipeline.scheduler.config))
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(
            list(SHEET_CAPTIONS),
            num_inference_steps=4,
            guidance_scale=1.0,
            output_type="pt",
            num_images_per_prompt=2,
            generator=torch.Generator().manual_seed(0),
        )
        picture_sheet(drawn.images.float()).save(path)

    def _level(self, hop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alphas = self.alphas[hop].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()

    def _target(
        self, noisy: torch.Tensor, hop: torch.Tensor, end: torch.Tensor, captions: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the captions' embeddings and the velocity to learn."""
        embeds = self.pipeline.text_encoder(encode_captions(self.pipeline.tokenizer, [*captions, ""]).to(self.device))[
            0
        ]
        embeds, empty = embeds[:-1], embeds[-1:].expand(len(captions), -1, -1)
        both = torch.cat([noisy, noisy]), self.timesteps[hop].repeat(2), torch.cat([embeds, empty])
        conditional, unconditional = self.teacher(*both, return_dict=False)[0].float().chunk(2)
        guided = unconditional + GUIDANCE * (conditional - unconditional)
        start, between, arrival = self._level(hop), self._level(hop - 1), self._level(end)
        there = jump(noisy, guided, start, between)
        onward = self.student(there, self.timesteps[hop - 1], embeds, return_dict=False)[0].float()
        # where the hop ends the segment, this jump is from a level to itself and changes nothing
        return embeds, velocity_of_jump(noisy, jump(there, onward, between, arrival), start, arrival)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, required=True, help="the stock folder to make faster")
    parser.add_argument("--segments", type=int, default=4, help="1: latent consistency; 4: four steps (default)")
    parser.add_argument("--rank", type=int, default=RANK, help="of each layer's change")
    parser.add_argument("--lora", type=Path, help="a file of this command to go on from, at any rank")
    chosen = parser.parse_args(arguments)
    use_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    recipe, shape = find_recipe(chosen.recipe), find_recipe(chosen.recipe).denoiser
    require_fit(chosen.start, recipe, PARTS)
    settings = settings_from(chosen, 1_000, 0.99)
    pipeline = StableDiffusionPipeline.from_pretrained(chosen.start, dtype=torch.float32).to(pick_device())
    folder = chosen.run_dir / f"few_steps_{chosen.segments}"
    pool = CompositionPool(
        pipeline.vae,
        catalog_for(recipe),
        recipe.size,
        shape.pool,
        shape.first,
        shape.fresh,
        chosen.seed,
        folder / "latents.safetensors",
    )
    how = chosen.segments, chosen.seed, settings.steps, chosen.rank, chosen.lora
    train(FewStepTask(recipe, pipeline, pool, *how), folder, settings)


if __name__ == "__main__":
    main()
