"""Parts that wait in the computer's memory and come to the device for their call."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from model_folders import loader_of

from pipelines.core.errors import ModelError
from pipelines.models.cache import ModelCache
from pipelines.models.part_loading import loaded_bytes


def test_moved_parts_come_to_the_device_for_their_call_only(models):
    stock = tiny_models.tiny_sd(seed=1)
    with loader_of(models).model("one") as model:
        wanted = model.encode_prompts("a red fox", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
        latents = torch.randn(1, *model.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
        picture = model.decode(latents)
    network = loaded_bytes(stock.unet)
    host, moves = ModelCache(10**9), []
    probe = loader_of(models)
    with probe.model("one"):
        tokenizer = next(row.bytes for row in probe.memory() if row.label == "tokenizer")
    largest = max(loaded_bytes(stock.vae), loaded_bytes(stock.text_encoder))
    loader = loader_of(models, int(1.1 * (network + largest) + 3 * 4096 + tokenizer), host=host)
    loader._slot._move = lambda module, device: moves.append((type(module).__name__, str(device)))
    with loader.model("one") as model:
        embeds = model.encode_prompts("a red fox", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
        assert torch.equal(embeds, wanted)
        # An autoencoder that stays on the CPU computes in channels last, and so rounds otherwise.
        torch.testing.assert_close(model.decode(latents), picture, rtol=0, atol=1e-5)
        devices = {row.label: row.device for row in loader.memory()}
        assert devices["unet"] == "cpu"
        assert devices["vae"] == devices["text_encoder"] == "host"
        assert devices["room for moved parts"] == "cpu"
        assert loader.loaded("one")
    assert moves == [(name, "cpu") for name in ("CLIPTextModel", "CLIPTextModel", "AutoencoderKL", "AutoencoderKL")]
    assert all(row.label != "room for moved parts" for row in loader.memory())
    assert loader.release("one") is True
    assert loader.memory() == []


def test_a_network_too_large_even_so_is_refused_before_anything_is_loaded(models):
    host = ModelCache(10**9)
    loader = loader_of(models, 30_000, host=host)
    with pytest.raises(ModelError, match="Choose a smaller model"), loader.model("one"):
        pass
    assert host.snapshot() == []
    assert loader.cache.snapshot() == []
