"""ImageReward: a BLIP that reads the prompt while it looks at the picture, and a head that people's choices trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError

from pipelines.core.errors import ModelFileError, ModelMissingError
from pipelines.core.registry import NoSettings
from pipelines.rewards.base import RewardSources, Score
from pipelines.rewards.clip_form import prepare_pictures
from pipelines.weights.libraries import import_libraries

__all__ = ["ImageReward", "rename_vision"]

_WEIGHTS, _TOKENIZER = "ImageReward.safetensors", "tokenizer_config.json"
_LENGTH = 35
_HEAD = 64
"""Width of an attention head, of both networks."""
_MEAN, _DEVIATION = 0.16717362830052426, 1.0333394966054072
_PICTURE_MEAN, _PICTURE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_VISION, _TEXT, _HEADS = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."

_NAMES = (
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("norm.", "post_layernorm."),
)
_BLOCK_NAMES = (
    ("norm1.", "layer_norm1."),
    ("norm2.", "layer_norm2."),
    ("attn.qkv.", "self_attn.qkv."),
    ("attn.proj.", "self_attn.projection."),
)


def rename_vision(name: str) -> str:
    """Return transformers' name of a tensor of the authors' vision transformer."""
    if match := re.match(r"blocks\.(\d+)\.(.*)", name):
        rest = next((new + match[2][len(old) :] for old, new in _BLOCK_NAMES if match[2].startswith(old)), match[2])
        return f"encoder.layers.{match[1]}.{rest}"
    return next((new + name[len(old) :] for old, new in _NAMES if name.startswith(old)), name)


class ImageReward:
    """Scores pictures as people chose them, in standard deviations of the authors' own pictures.

    Source: Xu et al., ImageReward: Learning and evaluating human preferences for text-to-image generation,
        arXiv:2304.05977; the head, its mean and deviation, and 35 tokens are those of their code.
    Differs: pictures are resized as for CLIP, without rounding to 8 bits, so that the score has a gradient.
    """

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def check(self, prompt: str, sources: RewardSources) -> None:
        folder = sources.models / "rewards" / "imagereward"
        missing = [name for name in (_WEIGHTS, _TOKENIZER) if not (folder / name).is_file()]
        if missing:
            raise ModelMissingError(
                f"ImageReward needs its weights, and rewards/imagereward/{missing[0]} is not in the models folder. "
                f"Convert ImageReward.pt of zai-org/ImageReward to safetensors under its own names, as {_WEIGHTS}, and "
                "put it there with the tokenizer of bert-base-uncased: a pickle is not read."
            )

    def load(self, prompt: str, sources: RewardSources) -> Score:
        from safetensors.torch import load_file  # late: PyTorch is imported with it

        import_libraries()
        from transformers import AutoTokenizer  # late: takes seconds

        self.check(prompt, sources)
        folder = sources.models / "rewards" / "imagereward"
        try:
            state = load_file(folder / _WEIGHTS)
            vision, text, head = _build_networks(state)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, IndexError, SafetensorError) as error:
            raise ModelFileError(f"The weights of ImageReward cannot be read: {str(error)[:200]}") from error
        for part in (vision, text, head):
            part.to(sources.device).eval().requires_grad_(False)
        words = tokenizer(prompt, padding="max_length", truncation=True, max_length=_LENGTH, return_tensors="pt")
        ids, mask = (words[name].to(sources.device) for name in ("input_ids", "attention_mask"))
        side = vision.config.image_size

        def score(images: torch.Tensor) -> torch.Tensor:
            pixels = prepare_pictures(images.to(sources.device), side, _PICTURE_MEAN, _PICTURE_STD)
            seen, count = vision(pixel_values=pixels).last_hidden_state, len(images)
            read = text(
                input_ids=ids.expand(count, -1),
                attention_mask=mask.expand(count, -1),
                encoder_hidden_states=seen,
                encoder_attention_mask=seen.new_ones(seen.shape[:2]),
                is_decoder=False,
            ).last_hidden_state[:, 0]
            return ((head(read)[:, 0] - _MEAN) / _DEVIATION).float().cpu()

        return score


def _build_networks(state: Mapping[str, torch.Tensor]) -> tuple[Any, Any, torch.nn.Module]:
    """The vision transformer, the text encoder and the head, of sizes that the tensors tell."""
    import_libraries()
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    parts = {
        prefix: {name[len(prefix) :]: tensor.float() for name, tensor in state.items() if name.startswith(prefix)}
        for prefix in (_VISION, _TEXT, _HEADS)
    }
    seen = {rename_vision(name): tensor for name, tensor in parts[_VISION].items()}
    read = {name: tensor for name, tensor in parts[_TEXT].items() if not name.endswith("position_ids")}
    patches, words = seen["embeddings.patch_embedding.weight"], read["embeddings.word_embeddings.weight"]
    width, patch = patches.shape[0], patches.shape[-1]
    side = round((seen["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    vision = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=width,
            intermediate_size=seen["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=_count_layers(seen, r"encoder\.layers\.(\d+)\."),
            num_attention_heads=width // _HEAD,
            image_size=side * patch,
            patch_size=patch,
            layer_norm_eps=1e-6,
        )
    )
    text = BlipTextModel(
        BlipTextConfig(
            vocab_size=words.shape[0],
            hidden_size=words.shape[1],
            encoder_hidden_size=width,
            intermediate_size=read["encoder.layer.0.intermediate.dense.weight"].shape[0],
            num_hidden_layers=_count_layers(read, r"encoder\.layer\.(\d+)\."),
            num_attention_heads=words.shape[1] // _HEAD,
            max_position_embeddings=read["embeddings.position_embeddings.weight"].shape[0],
        ),
        add_pooling_layer=False,
    )
    vision.load_state_dict(seen)
    text.load_state_dict(read, strict=False)
    if lacking := set(text.state_dict()) - set(read) - {"embeddings.position_ids"}:
        raise KeyError(f"no tensor {sorted(lacking)[0]}")
    return vision, text, _build_head(parts[_HEADS])


def _count_layers(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for name in state if (match := re.match(pattern, name)))


def _build_head(state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Linear layers one after the other, as their code has them: between them there is dropout alone."""
    layers = []
    for index in sorted({int(name.split(".")[0]) for name in state}):
        weight = state[f"{index}.weight"]
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": state[f"{index}.bias"]})
        layers.append(layer)
    return torch.nn.Sequential(*layers)
