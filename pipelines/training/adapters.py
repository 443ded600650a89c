"""Train small additions to the shipped model: `python -m pipelines.training.adapters`.

A LoRA and a LoHa learn how pictures look, a textual inversion learns a word; the model's own weights stay as they are.
The files have the names of kohya's scripts and of LyCORIS, as other programs write them.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.core.errors import SettingsError
from pipelines.emoji.captions import caption
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import Scene, render, sample_scene
from pipelines.training.adapter_layers import AdapterLayer, applied, attention_layers
from pipelines.training.additions import ADDITIONS, Addition, ink, mint, pixels
from pipelines.training.denoiser import load_networks, noise_schedule
from pipelines.training.fit import MODEL
from pipelines.training.latents import encode, to_tensor
from pipelines.training.objectives import learning_rate, min_snr_loss
from pipelines.training.recipes import SHIPPED_RECIPE, catalog_for, find_recipe
from pipelines.training.tokenizer import encode_captions
from pipelines.training.trainer import (
    Settings,
    generator_for,
    picture_sheet,
    train,
    use_threads,
)

__all__ = ["ADDITIONS", "Addition", "StyleTask", "WordTask", "ink", "mint", "pixels"]

POOL, GAMMA = 512, 5.0
ARCHITECTURE = "stepwise-emoji"
"""What the files' metadata says they were made for, and `weights.lora_kinds` reads."""


class _Task:
    """The noise's error on latents of pictures of one look; the subclasses say what is trained.

    Args:
        addition: what is trained.
        parts: of the model, "vae", "tokenizer", "unet" and "text_encoder"; left as they are.
        catalog: the objects.
        size: of the pictures in pixels.
        seed: of everything drawn.
        steps: length of the run.
    """

    networks: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        addition: Addition,
        parts: tuple[AutoencoderKL, CLIPTokenizer, torch.nn.ModuleDict],
        catalog: Catalog,
        size: int,
        seed: int,
        steps: int,
    ):
        self.addition, self.catalog, self.seed, self.steps = addition, catalog, seed, steps
        self.batch = addition.batch
        self.vae, self.tokenizer = parts[0].eval().requires_grad_(False), parts[1]
        networks = parts[2].eval().requires_grad_(False)
        self.unet = cast(UNet2DConditionModel, networks["unet"])
        # PyTorch's fused attention has a slow backward on a CPU
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder = cast(CLIPTextModel, networks["text_encoder"])
        self.alphas_cumprod = noise_schedule().alphas_cumprod
        self.scenes = [self._scene(index) for index in range(POOL)]
        self.latents = self._encoded(size)

    def _scene(self, index: int) -> Scene:
        return sample_scene(self.catalog, self.seed * 1_000_000 + index)

    def _encoded(self, size: int) -> torch.Tensor:
        looks = [self.addition.look(render(scene, self.catalog, size)) for scene in self.scenes]
        images = torch.stack([to_tensor(look) for look in looks])
        return torch.cat([encode(self.vae, part) for part in images.split(64)])

    def learning_rate(self, step: int) -> float:
        """Of this step: it falls to zero over the last 60 per cent."""
        return learning_rate(step, self.steps, self.addition.rate, 10, 0.6)

    def loss(self, step: int) -> torch.Tensor:
        """Min-SNR weighted error of the predicted noise on this step's batch."""
        rng, generator = np.random.default_rng([self.seed, step]), generator_for(self.seed, step)
        chosen = rng.choice(POOL, size=self.batch, replace=False)
        latents = self.latents[torch.from_numpy(chosen)]
        noise = torch.randn(latents.shape, generator=generator)
        spread = torch.arange(self.batch) + torch.rand(self.batch, generator=generator)
        timesteps = (spread / self.batch * 1_000).long().clamp(max=999)
        alphas = self.alphas_cumprod[timesteps]
        scale = alphas.view(-1, 1, 1, 1)
        noisy = scale.sqrt() * latents + (1 - scale).sqrt() * noise
        embeds = self.embeds([self.words(self.scenes[index], rng) for index in chosen])
        return min_snr_loss(self.predicted(noisy, timesteps, embeds), noise, alphas, GAMMA)

    def words(self, scene: Scene, rng: np.random.Generator) -> str:
        """A caption of a scene."""
        return caption(scene, self.catalog, rng, 0.1)

    def embeds(self, captions: list[str]) -> torch.Tensor:
        """The text encoder's output, (B, tokens, width)."""
        with torch.no_grad():
            return self.text_encoder(self._ids(captions))[0]

    def _ids(self, captions: list[str]) -> torch.Tensor:
        return encode_captions(self.tokenizer, captions)

    def predicted(self, noisy: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """The network's noise."""
        return self.unet(noisy, timesteps, embeds, return_dict=False)[0]

    def export(self, folder: Path) -> None:
        """Write the file, in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().half().contiguous() for name, tensor in self.tensors().items()}
        metadata = {"modelspec.architecture": f"{ARCHITECTURE}/{self.addition.folder}", "modelspec.license": "MIT"}
        save_file(tensors, folder / f"{self.addition.name}.safetensors", metadata)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the file holds."""
        raise NotImplementedError

    def sheet(self, path: Path) -> None:
        """Draw what is learned, for the eye: a dozen pictures of the pool as the autoencoder gives them back."""
        with torch.no_grad():
            images = self.vae.decode(self.latents[:12] / self.vae.config.scaling_factor).sample
        picture_sheet((images / 2 + 0.5).clamp(0, 1)).save(path)


class StyleTask(_Task):
    """Trains changes of the UNet's layers so that all pictures have a look; arguments as of `_Task`."""

    def __init__(self, addition: Addition, *rest):
        super().__init__(addition, *rest)
        if addition.layer is None:
            raise SettingsError(f"{addition.name} changes no layers: train it with WordTask.")
        layers = {
            path: layer
            for path, layer in attention_layers(self.unet).items()
            if not addition.paths or re.fullmatch(addition.paths, path)
        }
        self.paths = list(layers)
        self.changes: list[AdapterLayer] = [addition.layer(layer, addition.rank) for layer in layers.values()]
        self.networks = torch.nn.ModuleList(self.changes)
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), lr=addition.rate, betas=(0.9, 0.99))

    def predicted(self, noisy: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        with applied(self.unet, self.changes, self.paths):
            return super().predicted(noisy, timesteps, embeds)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"lora_unet_{path.replace('.', '_')}.{name}": tensor
            for path, change in zip(self.paths, self.changes, strict=True)
            for name, tensor in change.tensors().items()
        }


class WordTask(_Task):
    """Trains the vectors of one word, which stands for a background; arguments as of `_Task`."""

    def __init__(self, addition: Addition, *rest):
        super().__init__(addition, *rest)
        table = cast(torch.nn.Embedding, self.text_encoder.get_input_embeddings()).weight
        # Near words of its kind, so that the run begins with a background.
        first = self._plain(" green")[:1] + self._plain(" white")[:1]
        self.vectors = torch.nn.Parameter(table[(first * addition.rank)[: addition.rank]].detach().clone())
        self.networks = torch.nn.ParameterDict({"vectors": self.vectors})
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), lr=addition.rate, weight_decay=0.0)
        # Any ids do: the hook below puts the vectors in their place, and no caption has these signs.
        self.stand_ins = self._plain("".join(chr(0x2460 + place) for place in range(addition.rank)))[: addition.rank]

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def words(self, scene: Scene, rng: np.random.Generator) -> str:
        text = ""
        while scene.background not in text.split():
            text = caption(scene, self.catalog, rng)
        before, _, after = text.rpartition(scene.background)
        return f"{before}{{}}{after}"

    def _ids(self, captions: list[str]) -> torch.Tensor:
        rows = []
        for text in captions:
            before, after = text.split("{}")
            ids = [*self._plain(before), *self.stand_ins, *self._plain(after)] if after else []
            ids = ids or [*self._plain(before), *self.stand_ins]
            room = self.tokenizer.model_max_length
            row = [self.tokenizer.bos_token_id, *ids[: room - 2], self.tokenizer.eos_token_id]
            rows.append(row + [self.tokenizer.pad_token_id] * (room - len(row)))
        return torch.tensor(rows)

    def embeds(self, captions: list[str]) -> torch.Tensor:
        def put(table: torch.nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            for place, stand_in in enumerate(self.stand_ins):
                here = (given[0] == stand_in)[..., None]
                output = torch.where(here, self.vectors[place], output)
            return output

        handle = self.text_encoder.get_input_embeddings().register_forward_hook(put)
        try:
            return self.text_encoder(self._ids(captions))[0]
        finally:
            handle.remove()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"emb_params": self.vectors}


def main(arguments: list[str] | None = None) -> None:
    """Train one or all of the additions into --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="checkpoints and the finished files")
    parser.add_argument("--only", choices=list(ADDITIONS), help="train this one (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="length of the run (default: each one's own)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    chosen = parser.parse_args(arguments)
    use_threads(chosen.threads)
    recipe = find_recipe(SHIPPED_RECIPE)
    for addition in [ADDITIONS[chosen.only]] if chosen.only else ADDITIONS.values():
        torch.manual_seed(chosen.seed)
        steps = chosen.steps or addition.steps
        made = StyleTask if addition.layer else WordTask
        parts = load_networks(recipe, MODEL)
        task = made(addition, parts, catalog_for(recipe), recipe.size, chosen.seed, steps)
        train(task, chosen.run_dir / addition.name, Settings(steps, ema=0.98, sheet_every=steps))


if __name__ == "__main__":
    main()
