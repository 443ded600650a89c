"""A tiny random safety checker, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

_SIDE = 32


def save_checker(folder: Path, threshold: float) -> Path:
    """Write a checker that flags what is more similar to one of its random concepts than the threshold; returns it.

    Args:
        threshold: a cosine; below -1 everything is flagged, above 1 nothing.
    """
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**vision, "vocab_size": 16},
        vision_config={**vision, "image_size": _SIDE, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds.data.normal_()
    checker.special_care_embeds.data.normal_()
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    checker.save_pretrained(folder)
    size = {"shortest_edge": _SIDE}
    CLIPImageProcessor(size=size, crop_size={"height": _SIDE, "width": _SIDE}).save_pretrained(folder)
    return folder
