"""Fetching published models from a pretended hub."""

from __future__ import annotations

import shutil

import pytest
import tiny_models
import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import ModelFileError, ModelMissingError
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.downloads import RemoteFile
from pipelines.models.entry import Source
from pipelines.models.files import needed_files
from pipelines.models.loader import Loader
from pipelines.models.places import ModelPlaces
from tests.pipelines.pretended_hub import COMMIT, entry_of


class PretendedHub:
    """Repositories in one folder, a cache in another, and what was asked of them."""

    def __init__(self, remote, cache, error=None):
        self.remote, self.cache, self.error, self.fetched = remote, cache, error, []

    def files(self, repository, revision):
        if self.error:
            raise self.error
        folder = self.remote / repository
        return COMMIT, [
            RemoteFile(str(path.relative_to(folder)), path.stat().st_size)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def fetch(self, repository, commit, name, advance):
        if self.error:
            raise self.error
        assert commit == COMMIT
        target = self.cache / repository / name
        if not target.is_file():
            self.fetched.append(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.remote / repository / name, target)
            for _ in range(2):
                advance(target.stat().st_size // 2)
        return target

    def folder(self, repository, revision):
        folder = self.cache / repository
        return folder if folder.is_dir() else None


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    tiny_models.tiny_sd(folder / "someone" / "model", seed=1)
    model = folder / "someone" / "model"
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    torch.save({}, model / "unet" / "diffusion_pytorch_model.bin")
    torch.save({}, model / "whole.ckpt")
    (model / "README.md").write_text("read me")
    tiny_models.tiny_sd(folder / "someone" / "tuned", seed=2)
    (folder / "someone" / "lora").mkdir()
    (folder / "someone" / "lora" / "weights.safetensors").write_bytes(b"a lora")
    return folder


def loader_of(hub, entry, tmp_path):
    catalog = Catalog(tmp_path / "models", [entry])
    return Loader(ModelCache(10**9), catalog, device="cpu", places=ModelPlaces(catalog, hub))


def test_fetches_safetensors_and_configurations_only(remote, tmp_path):
    hub, told = PretendedHub(remote, tmp_path / "cache"), []
    loader = loader_of(hub, entry_of(), tmp_path)
    with loader.model("far", progress=lambda *news: told.append(news)) as model:
        assert model.key == "sd"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.fetched
    assert "unet/diffusion_pytorch_model.safetensors" not in hub.fetched
    assert not any(name.endswith((".bin", ".ckpt", ".md")) for name in hub.fetched)
    downloads = [(done, total) for stage, done, total in told if stage == "Downloading"]
    assert [done for done, _ in downloads] == sorted(done for done, _ in downloads)
    assert downloads[-1][0] == downloads[-1][1] > 0
    fetched = list(hub.fetched)
    hub.error = OSError("no network")
    with loader_of(hub, entry_of(), tmp_path).model("far"):
        pass
    assert hub.fetched == fetched


def test_a_cancelled_download_goes_on_where_it_stopped(remote, tmp_path):
    hub = PretendedHub(remote, tmp_path / "cache")
    loader = loader_of(hub, entry_of(), tmp_path)
    with pytest.raises(Cancelled), loader.model("far", cancelled=lambda: len(hub.fetched) >= 4):
        pass
    assert len(hub.fetched) == 4
    with loader.model("far"):
        pass
    assert len(hub.fetched) == len(set(hub.fetched)) > 4


def test_without_a_network_the_sentence_says_what_is_missing(remote, tmp_path):
    hub = PretendedHub(remote, tmp_path / "cache", error=ConnectionError("no route"))
    with pytest.raises(ModelMissingError) as raised, loader_of(hub, entry_of(), tmp_path).model("far"):
        pass
    for words in ("Far Model", "3.0 GB", "license mit", "someone/model", "models/model"):
        assert words in str(raised.value)
    hub.error = None
    loader = loader_of(hub, entry_of(), tmp_path)
    with pytest.raises(Cancelled), loader.model("far", cancelled=lambda: len(hub.fetched) > 5):
        pass
    hub.error = ConnectionError("no route")
    with pytest.raises(ModelMissingError, match="What is here is not complete: "), loader.model("far"):
        pass


def test_a_gated_model_says_how_to_get_access(remote, tmp_path):
    class GatedRepoError(OSError):
        """As huggingface_hub names it."""

    hub = PretendedHub(remote, tmp_path / "cache", error=GatedRepoError("401"))
    with (
        pytest.raises(ModelMissingError, match=r"accept its license.*hf auth login"),
        loader_of(hub, entry_of(gated=True), tmp_path).model("far"),
    ):
        pass


def test_a_full_disk(remote, tmp_path):
    hub = PretendedHub(remote, tmp_path / "cache", error=OSError(28, "No space left on device"))
    with (
        pytest.raises(ModelMissingError, match=r"The disk is full.*what has arrived is kept"),
        loader_of(hub, entry_of(), tmp_path).model("far"),
    ):
        pass


def test_a_replaced_part_is_fetched_from_its_own_repository_only(remote, tmp_path):
    hub = PretendedHub(remote, tmp_path / "cache")
    entry = entry_of(parts={"unet": Source("someone/tuned", subfolder="unet")})
    with loader_of(hub, entry, tmp_path).model("far") as model:
        assert torch.equal(model.network.conv_in.weight, tiny_models.tiny_sd(seed=2).unet.conv_in.weight)
    assert not (tmp_path / "cache" / "someone" / "model" / "unet").exists()


def test_the_lora_of_a_form_is_a_file(remote, tmp_path):
    hub = PretendedHub(remote, tmp_path / "cache")
    loader = loader_of(hub, entry_of(lora=Source("someone/lora", file="weights.safetensors")), tmp_path)
    ((path, weight),) = loader.lora_files("far")
    assert path.read_bytes() == b"a lora"
    assert weight == 1.0
    assert loader.lora_files("far")[0][0] == path
    assert hub.fetched == ["weights.safetensors"]
    gone = loader_of(hub, entry_of(lora=Source("someone/lora", file="gone.safetensors")), tmp_path)
    with pytest.raises(ModelMissingError, match=r"has no gone.safetensors any more"):
        gone.lora_files("far")


def test_a_model_of_pickles_is_refused(remote, tmp_path):
    (tmp_path / "pickles" / "someone").mkdir(parents=True)
    shutil.copytree(remote / "someone" / "tuned", tmp_path / "pickles" / "someone" / "model")
    weights = tmp_path / "pickles" / "someone" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    hub = PretendedHub(tmp_path / "pickles", tmp_path / "cache")
    with pytest.raises(ModelFileError, match="has no weights"), loader_of(hub, entry_of(), tmp_path).model("far"):
        pass
    assert not any(name.endswith(".bin") for name in hub.fetched)


def test_which_files_are_needed():
    names = [
        "model_index.json",
        "README.md",
        "x.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "te/config.json",
        "te/model.fp16-00001-of-00002.safetensors",
        "te/model.fp16-00002-of-00002.safetensors",
        "te/model.safetensors.index.fp16.json",
        "te/model-00001-of-00004.safetensors",
        "te/pytorch_model.bin",
        "te/openvino/model.safetensors",
        "other/config.json",
        "tokenizer/spiece.model",
        "tokenizer/vocab.json",
    ]
    parts = {"vae": ("diffusers", "V"), "te": ("transformers", "T"), "tokenizer": ("transformers", "K"), "other": None}
    assert needed_files(names, parts, "fp16") == [
        "model_index.json",
        "te/config.json",
        "te/model.fp16-00001-of-00002.safetensors",
        "te/model.fp16-00002-of-00002.safetensors",
        "te/model.safetensors.index.fp16.json",
        "tokenizer/spiece.model",
        "tokenizer/vocab.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert "te/model-00001-of-00004.safetensors" in needed_files(names, parts, "")


def test_a_hub_that_nobody_answers_for_is_said_in_a_sentence(monkeypatch, tmp_path):
    """The real client, against a port of this machine where nobody listens: its own errors must be known here."""
    from huggingface_hub import constants

    from pipelines.core.errors import ModelMissingError
    from pipelines.models.catalog import Catalog
    from pipelines.models.downloads import HuggingFace, fetch_model

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelMissingError, match="hub cannot be reached"):
        fetch_model(HuggingFace(), Catalog(tmp_path)["sd15"], tmp_path, lambda: False, None)
