"""Trajectories of the inversion are kept for the next edit, and only where they are the same."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from pipelines.core.errors import PromptError
from pipelines.core.types import Choice, Trajectory
from pipelines.inversions.trajectories import TrajectoryCache
from pipelines.models.load_request import LoadRequest
from pipelines.models.quantization_folder import keep_network
from pipelines.quantizers import build_quantizer, this_machine
from studio.backend import Studio, StudioSettings
from studio.jobs.job import JobStatus
from studio.tasks import TASKS
from tests.pipelines.tiny_models import tiny_sd
from tests.studio import edit_runs
from tests.studio.edit_runs import BASE, PICTURE, finished, noise, png

make_models = edit_runs.make_models


def test_a_trajectory_is_kept_for_the_next_edit_alone(studio):
    first = finished(studio, edit="reprompt", base={"seed": 101})
    second = finished(studio, edit="replace", base={"seed": 999, "prompt": "a blue cat"})
    assert "Reused" in second.cells[0].note and len(second.cells[0].frames) == 4
    assert np.array_equal(first.cells[1].images, second.cells[1].images)
    for change in (
        {"source_prompt": "a blue fox"},
        {"inversion": {"key": "direct", "strength": 0.5}},
        {"inversion": "ddim"},
        {"picture": png(noise((32, 32)).rotate(90))},
        {"base": {"num_inference_steps": 3}},
        {"base": {"schedule": "karras"}},
        {"inversion": {"key": "ddim", "guidance_scale": 2.0}},
    ):
        assert "Reused" not in finished(studio, edit="reprompt", **change).cells[0].note, change


def test_a_picture_is_encoded_once_and_its_reconstruction_decoded_once(studio, monkeypatch):
    """Direct inversion ends at the picture's own latents, so what the VAE makes of them is the reconstruction."""
    calls = []
    for name in ("encode", "decode"):
        call = getattr(AutoencoderKL, name)
        monkeypatch.setattr(
            AutoencoderKL,
            name,
            lambda self, rows, *rest, _call=call, _name=name, **named: (
                calls.extend([_name] * len(rows)) or _call(self, rows, *rest, **named)
            ),
        )

    def edit(**values):
        calls.clear()
        view = finished(studio, edit="reprompt", **values)
        figures = view.cells[1].figures
        assert view.status is JobStatus.DONE, view.message
        return sorted(calls), figures["psnr"] == figures["autoencoder_psnr"]

    edit()  # what previews are made of is fitted with the VAE
    picture = png(noise((32, 32)).rotate(180))
    assert edit(picture=picture) == (["decode", "decode", "encode"], True)
    assert edit(picture=picture, base={"prompt": "a green cat"}) == (["decode"], True)
    assert edit(picture=picture, inversion="ddim") == (["decode", "decode"], False)


def test_a_trajectory_is_kept_where_only_a_branch_differs_that_the_way_up_never_evaluates(studio):
    guided = {"key": "ddim", "guidance_scale": 2.0}
    for inversion, kept in (("direct", True), (guided, False)):
        finished(studio, edit="reprompt", inversion=inversion, base={"seed": 103})
        for changed in ({"negative_prompt": "the sea"}, {"guidance": {"key": "cfg", "guidance_rescale": 0.7}}):
            view = finished(studio, edit="reprompt", inversion=inversion, base=changed)
            assert ("Reused" in view.cells[0].note) is kept, (inversion, changed)
        other_scale = {"guidance": {"key": "cfg", "guidance_scale": 6.0}}
        assert "Reused" in finished(studio, edit="reprompt", inversion=inversion, base=other_scale).cells[0].note


def test_a_model_or_a_lora_that_was_replaced_under_its_name_is_inverted_anew(folder, tmp_path):
    from lora_files import TARGETS, diffusers_lora
    from safetensors.torch import save_file

    from pipelines.families import family_of

    def write_lora(strength):
        tensors, _ = diffusers_lora(family_of(tiny_sd().components), TARGETS["sd"])
        save_file({name: strength * one for name, one in tensors.items()}, models / "loras" / "style.safetensors")

    models = tmp_path / "models"
    (models / "loras").mkdir(parents=True)
    tiny_sd(models / "tiny")
    write_lora(1.0)
    settings = StudioSettings(outputs=tmp_path / "out", models=models, device="cpu", memory_budget=2**30)
    studio = Studio(settings)
    try:
        edit = {"edit": "reprompt", "base": {"loras": [{"name": "style", "weight": 4.0}]}}
        first = finished(studio, **edit)
        assert "Reused" in finished(studio, **edit).cells[0].note
        write_lora(3.0)
        second = finished(studio, **edit)
        assert "Reused" not in second.cells[0].note
        assert not np.array_equal(first.cells[0].frames[-1].latents, second.cells[0].frames[-1].latents)
        shutil.rmtree(models / "tiny")
        tiny_sd(models / "tiny", seed=9)
        studio.catalog.rescan()
        assert "Reused" not in finished(studio, **edit).cells[0].note
        assert "Reused" in finished(studio, **edit).cells[0].note
    finally:
        studio.close()


def test_a_word_that_was_replaced_under_its_name_is_inverted_anew(tmp_path):
    from safetensors.torch import save_file

    models = tmp_path / "models"
    (models / "embeddings").mkdir(parents=True)
    tiny_sd(models / "tiny")
    width = tiny_sd().components["text_encoder"].config.hidden_size
    settings = StudioSettings(outputs=tmp_path / "outputs", models=models, device="cpu", memory_budget=2**30)
    with contextlib.closing(Studio(settings)) as studio:
        for size, kept in ((1, False), (1, True), (2, False)):
            if not kept:
                save_file({"emb_params": torch.ones(size, width)}, models / "embeddings" / "mine.safetensors")
                studio.catalog.rescan()
            view = finished(studio, edit="reprompt", source_prompt="a embedding:mine fox")
            assert view.status is JobStatus.DONE, view.message
            assert ("Reused" in view.cells[0].note) is kept


def test_wildcards_fall_alike_in_what_the_source_shows_and_in_what_the_edit_shows(studio):
    seen = set()
    for seed in range(8):
        base = {**BASE, "prompt": "a {red|green|blue} cat", "seed": seed, "width": 32, "height": 32}
        values = {"base": base, "picture": PICTURE, "source_prompt": "a {red|green|blue} dog", "edit": "replace"}
        request = TASKS["edit"].parse(values, studio)
        color = request.base.prompt.split()[1]
        assert request.source_prompt == f"a {color} dog"
        seen.add(color)
    assert len(seen) > 1 and "{" not in "".join(seen)
    with pytest.raises(PromptError, match="wildcard list 'nothing'"):
        TASKS["edit"].parse({**values, "source_prompt": "a __nothing__"}, studio)


def test_the_classifier_also_reads_the_pictures_of_quantized_copies_of_its_model(studio):
    entry = studio.catalog["emoji"]
    keep_network(studio.catalog.folder, entry, Choice("int8"), *_networks(studio))
    studio.catalog.rescan()
    base = {"prompt": "a fox on a green background", "num_inference_steps": 2, "width": 0, "height": 0}
    figures = {}
    for model in ("emoji", "emoji+int8", "tiny"):
        view = finished(studio, base={**base, "model": model}, edit="image_to_image")
        assert view.status is JobStatus.DONE, view.message
        figures[model] = (view.cells[0].figures, view.outcome["sees"])
    for model in ("emoji", "emoji+int8"):
        assert 0 <= figures[model][0]["prompt_probability"] <= 1 and " on " in figures[model][1]
    assert "prompt_probability" not in figures["tiny"][0] and figures["tiny"][1] == ""


def _networks(studio):
    """The shipped network, its int8 copy, and the quantizer."""
    quantizer = build_quantizer(Choice("int8"), this_machine("cpu"))
    with (
        studio.loader.model("emoji") as full,
        studio.loader.model("emoji", request=LoadRequest(quantization=Choice("int8"))) as small,
    ):
        return full.network, small.network, quantizer


def test_edict_is_inverted_anew_for_another_guidance(studio):
    for scale, kept in ((3.0, False), (3.0, True), (5.0, False)):
        view = finished(
            studio, edit="reprompt", inversion="edict", base={"guidance": {"key": "cfg", "guidance_scale": scale}}
        )
        assert view.status is JobStatus.DONE and ("Reused" in view.cells[0].note) == kept
        assert view.cells[1].figures["psnr"] == pytest.approx(view.cells[1].figures["autoencoder_psnr"], abs=0.1)
        assert view.cells[0].frames[0].noisy.shape[0] == 1  # of the coupled pair one is shown


def test_the_cache_lets_the_oldest_go():
    import torch

    cache, one = TrajectoryCache(max_bytes=1000), Trajectory(torch.zeros(100), ())
    for key in "ab":
        cache.put(key, one)
    assert cache.get("a") is one
    cache.put("c", one)
    assert cache.get("b") is None and cache.get("a") is one
    cache.put("large", Trajectory(torch.zeros(1000), ()))
    assert cache.get("large") is None


@pytest.mark.parametrize("inversion", ["ddpm", "cycle"])
def test_a_path_that_is_drawn_belongs_to_its_seed(studio, inversion):
    """The noise of the way up comes from the seed: another seed is another path, and the first one's is found again."""
    values = {"edit": "reprompt", "inversion": inversion}
    first, other, again = (finished(studio, **values, base={"seed": seed}) for seed in (61, 62, 61))
    assert [one.cells[0].note != "" for one in (first, other, again)] == [False, False, True]
    assert not np.array_equal(first.cells[2].images, other.cells[2].images)
    assert np.array_equal(first.cells[2].images, again.cells[2].images)
