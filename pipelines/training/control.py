"""Train a T2I-Adapter for the 128 px model: `python -m pipelines.training.control`.

The model stays as it is. The adapter reads edges, an outline or a silhouette once, and what it says is added to the
UNet's layers.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionAdapterPipeline, StableDiffusionPipeline, T2IAdapter
from diffusers.models.attention_processor import AttnProcessor

from pipelines.emoji.composition_captions import describe
from pipelines.training.control_pictures import ControlPool, sample_placed
from pipelines.training.denoiser_networks import noise_schedule
from pipelines.training.fit import PARTS, require_fit
from pipelines.training.muon import Muon
from pipelines.training.objectives import assign_noise, learning_rate, soft_snr_v_loss
from pipelines.training.recipes import catalog_for, find_recipe
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

__all__ = ["ControlTask", "build_adapter", "join_adapter"]

STEPS, BATCH, RATE, WARMUP, DECAY = 2_000, 32, 2e-3, 50, 0.6
FIRST, FRESH = 2_048, 2
"""Compositions in memory before the first step, and how many join at each."""
EMPTY, SNR_FLOOR = 0.2, 0.005
SHEET, CAPTIONS = 8, 10**9
"""How many pictures of each kind of map a sheet has, and the number of its first composition."""


def build_adapter(channels: tuple[int, ...]) -> T2IAdapter:
    """Build the adapter of a UNet whose first block has no attention, as SDXL's has none: it reads one channel.

    Args:
        channels: of the UNet's first blocks, as many as the adapter adds to.
    """
    return T2IAdapter(
        in_channels=1, channels=list(channels), num_res_blocks=2, downscale_factor=16, adapter_type="full_adapter_xl"
    )


def join_adapter(pipeline: StableDiffusionPipeline, adapter: T2IAdapter) -> StableDiffusionAdapterPipeline:
    """Build the stock pipeline of a model and an adapter, with the solver that the measures use."""
    parts = {name: pipeline.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet")}
    scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    joined = StableDiffusionAdapterPipeline(
        **parts,
        adapter=adapter,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    joined.set_progress_bar_config(disable=True)
    return joined


class ControlTask:
    """The error of the velocity of noisy latents, with the adapter's features added to the frozen UNet.

    Args:
        pipeline: the model; its networks are left as they are.
        pool: latents, maps and captions.
        seed: of everything drawn.
        steps: length of the run.
    Source: Mou et al., T2I-Adapter, arXiv 2302.08453, section 3.3, with its cubic draw of the noise levels.
    Differs: one adapter reads edges, outlines and silhouettes; some captions are empty; the weight of the highest
        noise falls as of `soft_snr_v_loss`.
    """

    batch = BATCH

    def __init__(self, pipeline: StableDiffusionPipeline, pool: ControlPool, seed: int = 0, steps: int = STEPS):
        self.pipeline, self.pool, self.seed, self.steps = pipeline, pool, seed, steps
        self.device = pipeline.unet.device
        pipeline.unet.eval().requires_grad_(False)
        pipeline.text_encoder.eval().requires_grad_(False)
        if self.device.type == "cpu":
            # PyTorch's fused attention has a slow backward there
            pipeline.unet.set_attn_processor(AttnProcessor())
        self.networks = build_adapter(tuple(pipeline.unet.config.block_out_channels[:2])).to(self.device)
        self.optimizer = Muon(self.networks.parameters(), lr=RATE)
        self.alphas_cumprod = noise_schedule("v_prediction").alphas_cumprod.to(self.device)

    def learning_rate(self, step: int) -> float:
        """Return the rate of this step."""
        return learning_rate(step, self.steps, RATE, WARMUP, DECAY)

    def loss(self, step: int) -> torch.Tensor:
        """Compute the weighted error on this step's batch."""
        rng, generator = np.random.default_rng([self.seed, step]), generator_for(self.seed, step)
        with torch.autocast(self.device.type, enabled=False):
            drawn = self.pool.batch(step, self.batch, rng, EMPTY)
        latents = drawn.latents.to(self.device)
        noise = assign_noise(drawn.latents, torch.randn(latents.shape, generator=generator)).to(self.device)
        positions = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator)) / self.batch
        timesteps = ((1 - positions**3) * 1_000).long().clamp(max=999).to(self.device)
        alphas = self.alphas_cumprod[timesteps]
        scale = alphas.view(-1, 1, 1, 1)
        noisy = scale.sqrt() * latents + (1 - scale).sqrt() * noise
        velocity = scale.sqrt() * noise - (1 - scale).sqrt() * latents
        with torch.no_grad():
            tokens = encode_captions(self.pipeline.tokenizer, drawn.captions).to(self.device)
            embeds = self.pipeline.text_encoder(tokens)[0]
        features = self.networks(drawn.maps.to(self.device))
        predicted = self.pipeline.unet(
            noisy, timesteps, embeds, down_intrablock_additional_residuals=features, return_dict=False
        )[0]
        return soft_snr_v_loss(predicted, velocity, alphas, SNR_FLOOR)

    def export(self, folder: Path) -> None:
        """Write the adapter in half precision."""
        copy.deepcopy(self.networks).half().save_pretrained(folder)

    def sheet(self, path: Path) -> None:
        """Draw maps and, below each, the picture that follows it: of edges, then of silhouettes."""
        catalog, size = self.pool.catalog, self.pool.size
        compositions = [sample_placed(catalog, CAPTIONS + number, "held-out") for number in range(SHEET)]
        captions = [describe(one, catalog, np.random.default_rng(0)) for one in compositions]
        tensors = self.pool.render_compositions(compositions)
        rows = []
        joined = join_adapter(self.pipeline, self.networks)
        for kind in ("edges", "silhouettes"):
            maps = tensors[kind].float()
            generators = [torch.Generator().manual_seed(number) for number in range(SHEET)]
            drawn = joined(
                captions, maps, num_inference_steps=15, guidance_scale=4.0, generator=generators, output_type="np"
            ).images
            rows += [maps.expand(-1, 3, size, size), torch.from_numpy(drawn).permute(0, 3, 1, 2).float()]
        picture_sheet(torch.cat(rows), SHEET).save(path)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, required=True, help="the stock folder to steer")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe = find_recipe(options.recipe)
    require_fit(options.start, recipe, PARTS)
    settings = settings_from(options, STEPS, 0.995)
    pipeline = StableDiffusionPipeline.from_pretrained(options.start, dtype=torch.float32).to(pick_device())
    folder = options.run_dir / "control"
    pool = ControlPool(
        pipeline.vae, catalog_for(recipe), recipe.size, FIRST, FRESH, options.seed, folder / "pictures.safetensors"
    )
    train(ControlTask(pipeline, pool, options.seed, settings.steps), folder, settings)


if __name__ == "__main__":
    main()
