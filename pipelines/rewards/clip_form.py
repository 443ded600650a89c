"""Published rewards that are a CLIP: the cosine of a picture's and the prompt's embedding, times a factor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from pipelines.core.errors import ModelFileError, ModelMissingError
from pipelines.core.registry import NoSettings
from pipelines.rewards.base import RewardSources, Score
from pipelines.weights.libraries import import_libraries

__all__ = ["ClipForm", "clip_form", "prepare_pictures"]

_FILES = ("config.json", "model.safetensors", "tokenizer_config.json")
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipForm:
    """A CLIP of the models folder; CLIP score, PickScore and HPSv2 differ in weights and factor alone.

    Args:
        key: the folder's name in `rewards`.
        label: for messages.
        repository: where the weights are published, for messages.
        factor: of the cosine; 0 for the model's own exp(logit scale).

    Source: Hessel et al., CLIPScore, arXiv:2104.08718; Kirstain et al., Pick-a-Pic, arXiv:2305.01569; Wu et al.,
    HPS v2, arXiv:2306.09341.
    Differs: CLIPScore is 2.5 times the cosine, cut below 0, where a search would see no difference; here it is 100
    times the cosine, as most programs show it, and not cut.
    """

    def __init__(self, key: str, label: str, repository: str, factor: float):
        self.key, self.label, self.repository, self.factor = key, label, repository, factor

    def check(self, prompt: str, sources: RewardSources) -> None:
        folder = sources.models / "rewards" / self.key
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise ModelMissingError(
                f"{self.label} needs its weights, and rewards/{self.key}/{missing[0]} is not in the models folder. Put "
                f"the files of {self.repository} there: a CLIPModel with its tokenizer, as safetensors."
            )

    def load(self, prompt: str, sources: RewardSources) -> Score:
        import_libraries()
        from transformers import AutoTokenizer, CLIPModel  # late: takes seconds

        self.check(prompt, sources)
        folder = sources.models / "rewards" / self.key
        try:
            model: Any = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ModelFileError(f"The weights of {self.label} cannot be read: {str(error)[:200]}") from error
        model = model.to(sources.device).eval().requires_grad_(False)
        words = tokenizer(
            prompt, truncation=True, max_length=model.config.text_config.max_position_embeddings, return_tensors="pt"
        ).to(sources.device)
        with torch.no_grad():
            text = F.normalize(_embedding(model.get_text_features(**words)).float(), dim=-1)
        factor = self.factor or float(model.logit_scale.exp())
        picture = _read_preparation(folder, model.config.vision_config.image_size)

        def score(images: torch.Tensor) -> torch.Tensor:
            pixels = prepare_pictures(images.to(model.device), *picture).to(model.dtype)
            embeddings = F.normalize(_embedding(model.get_image_features(pixel_values=pixels)).float(), dim=-1)
            return factor * (embeddings @ text[0]).cpu()

        return score


def _embedding(output: Any) -> torch.Tensor:
    """The projected embedding, which newer versions of transformers wrap in an output."""
    embedding: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return embedding


def _read_preparation(folder: Path, side: int) -> tuple[int, Any, Any]:
    """The side, mean and standard deviation of the pictures that the network takes."""
    try:
        config = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        config = {}
    config = config if isinstance(config, Mapping) else {}
    return side, config.get("image_mean", _MEAN), config.get("image_std", _STD)


def prepare_pictures(images: torch.Tensor, side: int, mean: object, std: object) -> torch.Tensor:
    """Resize the shorter side (bicubic), crop the center and normalize, as CLIP's image processor does; differentiable.

    Args:
        images: (B, 3, H, W) in [0, 1].
        side: pixels.
        mean, std: of each channel.

    Differs: the processor rounds to 8 bits after resizing, which has no slope.
    """
    height, width = images.shape[-2:]
    shorter = min(height, width)
    size = (int(height * side / shorter), int(width * side / shorter))
    images = F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    images = images[..., top : top + side, left : left + side]
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def clip_form(key: str, label: str, repository: str, factor: float) -> Any:
    """Return what builds this reward of its (empty) settings."""

    def build(settings: NoSettings) -> ClipForm:
        return ClipForm(key, label, repository, factor)

    return build
