"""Train a tiny decoder for previews: `python -m pipelines.training.tiny_decoder`.

An AutoencoderTiny learns to decode as the model's own decoder does, in a small part of its time. All its layers work at
the latents' own size, and its last one makes the pixels of each latent as channels, which `torch.pixel_shuffle` lays
out (Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural
network, arXiv:1609.05158): at the size of the picture even sixteen channels take a tenth of the decoder's time. Its
encoder is as small as the class allows and is not trained: nothing uses it. Put beside the model's parts as `tiny_vae`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from pipelines.core.gradients import no_grad
from pipelines.emoji.compositions import sample_composition
from pipelines.emoji.objects import Catalog
from pipelines.families.tiny_decoders import decode_tiny
from pipelines.models.files import part_folder, read_json
from pipelines.training.fit import require_fit
from pipelines.training.latents import encode, pictures_of
from pipelines.training.muon import Muon
from pipelines.training.objectives import learning_rate, psnr
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import (
    add_arguments,
    generator_for,
    pick_device,
    picture_sheet,
    settings_from,
    train,
    use_threads,
)

__all__ = ["TinyDecoderTask", "build_tiny_decoder", "measure_tiny_decoder"]

WIDTH, BLOCKS = 64, 3
STEPS, BATCH, RATE = 4_000, 16, 4e-3
POOL = 2_048


def build_tiny_decoder(channels: int, factor: int) -> AutoencoderTiny:
    """Build a fresh one for latents of so many channels that are enlarged `factor` times, a power of two.

    Its output has 3 x factor x factor channels at the latents' size.
    """
    levels = factor.bit_length()
    return AutoencoderTiny(
        out_channels=3 * factor * factor,
        latent_channels=channels,
        encoder_block_out_channels=(4,) * levels,
        num_encoder_blocks=(1,) * levels,
        decoder_block_out_channels=(WIDTH,),
        num_decoder_blocks=(BLOCKS,),
        scaling_factor=1.0,
    )


class TinyDecoderTask:
    """Computes the tiny decoder's distance to the decoder.

    Args:
        tiny: what is trained.
        vae: the teacher.
        catalog: the objects.
        size: pixels.
        seed: of everything drawn.
        steps: length of the run.
        pool: latents in memory, a quarter of them mixtures of two.
    """

    batch = BATCH

    def __init__(
        self,
        tiny: AutoencoderTiny,
        vae: AutoencoderKL,
        catalog: Catalog,
        size: int,
        seed: int = 0,
        steps: int = STEPS,
        pool: int = POOL,
    ):
        self.networks, self.vae, self.catalog, self.size = tiny, vae.eval().requires_grad_(False), catalog, size
        self.seed, self.steps, self.pool = seed, steps, pool
        tiny.encoder.requires_grad_(False)
        self.optimizer = Muon(tiny.decoder.parameters(), lr=RATE)
        self._latents = self._decoded = torch.empty(0)

    def learning_rate(self, step: int) -> float:
        """Return the rate of this step."""
        return learning_rate(step, self.steps, RATE, 50, 0.7)

    def loss(self, step: int) -> torch.Tensor:
        """Compute L1 and squared error of this step's pictures."""
        if not len(self._latents):
            self._draw_pool()
        indices = torch.randint(len(self._latents), (self.batch,), generator=generator_for(self.seed, step))
        decoded = decode_tiny(self.networks, self._latents[indices].float()).float()
        error = decoded - self._decoded[indices].float()
        return 0.3 * error.abs().mean() + 8 * error.square().mean()

    def export(self, folder: Path) -> None:
        """Write it in half precision."""
        copy.deepcopy(self.networks).half().save_pretrained(folder / "tiny_vae")
        config = folder / "tiny_vae" / "config.json"
        # The class sets it itself, and warns of the one that it has written.
        plain = {name: value for name, value in read_json(config).items() if name != "block_out_channels"}
        config.write_text(json.dumps(plain, indent=2) + "\n")

    def sheet(self, path: Path) -> None:
        """Draw what the decoder makes of some latents, and below it what the tiny one does."""
        decoded = decode_tiny(self.networks, self._latents[:12].float())
        picture_sheet(torch.cat([self._decoded[:12].float(), decoded]) / 2 + 0.5).save(path)

    @no_grad
    def _draw_pool(self) -> None:
        latents, decoded = [], []
        with torch.autocast(next(self.vae.parameters()).device.type, enabled=False):
            for start in range(0, self.pool, 32):
                seeds = range(start, min(start + 32, self.pool))
                batch = _encode_compositions(self.vae, self.catalog, seeds, self.size, "train")
                if start // 32 % 4 == 3:  # an early estimate of x0 is a mean of many pictures
                    shares = torch.rand(len(batch), 1, 1, 1, generator=generator_for(self.seed, start))
                    batch = torch.lerp(batch, batch.roll(1, 0), shares.to(batch.device))
                latents.append(batch.half())
                decoded.append(self.vae.decode(batch / self.vae.config.scaling_factor).sample.clamp(-1, 1).half())
        self._latents, self._decoded = torch.cat(latents), torch.cat(decoded)


def _encode_compositions(vae: AutoencoderKL, catalog: Catalog, seeds: range, size: int, split: str) -> torch.Tensor:
    return encode(vae, pictures_of([sample_composition(catalog, seed, split).scene for seed in seeds], catalog, size))


@no_grad
def measure_tiny_decoder(
    tiny: AutoencoderTiny, vae: AutoencoderKL, catalog: Catalog, size: int, count: int = 64
) -> dict[str, float]:
    """Measure it against the decoder on so many held-out compositions.

    Returns: "psnr" to the decoder's pictures in dB, and "time", its time for one picture over the decoder's, the
        least of ten each.
    """
    latents = _encode_compositions(vae, catalog, range(count), size, "held-out")
    whole = vae.decode(latents / vae.config.scaling_factor).sample
    decoded = decode_tiny(tiny, latents)
    near = psnr((decoded / 2 + 0.5).clamp(0, 1), (whole / 2 + 0.5).clamp(0, 1)).mean()
    seconds = [_measure_least_time(decode, latents[:1]) for decode in (vae.decode, lambda one: decode_tiny(tiny, one))]
    return {"psnr": float(near), "time": seconds[1] / seconds[0]}


def _measure_least_time(decode, latents: torch.Tensor) -> float:
    seconds = []
    for _ in range(11):
        start_time = time.perf_counter()
        decode(latents)
        seconds.append(time.perf_counter() - start_time)
    return min(seconds[1:])


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir; then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, required=True, help="a stock folder whose decoder to learn from")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe, device = find_recipe(options.recipe), pick_device()
    require_fit(options.start, recipe, ("vae",))
    vae = AutoencoderKL.from_pretrained(part_folder(options.start, "vae"), dtype=torch.float32).to(device)
    tiny = build_tiny_decoder(vae.config.latent_channels, recipe.autoencoder.factor).to(device)
    catalog, settings = catalog_for(recipe), settings_from(options, STEPS, 0.99)
    task = TinyDecoderTask(tiny, vae, catalog, recipe.size, options.seed, settings.steps)
    train(task, options.run_dir / "tiny_decoder", settings)
    export_folder = options.run_dir / "tiny_decoder" / "export" / "tiny_vae"
    if export_folder.is_dir():
        figures = measure_tiny_decoder(
            AutoencoderTiny.from_pretrained(export_folder, dtype=torch.float32), vae, catalog, recipe.size
        )
        print({name: round(value, 4) for name, value in figures.items()})


if __name__ == "__main__":
    main()
