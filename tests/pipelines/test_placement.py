"""Where parts stay: the fastest placement that fits, planned on sparse files of real sizes and run on the stand-in."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from pipelines.core.errors import ModelError, SettingsError
from pipelines.core.types import Choice
from pipelines.families import family_of
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.device_choice import Acceleration, choose_device, require_device
from pipelines.models.loader import Loader
from pipelines.models.placement import place_parts
from pipelines.weights.offload import streamed
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.lora_files import TARGETS, diffusers_lora
from tests.pipelines.test_on_accelerator import final, request_for
from tests.pipelines.tiny_models import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

GIB = 2**30
HEADROOM = 0.1
# Bytes in half precision of the published models, and of their largest layer.
SIZES = {
    "sdxl": (tiny_sdxl, {"unet": 5.14e9, "text_encoder": 0.25e9, "text_encoder_2": 1.39e9, "vae": 0.17e9}, 4),
    "sd3": (
        tiny_sd3,
        {
            "transformer": 4.94e9,
            "text_encoder": 0.25e9,
            "text_encoder_2": 1.39e9,
            "text_encoder_3": 9.5e9,
            "vae": 0.17e9,
        },
        6,
    ),
    "flux": (tiny_flux, {"transformer": 23.8e9, "text_encoder": 0.25e9, "text_encoder_2": 9.5e9, "vae": 0.17e9}, 8),
}
LAYER = 0.27e9


def grow(folder: Path, size: float) -> None:
    """Replace a part's weights by a sparse file of the size of the real ones, in layers of at most `LAYER`."""
    for path in folder.glob("*.safetensors"):
        count = max(1, round(size / LAYER))
        numbers = int(size / count / 2)
        header = {
            f"layer.{index}": {
                "dtype": "F16",
                "shape": [numbers],
                "data_offsets": [2 * numbers * index, 2 * numbers * (index + 1)],
            }
            for index in range(count)
        }
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + 2 * numbers * count)


def loader_for(folder: Path, budget: int, **settings) -> Loader:
    cache = ModelCache(budget, int(budget * HEADROOM))
    return Loader(cache, Catalog(folder), dtype="float16", host=ModelCache(2**42), **settings)


@pytest.mark.parametrize("name", SIZES)
def test_the_smallest_budgets_take_the_published_models(name, tmp_path):
    make, sizes, gibibytes = SIZES[name]
    make(tmp_path / name)
    for part, size in sizes.items():
        grow(tmp_path / name / part, size)
    loader = loader_for(tmp_path, gibibytes * GIB, device="cuda:0")
    (entry,) = [one for one in loader.catalog.values() if one.path == tmp_path / name]
    plan = loader._plans.plan(entry, lambda: False, None)
    placement = place_parts(plan, loader.cache.limit, True)
    assert placement.moved and placement.sentence
    held = sum(plan.estimates[key] for key in placement.resident.values()) + placement.room
    assert held <= 0.9 * gibibytes * GIB
    sentences = [place_parts(plan, limit * GIB, True).sentence for limit in range(64, 1, -1)]
    assert sentences[0] == "The model fits whole." and len(set(sentences)) >= 3


@pytest.mark.parametrize(("kind", "words"), [("whole", "fits whole"), ("encoders", "calls only"), ("stages", "turns")])
def test_a_model_runs_within_its_budget_and_makes_the_same_picture(kind, words, tmp_path):
    tiny_sdxl(tmp_path / "sdxl")
    request = request_for("sdxl").replace(sampler=Choice("ddim"))

    def latents(loader: Loader) -> tuple[torch.Tensor, str]:
        with loader.model(name) as family:
            return final(family, request), loader.describe_placement(name)

    whole = loader_for(tmp_path, 2**33, device="cpu")
    (name,) = [one.key for one in whole.catalog.values() if one.path == tmp_path / "sdxl"]
    expected, _ = latents(whole)
    plan = whole._plans.find(name)
    sizes = {part: plan.estimates[key] for part, key in plan.keys.items()}
    light = sum(size for part, size in sizes.items() if plan.parts[part].light)
    encoders = max(sizes[part] for part in ("text_encoder", "text_encoder_2", "vae"))
    stages = light + max(sizes["unet"], encoders)
    least = {"whole": sum(sizes.values()), "encoders": light + sizes["unet"] + encoders, "stages": stages}
    device = Accelerator("cuda")
    with device.on():
        loader = loader_for(tmp_path, int(1.01 * least[kind] / (1 - HEADROOM)), device="cuda:0")
        found, sentence = latents(loader)
        assert words in sentence
        assert loader.cache.peak_bytes <= loader.cache.limit
        assert (found.cpu() - expected).norm() <= 1e-3 * expected.norm()


def test_a_streamed_network_computes_the_same_and_a_lora_reaches_its_weights():
    plain, other = family_of(tiny_sd().components), family_of(tiny_sd().components)
    streamed(other.network, "cpu")
    tensors, _ = diffusers_lora(plain, TARGETS["sd"])
    request = request_for("sd")
    before = final(other, request)
    assert torch.equal(before, final(plain, request))
    with plain.loras([(tensors, 0.5)]), other.loras([(tensors, 0.5)]):
        changed = final(other, request)
        assert torch.equal(changed, final(plain, request)) and not torch.equal(changed, before)
    assert torch.equal(final(other, request), before)


def test_what_fits_nowhere_is_refused_with_its_size(tmp_path):
    tiny_sdxl(tmp_path / "sdxl")
    loader = loader_for(tmp_path, 20_000, device="cpu")
    (name,) = [one.key for one in loader.catalog.values() if one.path == tmp_path / "sdxl"]
    with pytest.raises(ModelError, match="memory"), loader.model(name):
        pass


def test_a_device_is_named_as_pytorch_names_it_and_must_be_there():
    assert require_device("cpu") == "cpu" and choose_device() in ("cpu", "cuda", "mps", "xpu")
    for name in ("gpu", "cuda:x", "cpu:1", ""):
        with pytest.raises(SettingsError, match="no device"):
            require_device(name)
    with pytest.raises(SettingsError, match="not here"):
        require_device("cuda:99")


def test_channels_last_and_attention_are_applied_and_an_unknown_one_is_refused():
    network = tiny_sdxl().unet
    Acceleration(attention="native", channels_last=True).apply(network)
    assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(SettingsError, match="--attention nothing"):
        Acceleration(attention="nothing").apply(network)
