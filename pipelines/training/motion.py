"""Train motion modules for the 128 px model: `python -m pipelines.training.motion`.

The UNet stays as it is; what is learned are the modules of a stock MotionAdapter, which let the frames of a clip see
each other, and the rows of the text encoder that belong to the words of motion.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    MotionAdapter,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file, save_file

from pipelines.core.gradients import no_grad
from pipelines.emoji.clips import FRAMES, REVERSED, Clip, describe_clip, describe_clip_plainly, sample_clip
from pipelines.emoji.objects import Catalog
from pipelines.training.denoiser_networks import noise_schedule
from pipelines.training.fit import PARTS, require_fit
from pipelines.training.latents import encode, pictures_of
from pipelines.training.motion_drawing import draw_clips
from pipelines.training.motion_networks import WordRows, at_places, build_adapter, join, load_adapter, write_rows
from pipelines.training.muon import Muon
from pipelines.training.objectives import learning_rate, soft_snr_v_loss
from pipelines.training.recipes import Recipe, catalog_for, find_recipe
from pipelines.training.trainer import (
    add_arguments,
    generator_for,
    pick_device,
    picture_sheet,
    settings_from,
    train,
    use_threads,
)

__all__ = ["ClipPool", "MotionTask", "mix"]

STEPS, RATE, DECAY = 3_000, 3e-3, 0.4
SOME = 4
CLIPS = {SOME: 10, FRAMES: 2}
"""How many clips a step has, by how many of their frames it sees."""
FIRST, FRESH = 320, 0.25
"""Clips in memory before the first step, and how many join at each."""
EMPTY, SNR_FLOOR, HIGH_NOISE = 0.1, 0.002, 0.3
WEAK, LATE = 0.4, 900
"""The share of draws that have less signal than their late time step says: else the sixteen frames together would
betray even at the last one which way the object goes, and the words for it would never be needed."""
SHEET = ("moving left", "moving up", "growing", "bouncing")


def mix(
    latents: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, share: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix latents with noise, with a share of the signal that the level says, and find the velocity that leads back.

    Args:
        latents, noise: of one shape.
        alpha, sigma: of the level, alpha^2 + sigma^2 = 1, sigma > 0.
        share: 0 to 1; 1 for the level's own signal.

    Returns:
        The mixture, of unit deviation where latents and noise are, and v with alpha x - sigma v = latents.
    """
    signal = alpha * share
    noisy = signal * latents + (1 - signal.square()).sqrt() * noise
    return noisy, (alpha * noisy - latents) / sigma


class ClipPool:
    """Keeps latents of training clips in memory, in float16.

    Args:
        vae: encodes.
        catalog: the objects.
        size: pixels.
        seed: of everything drawn.
        file: keeps the latents for a run that goes on; None keeps none.
        anywhere: share of the clips that begin at any place, see `sample_clip`.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        catalog: Catalog,
        size: int,
        seed: int,
        file: Path | None = None,
        anywhere: float = 0.0,
    ):
        self.vae, self.catalog, self.size, self.file, self._anywhere = vae, catalog, size, file, anywhere
        self._base = seed * 1_000_000_000
        self._latents: list[torch.Tensor] = []

    def batch(self, step: int, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[Clip], list[int]]:
        """Draw clips, most of them also backward beside themselves, so that only the direction tells the two apart.

        Args:
            step: of the run.
            count: how many, the backward ones counted.
            rng: the source of the choice.
        Returns: latents (B, F, C, h, w), float32 and scaled; what they show; the number of the draw of each, which a
            clip and itself played backward share.
        """
        stop = FIRST + int(step // 16 * 16 * FRESH)
        self._extend_to(stop)
        latents: list[torch.Tensor] = []
        clips: list[Clip] = []
        draws: list[int] = []
        for draw, number in enumerate(rng.choice(stop, size=count, replace=False).tolist()):
            clip, frames = self._sample(number), self._latents[number].float()
            pair = [(clip, frames), (clip.backward(), frames.flip(0))]
            order = rng.permutation(2)[: 1 if clip.motion == REVERSED[clip.motion] else 2]
            for shown, images in [pair[place] for place in order][: count - len(clips)]:
                clips.append(shown)
                latents.append(images.expand(len(clip.path), *images.shape[1:]))
                draws.append(draw)
        return torch.stack(latents), clips, draws

    def _extend_to(self, stop: int) -> None:
        if not self._latents and self.file is not None and self.file.is_file():
            tensors = load_file(self.file)
            self._latents = [tensors[str(number)] for number in range(len(tensors))]
        before = len(self._latents)
        for number in range(before, stop):
            self._latents.append(self._encode_clip(self._sample(number)))
        if self.file is not None and stop // 256 > before // 256:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file({str(number): frames for number, frames in enumerate(self._latents)}, self.file)

    def _sample(self, number: int) -> Clip:
        seed = self._base + number
        return sample_clip(self.catalog, seed, anywhere=np.random.default_rng([seed, 17]).random() < self._anywhere)

    @no_grad
    def _encode_clip(self, clip: Clip) -> torch.Tensor:
        """(F, C, h, w), float16; one frame of what stands still."""
        scenes = list(clip.scenes) if clip.motion else [clip.scenes[0]]
        return encode(self.vae, pictures_of(scenes, self.catalog, self.size)).half().cpu()


class MotionTask:
    """The error of the velocity of a clip's frames, each with noise of its own, as a stock pipeline begins.

    Most steps see 4 of the 16 frames, at their own places in time; every fourth step sees all.

    Args:
        pipeline: the model; its networks are left as they are.
        pool: the clips.
        seed: of everything drawn.
        steps: length of the run.
        rate: the highest learning rate.
        adapter: to go on from, whose words are known and stay as they are; None begins with modules that change
            nothing.
        first_frame: share of the steps in which the clips' first frame is given, without noise; there is no loss on it.
    Source: Guo et al., AnimateDiff, arXiv 2307.04725, section 4.2.
    Differs: rows of the text encoder are learned with the modules; frames are left out of most steps; the noise levels
        are drawn more often where there is more noise, since there it is decided what stands where; a clip and itself
        played backward share noise and level, so that what they have in common cancels out of what tells them apart;
        some inputs have less signal than their level, down to none (see WEAK); a first frame may be given.
    """

    batch = CLIPS[SOME]

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        pool: ClipPool,
        seed: int = 0,
        steps: int = STEPS,
        rate: float = RATE,
        adapter: MotionAdapter | None = None,
        first_frame: float = 0.0,
    ):
        self._first_frame = first_frame
        self.pipeline, self.pool, self.seed, self.steps, self.rate = pipeline, pool, seed, steps, rate
        self.device = pipeline.unet.device
        pipeline.unet.eval().requires_grad_(False)
        self.adapter = (adapter or build_adapter(pipeline.unet, FRAMES)).to(self.device)
        self.words = WordRows(pipeline.text_encoder, pipeline.tokenizer).to(self.device).requires_grad_(adapter is None)
        self.unet = join(pipeline.unet, self.adapter)
        self.networks = torch.nn.ModuleDict({"adapter": self.adapter, "words": self.words})
        asking = [weight for weight in self.adapter.parameters() if weight.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": asking},
            {"params": list(self.words.parameters()), "orthogonal": False},
        ]
        self.optimizer = Muon(groups, lr=rate)
        self.alphas_cumprod = noise_schedule("v_prediction").alphas_cumprod

    def learning_rate(self, step: int) -> float:
        """Return the rate of this step."""
        return learning_rate(step, self.steps, self.rate, 50, DECAY)

    def loss(self, step: int) -> torch.Tensor:
        """Compute the weighted error on this step's clips."""
        rng, generator = np.random.default_rng([self.seed, step]), generator_for(self.seed, step)
        frames = FRAMES if step % 4 == 3 else SOME
        count = CLIPS[frames]
        with torch.autocast(self.device.type, enabled=False):
            latents, clips, draws = self.pool.batch(step, count, rng)
        given = bool(torch.rand((), generator=generator) < self._first_frame)
        places = torch.randperm(FRAMES, generator=generator)
        if given:
            places = torch.cat([torch.zeros(1, dtype=torch.long), places[places > 0]])
        places = places[:frames].sort().values
        latents = latents[:, places].to(self.device)
        different = draws[-1] + 1
        noise = torch.randn((different, *latents.shape[1:]), generator=generator)[draws].to(self.device)
        positions = (torch.arange(different) + torch.rand(different, generator=generator)) / different
        timesteps = (positions**HIGH_NOISE * 1_000).long().clamp(max=999)
        weak, kept = torch.rand((2, different), generator=generator)
        late = (LATE + (1_000 - LATE) * torch.rand(different, generator=generator)).long()
        # of these draws every second has no signal at all, which is what a sampler begins with
        timesteps = torch.where(weak < WEAK, late, timesteps)[draws]
        shares = torch.where(weak < WEAK, (2 * kept - 1).clamp(min=0), torch.ones(()))[draws]
        alphas = self.alphas_cumprod[timesteps].to(self.device)
        alpha, sigma = (part.sqrt().view(-1, 1, 1, 1, 1) for part in (alphas, 1 - alphas))
        noisy, velocity = mix(latents, noise, alpha, sigma, shares.to(self.device).view(-1, 1, 1, 1, 1))
        if given:
            noisy[:, 0] = latents[:, 0]
        captions = [describe_clip(clip, self.pool.catalog, rng, EMPTY) for clip in clips]
        with at_places(self.adapter, places):
            embeds = self.words(captions).repeat_interleave(frames, dim=0)
            clip_first = noisy.transpose(1, 2)
            predicted = self.unet(clip_first, timesteps.to(self.device), embeds, return_dict=False)[0].transpose(1, 2)
        predicted, velocity = predicted[:, given:], velocity[:, given:]
        alphas = alphas.repeat_interleave(frames - given)
        return soft_snr_v_loss(predicted.flatten(0, 1), velocity.flatten(0, 1), alphas, SNR_FLOOR)

    def export(self, folder: Path) -> None:
        """Write the adapter and the text encoder with the words, in half precision."""
        copy.deepcopy(self.adapter).half().save_pretrained(folder / "motion_adapter")
        write_rows(self.words, copy.deepcopy(self.pipeline.text_encoder).half(), folder / "text_encoder")

    def sheet(self, path: Path) -> None:
        """Draw one clip a row, for a few motions."""
        parts = dict(self.pipeline.components) | {"unet": self.unet, "motion_adapter": self.adapter}
        parts["text_encoder"] = copy.deepcopy(self.pipeline.text_encoder)
        write = parts["text_encoder"].get_parameter("embeddings.token_embedding.weight").data
        write[self.words.numbers] = self.words.rows.detach()
        for name in ("safety_checker", "image_encoder", "feature_extractor"):
            parts.pop(name, None)
        pipeline = AnimateDiffPipeline(**parts)
        clips = [sample_clip(self.pool.catalog, 10**9 + seed, motion=motion) for seed, motion in enumerate(SHEET)]
        with torch.autocast(self.device.type, torch.bfloat16):
            drawn = draw_clips(pipeline, [describe_clip_plainly(clip) for clip in clips], steps=15)
        picture_sheet(drawn.flatten(0, 1), FRAMES).save(path)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.set_defaults(recipe="emoji-128", sheet_every=250)
    parser.add_argument("--start", type=Path, required=True, help="the stock folder whose pictures shall move")
    parser.add_argument("--learning-rate", type=float, default=RATE, help="the highest")
    parser.add_argument("--adapter", type=Path, help="a folder with motion_adapter to go on from, its words known")
    parser.add_argument(
        "--first-frame", type=float, default=0.0, help="share of the steps that are given the first frame"
    )
    parser.add_argument("--anywhere", type=float, default=0.0, help="share of the clips that begin at any place")
    chosen = parser.parse_args(arguments)
    use_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    recipe: Recipe = find_recipe(chosen.recipe)
    require_fit(chosen.start, recipe, PARTS)
    settings = settings_from(chosen, STEPS, 0.99)
    pipeline = StableDiffusionPipeline.from_pretrained(chosen.start, dtype=torch.float32).to(pick_device())
    pipeline.text_encoder.set_attn_implementation("eager")
    folder = chosen.run_dir / "motion"
    file = folder / "latents.safetensors"
    pool = ClipPool(pipeline.vae, catalog_for(recipe), recipe.size, chosen.seed, file, chosen.anywhere)
    adapter = None if chosen.adapter is None else load_adapter(chosen.adapter / "motion_adapter")
    rates = settings.steps, chosen.learning_rate
    train(MotionTask(pipeline, pool, chosen.seed, *rates, adapter, chosen.first_frame), folder, settings)


if __name__ == "__main__":
    main()
