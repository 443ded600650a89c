"""Quantized models in the loader and in the models folder: shared parts, true bytes, kept, found again, refused."""

from __future__ import annotations

import json
import threading
import time

import pytest
import torch
from tiny_models import tiny_flux, tiny_sd3, tiny_sdxl

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, ModelFileError, SettingsError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped
from pipelines.models.load_request import LoadRequest
from pipelines.models.loader import Loader
from pipelines.models.quantization_folder import RECORD, WEIGHTS, keep_network, plain_choice, quantized_key
from pipelines.quantizers import Machine, base, build_quantizer
from pipelines.quantizers.base import plan_layers, quantize_network, sqnr
from pipelines.quantizers.stored import stored_bytes
from pipelines.requests.text_to_image import build_run, resolve

INT8 = Choice("int8")


@pytest.fixture
def loader(tmp_path):
    made = Loader(ModelCache(2**30), Catalog(tmp_path), device="cpu")
    yield made
    for key in list(made.catalog):
        made.release(key)


def latents(family, steps: int = 2) -> torch.Tensor:
    request = resolve(Request(prompt="a fox", num_inference_steps=steps, seed=5), family)
    return list(denoise(build_run(request, family)))[-1].latents


def quantized(loader, choice, full, key="emoji", cancelled=lambda: False):
    return loader.model(key, cancelled, request=LoadRequest(quantization=choice, source=full.network))


def kept(loader, choice, key: str = "emoji") -> str:
    with (
        loader.model(key) as full,
        quantized(loader, choice, full, key) as family,
    ):
        quantizer = build_quantizer(choice, Machine())
        made = keep_network(loader.catalog.folder, loader.catalog[key], choice, full.network, family.network, quantizer)
    loader.catalog.rescan()
    return made


def test_a_quantized_model_shares_all_but_the_network(loader):
    with (
        loader.model("emoji") as full,
        quantized(loader, INT8, full) as family,
    ):
        assert family.vae is full.vae and family.components["text_encoder"] is full.components["text_encoder"]
        assert family.network is not full.network
        assert family.traits == full.traits and family.network_dtype == torch.float32
        used = {row.label: row.bytes for row in loader.memory()}
        assert used["unet"] in (stored_bytes(family.network), stored_bytes(full.network))
        assert stored_bytes(family.network) < 0.3 * stored_bytes(full.network)
        network = family.network
        with loader.model("emoji", request=LoadRequest(quantization=INT8)) as again:
            assert again.network is network
        other = Choice("int4", {"group_size": 32})
        with quantized(loader, other, full) as four:
            assert four.network is not network
    assert loader.release("emoji"), "what was made of a model goes with it"
    assert loader.cache.used_bytes == 0


@pytest.mark.parametrize(
    "choice", [INT8, Choice("dynamic"), Choice("layerwise"), Choice("int4", {"group_size": 32})], ids=str
)
def test_a_kept_model_is_found_again_and_makes_the_same_latents(loader, choice):
    with (
        loader.model("emoji") as full,
        quantized(loader, choice, full) as family,
    ):
        before, expected = latents(full), latents(family)
    key = kept(loader, choice)
    assert key == quantized_key("emoji", choice) and list(loader.catalog)[:2] == ["emoji", key]
    entry = loader.catalog[key]
    assert entry.quantized.file.name == WEIGHTS and entry.size_bytes == entry.quantized.file.stat().st_size
    assert loader.release("emoji")
    with loader.model(key) as family:
        assert torch.equal(latents(family), expected) and not torch.equal(expected, before)
        assert loader.loaded(key) and not loader.loaded("emoji")
        assert {key} in [set(row.models) for row in loader.memory()]
    with loader.model("emoji") as full:
        assert torch.equal(latents(full), before)
    assert loader.release(key) and loader.release("emoji") and loader.cache.used_bytes == 0


def test_keeping_again_replaces_and_leaves_nothing_behind(loader):
    assert kept(loader, INT8) == kept(loader, INT8) == "emoji+int8"
    assert [path.name for path in loader.catalog.folder.iterdir()] == ["emoji+int8"]
    assert {path.name for path in (loader.catalog.folder / "emoji+int8").iterdir()} == {WEIGHTS, RECORD}


def test_nothing_is_pickled(loader):
    kept(loader, INT8)
    for path in (loader.catalog.folder / "emoji+int8").iterdir():
        assert path.suffix in {".json", ".safetensors"}


def test_a_model_without_stored_weights_is_quantized_at_each_load(loader):
    folder = loader.catalog.folder / "emoji+fp8"
    folder.mkdir()
    record = {"format": 1, "base": "emoji", "method": {"key": "fp8"}, "stored": False}
    (folder / RECORD).write_text(json.dumps(record))
    loader.catalog.rescan()
    with loader.model("emoji", request=LoadRequest(quantization=Choice("fp8"))) as family:
        expected = latents(family)
    loader.release("emoji")
    with loader.model("emoji+fp8") as family:
        assert torch.equal(latents(family), expected)


@pytest.mark.parametrize(
    "record",
    [
        "no json",
        "[]",
        '{"format": 1}',
        '{"format": 2, "base": "emoji", "method": "int8", "stored": false}',
        '{"format": 1, "base": "gone", "method": "int8", "stored": false}',
        '{"format": 1, "base": "emoji", "method": "int3", "stored": false}',
        '{"format": 1, "base": "emoji", "method": {"key": "int4", "group_size": 7}, "stored": false}',
        '{"format": 1, "base": "emoji", "method": "int8", "stored": true}',
    ],
)
def test_a_broken_record_is_left_out(tmp_path, record, caplog):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / RECORD).write_text(record)
    assert [key for key in Catalog(tmp_path) if "+" in key] == []
    assert "the quantized model broken is left out" in caplog.text


def test_broken_weights_are_a_sentence(loader):
    path = loader.catalog.folder / kept(loader, INT8) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-50])
    loader.release("emoji")
    with pytest.raises(ModelFileError, match=r"network.safetensors is cut short"), loader.model("emoji+int8"):
        pass


def test_a_quantized_model_is_not_quantized_again(loader):
    kept(loader, INT8)
    with (
        pytest.raises(MethodFitError, match=r"is quantized already. Choose the model emoji"),
        loader.model("emoji+int8", request=LoadRequest(quantization=INT8)),
    ):
        pass


def test_a_cancel_while_quantizing_leaves_the_cache_clean(loader, monkeypatch):
    asked, quantize = threading.Event(), base._quantize_layer

    def quantize_slowly(*arguments):
        asked.set()
        time.sleep(0.2)
        return quantize(*arguments)

    monkeypatch.setattr(base, "_quantize_layer", quantize_slowly)
    with loader.model("emoji") as full:
        labels = sorted(row.label for row in loader.memory())
        before = {name: tensor.clone() for name, tensor in full.network.state_dict().items()}
        with (
            pytest.raises(Cancelled),
            quantized(loader, INT8, full, cancelled=asked.is_set),
        ):
            pass
        assert all(torch.equal(tensor, before[name]) for name, tensor in full.network.state_dict().items())
    until = time.monotonic() + 5
    while any(row.state != "ready" for row in loader.memory()):
        assert time.monotonic() < until, "the load that nobody wants goes on"
        time.sleep(0.02)
    assert sorted(row.label for row in loader.memory()) == labels


def test_plain_choices():
    assert plain_choice(Choice("int4", {"group_size": 64})) == Choice("int4")
    assert quantized_key("emoji", plain_choice(Choice("int4", {"group_size": 32}))) == "emoji+int4-group_size32"
    many = {"first_token": True, "group_size": 32, "intervals": 5, "rank": 8, "rotation": "hadamard", "score_bits": 7}
    many |= {"scores": "log2", "search": True, "smoothing": 0.5, "split": True, "weight_ranges": "group"}
    keys = {quantized_key("emoji", plain_choice(Choice("simulated", {**many, "iterations": n}))) for n in (1, 2)}
    assert len(keys) == 2 and {len(key) for key in keys} == {120}
    with pytest.raises(SettingsError):
        plain_choice(Choice("int8", {"bits": 8}))


def test_the_shipped_model_is_not_quantized():
    assert shipped().quantized is None


@pytest.mark.parametrize(
    ("tiny", "kept"),
    [
        (tiny_sdxl, {"conv_in", "conv_out", "time_embedding", "add_embedding"}),
        (tiny_sd3, {"pos_embed", "time_text_embed", "context_embedder", "norm_out", "proj_out"}),
        (tiny_flux, {"x_embedder", "time_text_embed", "context_embedder", "norm_out", "proj_out"}),
    ],
)
def test_every_family_runs_quantized_and_keeps_its_own_ends(tiny, kept):
    components = dict(tiny().components)
    full, quantizer = family_of(components), build_quantizer(INT8, Machine())
    made = quantize_network(full.network, quantizer)
    assert {layer.name.partition(".")[0] for layer in plan_layers(full.network, quantizer).skipped} == kept
    family = family_of({**components, full.network_name: made})
    sampler = Choice("flow_euler" if full.traits.flow else "ddim")
    request = Request(prompt="a red fox", num_inference_steps=2, sampler=sampler)
    runs = [build_run(resolve(request, one), one) for one in (full, family)]
    exact, near = (list(denoise(run))[-1].latents for run in runs)
    assert 15 < sqnr(exact, near) < 80
