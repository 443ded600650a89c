"""Loading, sharing, switching and releasing models; tiny random ones, no network."""

from __future__ import annotations

import json
import shutil
import threading

import pytest
import tiny_models
import torch
from model_folders import UNET, loader_of, set_index
from safetensors.torch import load_file, save_file

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import ModelError, ModelMissingError
from pipelines.core.leases import PartKey
from pipelines.families.stock import StockPipeline
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.entry import CatalogEntry, Source
from pipelines.models.loader import Loader
from pipelines.models.part_loading import loaded_bytes
from pipelines.models.vaes import read_vae_facts


@pytest.mark.parametrize(("key", "family"), [("one", "sd"), ("xl", "sdxl"), ("three", "sd3")])
def test_a_folder_becomes_a_family(models, key, family):
    told = []
    with loader_of(models).model(key, progress=lambda *news: told.append(news)) as model:
        assert model.key == family
        assert model.device == torch.device("cpu")
        assert not any(part.training for part in model.components.values() if isinstance(part, torch.nn.Module))
        assert not any(weight.requires_grad for weight in model.network.parameters())
        model.encode_prompts("a red fox", "", 1, (32, 32))
    assert told[-1][0] == "Loading"
    assert told[-1][1] == told[-1][2] > 0


def test_the_weights_are_those_of_the_folder(models):
    stock = tiny_models.tiny_sd(seed=1)
    with loader_of(models).model("one") as model:
        for name, weight in stock.unet.state_dict().items():
            assert torch.equal(model.network.state_dict()[name], weight), name


def test_the_shipped_model_loads(models):
    with loader_of(models).model("emoji") as model:
        assert model.default_size == (64, 64)


def test_the_second_use_takes_the_same_parts_and_has_a_scheduler_of_its_own(models):
    loader = loader_of(models)
    with loader.model("one") as first:
        pass
    with loader.model("one") as second:
        pass
    assert second is not first
    assert second.network is first.network
    assert second.components["tokenizer"] is first.components["tokenizer"]
    assert second.components["scheduler"] is not first.components["scheduler"]


def test_concurrent_requests_load_once(models, monkeypatch):
    import pipelines.models.loader as module

    loads, original = [], module.load_part
    monkeypatch.setattr(module, "load_part", lambda part, *rest: loads.append(part.name) or original(part, *rest))
    loader, networks, errors = loader_of(models), set(), []

    def work():
        try:
            with loader.model("one") as model:
                networks.add(id(model.network))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(networks) == 1
    assert sorted(loads) == ["text_encoder", "tokenizer", "unet", "vae"]


def test_equal_parts_are_shared_and_others_are_not(models):
    shutil.copytree(models / "one", models / "copy")
    # The same shapes and sizes, other numbers: only reading them tells.
    weights = load_file(models / "copy" / UNET)
    weights["conv_in.bias"] += 1
    save_file(weights, models / "copy" / UNET, metadata={"format": "pt"})
    loader = loader_of(models)
    with loader.model("one") as one, loader.model("copy") as copy, loader.model("two") as two:
        assert copy.components["text_encoder"] is one.components["text_encoder"]
        assert copy.components["vae"] is one.components["vae"]
        assert copy.network is not one.network
        assert two.components["text_encoder"] is not one.components["text_encoder"]
        assert two.components["tokenizer"] is one.components["tokenizer"]
    rows = {(row.label, row.models) for row in loader.memory()}
    assert ("text_encoder", ("copy", "one")) in rows
    assert ("unet", ("copy",)) in rows


def test_one_changed_number_far_from_any_sample_is_another_part(models):
    shutil.copytree(models / "one", models / "copy")
    path = models / "copy" / UNET
    data = bytearray(path.read_bytes())
    data[len(data) * 7 // 20] ^= 1
    path.write_bytes(data)
    loader = loader_of(models)
    with loader.model("one") as one, loader.model("copy") as copy:
        assert copy.network is not one.network


def test_a_changed_file_is_loaded_anew(models):
    loader = loader_of(models)
    with loader.model("one") as model:
        before = model.network.conv_in.bias.clone()
    weights = load_file(models / "one" / UNET)
    weights["conv_in.bias"] += 1
    save_file(weights, models / "one" / UNET, metadata={"format": "pt"})
    with loader.model("one") as model:
        assert torch.equal(model.network.conv_in.bias, before + 1)


def test_switching_twenty_times_stays_within_the_budget(models):
    keys = ["one", "two", "xl"]
    sizes = {}
    for key in keys:
        loader = loader_of(models)
        with loader.model(key):
            sizes[key] = loader.cache.used_bytes
    budget = int(1.2 * max(sizes.values()))
    assert budget < sum(sizes.values())
    loader = loader_of(models, budget)
    for turn in range(20):
        with loader.model(keys[turn % 3]) as model:
            model.encode_prompts("a cat", "", 1, (32, 32))
            assert loader.cache.used_bytes <= budget
    assert loader.cache.peak_bytes <= budget
    assert all(row.in_use == 0 and row.state == "ready" for row in loader.memory())


def test_the_estimate_is_no_smaller_than_what_is_loaded(models):
    loader = loader_of(models)
    for key in ("one", "xl", "three"):
        with loader.model(key):
            plan = loader._plans.find(key)
        for row in loader.cache.snapshot():
            if row.key in plan.estimates:
                assert row.bytes <= plan.estimates[row.key]


def test_a_model_larger_than_the_budget_is_refused_at_once(models):
    loader = loader_of(models, budget=50_000)
    with pytest.raises(ModelError, match="Choose a smaller model"), loader.model("one", timeout=60):
        pass
    assert loader.memory() == []


def test_a_part_of_a_sibling_folder_is_held_once(models):
    shutil.copytree(models / "one", models / "copy")
    whole = Catalog(models)["copy"].size_bytes
    shutil.rmtree(models / "copy" / "vae")
    (models / "copy" / "shared_parts.json").write_text('{"vae": "one"}')
    loader = loader_of(models)
    assert loader.catalog["copy"].size_bytes == whole
    assert read_vae_facts(loader.catalog["copy"]) == read_vae_facts(loader.catalog["one"])
    with loader.model("copy") as copy, loader.model("one") as one:
        assert copy.components["vae"] is one.components["vae"]


def test_release_frees_what_no_other_model_uses(models):
    shutil.copytree(models / "one", models / "copy")
    shutil.rmtree(models / "copy" / "unet")
    shutil.copytree(models / "two" / "unet", models / "copy" / "unet")
    loader = loader_of(models)
    with loader.model("copy"), loader.model("one") as one:
        encoder, network = one.components["text_encoder"], one.network
        assert loader.release("one") is False
    assert loader.loaded("copy")
    assert not loader.loaded("one")
    assert network.device.type == "meta"
    assert encoder.device.type == "cpu"
    assert loader.release("copy") is True
    assert loader.memory() == []


def test_a_lease_that_ends_in_an_error_is_given_back(models):
    loader = loader_of(models)
    with pytest.raises(ZeroDivisionError), loader.model("one"):
        raise ZeroDivisionError
    assert all(row.in_use == 0 for row in loader.memory())


def test_a_cancelled_load_leaves_nothing_held(models):
    loader, flag = loader_of(models), threading.Event()

    def progress(stage, done, total):
        flag.set()

    with pytest.raises(Cancelled), loader.model("one", cancelled=flag.is_set, progress=progress):
        pass
    assert all(row.in_use == 0 for row in loader.memory())
    with loader.model("one"):
        pass
    assert all(row.state == "ready" for row in loader.memory())


def test_half_precision(models):
    loader = loader_of(models, dtype="bfloat16")
    with loader.model("one") as model:
        assert model.network.dtype == torch.bfloat16
        assert loaded_bytes(model.network) < loaded_bytes(tiny_models.tiny_sd(seed=1).unet)


def test_preview_factors_come_along(models):
    plain = {"factors": [[0.1, 0.2, 0.3]] * 4, "bias": [0.5, 0.5, 0.5]}
    (models / "one" / "preview.json").write_text(json.dumps(plain))
    with loader_of(models).model("one") as model:
        assert model.components["preview"] == plain


def test_another_pipeline_runs_through_its_stock_call(models):
    set_index(models / "one", _class_name="StableDiffusionPAGPipeline")
    with loader_of(models).model("one") as model:
        assert isinstance(model, StockPipeline)
        assert type(model.pipe).__name__ == "StableDiffusionPAGPipeline"


def test_a_part_from_another_place(models):
    entry = CatalogEntry(
        "mixed",
        "Mixed",
        "sd",
        repository="someone/one",
        pipeline="StableDiffusionPipeline",
        parts={"unet": Source("someone/two", subfolder="unet"), "vae": Source("someone/bare", file="vae.safetensors")},
    )
    (models / "bare").mkdir()
    shutil.copy(models / "two" / "vae" / "diffusion_pytorch_model.safetensors", models / "bare" / "vae.safetensors")
    loader = Loader(ModelCache(10**9), Catalog(models, [entry]), device="cpu")
    two = tiny_models.tiny_sd(seed=2)
    with loader.model("mixed") as model:
        assert torch.equal(model.network.conv_in.weight, two.unet.conv_in.weight)
        assert torch.equal(model.vae.decoder.conv_in.weight, two.vae.decoder.conv_in.weight)
        encoder = model.components["text_encoder"]
        assert not torch.equal(encoder.get_input_embeddings().weight, two.text_encoder.get_input_embeddings().weight)


def test_a_published_model_that_is_not_here_says_what_to_do(models, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    entry = CatalogEntry(
        "far",
        "Far Model",
        "sd",
        repository="someone/far-model",
        licence="mit",
        size_bytes=2_000_000_000,
        pipeline="StableDiffusionPipeline",
        variant="fp16",
    )
    loader = Loader(ModelCache(10**9), Catalog(models, [entry]), device="cpu")
    with pytest.raises(ModelMissingError) as raised, loader.model("far"):
        pass
    for words in ("Far Model", "2.0 GB", "mit", "~/models/far-model", "someone/far-model"):
        assert words in str(raised.value)
    tiny_models.tiny_sd(models / "far-model", seed=5)
    with loader.model("far") as model:
        assert model.key == "sd"


def test_parts_have_keys_of_plain_values():
    assert PartKey("a") == PartKey("a")
    assert len({PartKey("a"), PartKey("a"), PartKey("a", device="cuda")}) == 2


def test_four_threads_over_three_models_in_the_room_of_one(models):
    sizes = []
    for key in ("one", "two", "xl"):
        loader = loader_of(models)
        with loader.model(key):
            sizes.append(loader.cache.used_bytes)
    loader, errors = loader_of(models, int(1.1 * max(sizes))), []

    def work(turn):
        try:
            for step in range(6):
                with loader.model(("one", "two", "xl")[(turn + step) % 3], timeout=60) as model:
                    model.encode_prompts("a cat", "", 1, (32, 32))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert loader.cache.peak_bytes <= loader.cache.limit
    assert all(row.in_use == 0 for row in loader.memory())
