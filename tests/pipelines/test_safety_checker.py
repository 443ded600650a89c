"""The safety checker of published models: found, loaded from safetensors alone, and asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_checker import save_checker

from pipelines.core.errors import ModelFileError
from pipelines.models.catalog import Catalog
from pipelines.models.safety_checker import SafetyChecker, find_safety_checker

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 48, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(("threshold", "flag"), [(-1.1, True), (1.1, False)])
def test_a_threshold_below_every_similarity_flags_all_and_one_above_none(tmp_path, threshold, flag):
    checker = SafetyChecker(save_checker(tmp_path / "checker", threshold))
    assert checker.flag(PICTURES) == [flag] * 3
    assert checker.flag(np.repeat(PICTURES, 4, 0)) == [flag] * 12


def test_it_flags_what_diffusers_flags(tmp_path):
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    folder = save_checker(tmp_path / "checker", 0.0)
    stock = StableDiffusionSafetyChecker.from_pretrained(folder)
    pixels = CLIPImageProcessor.from_pretrained(folder)(list(PICTURES), return_tensors="pt").pixel_values
    with torch.no_grad():
        embeds = torch.nn.functional.normalize(stock.visual_projection(stock.vision_model(pixels)[1]))
        cosines = (embeds @ torch.nn.functional.normalize(stock.concept_embeds).T).max(1).values
    middle = float(cosines.sort().values[1:].mean())  # between the second and the largest
    checker = SafetyChecker(save_checker(tmp_path / "other", middle))
    assert checker.flag(PICTURES) == (cosines > middle).tolist()
    assert sum(checker.flag(PICTURES)) == 1


def test_a_models_own_checker_goes_before_one_that_lies_in_the_models_folder(tmp_path):
    models = tmp_path / "models"
    assert find_safety_checker(None, [models]) is None
    own = save_checker(models / "one" / "safety_checker", 0.0)
    assert find_safety_checker(models / "one", [models]) == own
    lone = save_checker(models / "stable-diffusion-safety-checker", 0.0)
    assert find_safety_checker(models / "one", [models]) == own
    assert find_safety_checker(models / "two", [models]) == find_safety_checker(None, [models]) == lone


def test_a_checker_by_itself_is_no_broken_model(tmp_path):
    save_checker(tmp_path / "models" / "checker", 0.0)
    assert not [entry for entry in Catalog(tmp_path / "models").values() if entry.local and entry.problem]


def test_pickles_are_refused(tmp_path):
    folder = save_checker(tmp_path / "checker", 0.0)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="pickles only"):
        SafetyChecker(folder)
