"""The list of models: where each is, what is in memory, loads and downloads in the background."""

from __future__ import annotations

import threading
import time

import gradio as gr
import pytest
import test_downloads as pretended
import torch
from safetensors.torch import save_file

from pipelines.core.errors import BusyError, ModelError, SettingsError, UnknownMethodError
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.entry import CatalogEntry
from pipelines.models.loader import Loader
from pipelines.models.places import ModelPlaces
from studio.api import models_change
from studio.api.listings import change_models, list_models
from studio.backend import Studio, StudioSettings
from studio.cli.main import main
from studio.models.model_list import ModelList, list_memory_segments
from studio.page.models import markup as model_markup
from studio.ui.presentation import format_model_note

remote = pretended.remote


class FewModels:
    """As much of a studio as the list of models asks for, on a pretended hub."""

    def __init__(self, entries, hub, folder):
        self.catalog = Catalog(folder / "models", entries)
        self.loader = Loader(ModelCache(10**9), self.catalog, device="cpu", places=ModelPlaces(self.catalog, hub))
        self.loaders = [self.loader]
        self.model_list = ModelList(self.catalog, self.loader)

    def is_loaded(self, key):
        return self.loader.loaded(key)

    def models(self):
        return list(self.catalog.values())


@pytest.fixture
def hub(remote, tmp_path):
    return pretended.PretendedHub(remote, tmp_path / "cache")


@pytest.fixture
def studio(hub, tmp_path):
    return FewModels([pretended.entry_of()], hub, tmp_path)


def ended(transfer, within=60):
    end = time.monotonic() + within
    while transfer.status == "running" and time.monotonic() < end:
        time.sleep(0.02)
    return transfer.status


def test_a_download_brings_the_files_and_loads_nothing(studio, hub):
    models, entry = ModelList(studio.catalog, studio.loader), studio.catalog["far"]
    assert not models.is_here(entry)
    transfer = models.start("far", "download")
    assert ended(transfer) == "done"
    assert transfer.done == transfer.total > 0
    assert models.is_here(entry) and not models.busy
    assert list_memory_segments(studio.loader)[0] == []
    hub.error = OSError("no network")
    assert ended(models.start("far", "load")) == "done"
    assert [one.models for one in list_memory_segments(studio.loader)[0]] == [("far",)]
    assert models.release("far")
    assert list_memory_segments(studio.loader)[0] == []


def test_a_cancelled_download_stops_and_goes_on_later(studio, hub):
    models, go = ModelList(studio.catalog, studio.loader), threading.Event()
    fetch = hub.fetch

    def slow(*args):
        if len(hub.fetched) == 2:
            go.wait(10)
        return fetch(*args)

    hub.fetch = slow
    transfer = models.start("far", "download")
    assert models.start("far", "download") is transfer
    assert models.cancel("far")
    go.set()
    assert ended(transfer) == "cancelled"
    assert not models.is_here(studio.catalog["far"]) and not models.cancel("far")
    hub.fetch = fetch
    assert ended(models.start("far", "download")) == "done"
    assert len(hub.fetched) == len(set(hub.fetched))


def test_without_a_network_the_card_says_what_is_missing(studio, hub):
    hub.error = OSError("no network")
    models = ModelList(studio.catalog, studio.loader)
    transfer = models.start("far", "download")
    assert ended(transfer) == "failed"
    assert "3 GB" in transfer.message or "3.0 GB" in transfer.message
    assert transfer.message in model_markup.build_card(studio.catalog["far"], False, False, transfer)


def test_only_models_of_the_catalog_and_a_few_at_a_time(hub, tmp_path):
    go = threading.Event()
    hub.files = lambda *_: go.wait(10) and (_ for _ in ()).throw(OSError("no network"))
    entries = [CatalogEntry(f"m{i}", f"M {i}", "sd", repository="someone/none") for i in range(3)]
    entries.append(CatalogEntry("bad", "Bad", "sd", problem="Bad cannot be used."))
    models = FewModels(entries, hub, tmp_path).model_list
    running = [models.start(key, "download") for key in ("m0", "m1")]
    with pytest.raises(BusyError, match="2 models"):
        models.start("m2", "download")
    with pytest.raises(ModelError, match="Bad cannot be used"):
        models.start("bad", "load")
    for key in ("../x", "http://127.0.0.1/x", ""):
        with pytest.raises(UnknownMethodError):
            models.start(key, "download")
        with pytest.raises(UnknownMethodError):
            models.release(key)
    go.set()
    assert {ended(one) for one in running} == {"failed"}


def test_the_shipped_model_is_loaded_released_and_listed_and_a_rescan_finds_a_lora(tmp_path):
    studio = Studio(StudioSettings(outputs=tmp_path / "out", models=tmp_path / "models", device="cpu"))
    try:
        models = ModelList(studio.catalog, studio.loader)
        told = list_models(studio)
        assert told["models"][0]["key"] == "emoji" and told["models"][0]["where"] == "here"
        assert told["memory"]["used_bytes"] == 0
        shipped = {"emoji-128-four-steps", "emoji-faded", "emoji-ink", "emoji-night", "emoji-pixels", "emoji-sepia"}
        assert {one["key"] for one in told["loras"]} == {*shipped, "emoji-swapped"}
        assert [(one["key"], one["problem"]) for one in told["embeddings"]] == [("emoji-mint", "")]
        assert ended(models.start("emoji", "load")) == "done"
        held = list_models(studio)
        assert held["memory"]["used_bytes"] > 10**6 and held["models"][0]["loaded"]
        assert held["memory"]["held"][0]["models"] == ["emoji"]
        bar = model_markup.build_memory_bar(*list_memory_segments(studio.loader), lambda key: studio.catalog[key].label)
        assert "Emoji 64" in bar
        (tmp_path / "models" / "loras").mkdir(parents=True)
        save_file({"a": torch.zeros(1)}, tmp_path / "models" / "loras" / "sketch.safetensors")
        models.rescan()
        lora = list_models(studio)["loras"][0]
        assert lora["key"] == "sketch" and lora["problem"]
        assert lora["problem"] in model_markup.build_lora_list(models.loras())
        assert models.release("emoji")
        assert list_memory_segments(studio.loader)[0] == []
    finally:
        studio.close()


def test_the_pages_first_model_is_loaded_once_and_stays_released(tmp_path):
    studio = Studio(StudioSettings(outputs=tmp_path / "out", models=tmp_path / "models", device="cpu"))
    try:
        studio.load_default("emoji-128")
        assert ended(studio.model_list.get_transfer("emoji-128")) == "done" and studio.loader.loaded("emoji-128")
        assert studio.model_list.release("emoji-128")
        studio.load_default("emoji-128")
        assert not studio.model_list.busy and not studio.loader.loaded("emoji-128")
    finally:
        studio.close()


def test_programs_do_what_the_buttons_do_on_the_pages_own_shelf(studio, hub):
    told = change_models(studio, "download", "far")
    assert told["done"] and told["action"] == "download" and told["models"]
    transfer = studio.model_list.get_transfer("far")
    assert ended(transfer) == "done"
    (way,) = list_models(studio)["on_their_way"]
    assert (way["key"], way["what"], way["status"], way["done"]) == ("far", "download", "done", way["total"])
    hub.error = OSError("no network")
    change_models(studio, "load", "far")
    assert ended(studio.model_list.get_transfer("far")) == "done"
    assert change_models(studio, "release", "far")["memory"]["used_bytes"] == 0
    assert change_models(studio, "cancel", "far")["done"] is False  # nothing is on its way
    assert change_models(studio, "rescan")["on_their_way"] == []


@pytest.mark.parametrize("action", ["load", "download", "cancel", "release"])
@pytest.mark.parametrize(
    "model",
    ["", "../x", "/etc/passwd", "http://127.0.0.1/x.safetensors", "someone/else", None, 7, ["far"], {"key": "far"}],
)
def test_a_program_names_a_model_by_its_key_and_by_nothing_else(studio, hub, action, model):
    with pytest.raises(SettingsError):
        change_models(studio, action, model)
    assert hub.fetched == [] and list_models(studio)["on_their_way"] == []


def test_the_endpoint_answers_and_says_what_is_wrong_in_a_sentence(studio):
    change = models_change.endpoint(studio)
    assert change("rescan")["done"] is True
    for wrong in (("load", "../x"), ("delete", "far"), ("load", 7)):
        with pytest.raises(gr.Error, match=r"Unknown|must be a key"):
            change(*wrong)


@pytest.mark.parametrize("action", ["", "delete", "__class__", None, ["load"], 3])
def test_an_unknown_action_is_said(studio, action):
    with pytest.raises(UnknownMethodError, match="load, download, cancel, release, rescan"):
        change_models(studio, action, "far")


def test_a_program_too_loads_only_a_few_at_a_time(hub, tmp_path):
    go = threading.Event()
    hub.files = lambda *_: go.wait(10) and (_ for _ in ()).throw(OSError("no network"))
    few = FewModels([CatalogEntry(f"m{i}", f"M {i}", "sd", repository="someone/none") for i in range(3)], hub, tmp_path)
    for key in ("m0", "m1"):
        change_models(few, "download", key)
    with pytest.raises(BusyError, match="2 models"):
        change_models(few, "download", "m2")
    with pytest.raises(BusyError, match="2 models"):
        few.model_list.start("m2", "download")
    assert change_models(few, "cancel", "m1")["done"]
    go.set()
    assert {ended(few.model_list.get_transfer(key)) for key in ("m0", "m1")} <= {"failed", "cancelled"}


def test_the_command_line_loads_a_model_and_refuses_what_is_none(tmp_path, capsys):
    folders = ["--outputs-folder", str(tmp_path / "out"), "--models-folder", str(tmp_path / "models")]
    assert main([*folders, "models", "--load", "emoji"]) == 0
    assert "Emoji 64 loads, and takes" in capsys.readouterr().out
    for flag in ("--load", "--download"):
        assert main([*folders, "models", flag, "../x"]) == 2
        assert "Unknown model '../x'" in capsys.readouterr().err


def test_names_are_text_and_never_html():
    entry = CatalogEntry(
        "k", "<b>x</b> ${1} {{y}}", "stock", licence="<i>", licence_url="javascript:alert(1)", notes="`z`"
    )
    html = model_markup.build_cards([(entry, False, False, None)])
    assert not any(part in html for part in ("<b>x", "${", "{{", "`", "javascript:", "<i>,"))
    assert "No model matches" in model_markup.build_cards([])


@pytest.mark.parametrize(
    ("identifier", "name"), [("mit", "MIT"), ("openrail++", "CreativeML OpenRAIL++-M"), ("my-own", "my-own")]
)
def test_a_license_is_written_as_people_write_it(identifier, name):
    entry = CatalogEntry("k", "A model", "stock", licence=identifier)
    assert f"License: {name}." in format_model_note(entry)
    assert f"<dd>{name}</dd>" in model_markup.build_card(entry, is_here=True, is_loaded=False, transfer=None)
