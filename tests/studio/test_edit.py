"""The task "edit" through the studio: figures, kept trajectories, odd pictures, and the three doors."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import PictureError, PromptError, SettingsError
from pipelines.core.types import Choice, Trajectory
from pipelines.edits import EDITS
from pipelines.inversions.trajectories import TrajectoryCache
from pipelines.models.quantization_folder import keep_network
from pipelines.quantizers import build_quantizer, this_machine
from pipelines.training.examples import read_index
from studio.backend import Studio, StudioSettings
from studio.cli.main import main
from studio.jobs.job import JobStatus
from studio.page.edit.viewer import EditRenderer, edit_figures
from studio.tasks import TASKS
from studio.tasks import edit as edit_task
from studio.tasks.edit import read_mask, read_picture
from tests.pipelines.tiny_models import tiny_sd
from tests.studio.waiting import ended

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
BASE = {
    "model": "tiny",
    "prompt": "a red cat",
    "seed": 5,
    "num_inference_steps": 4,
    "sampler": "ddim",
    "schedule": "uniform",
    "guidance": {"key": "cfg", "guidance_scale": 4.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    tiny_sd(models / "tiny")
    return models


@pytest.fixture(scope="module")
def studio(folder, tmp_path_factory):
    studio = Studio(
        StudioSettings(outputs=tmp_path_factory.mktemp("outputs"), models=folder, device="cpu", memory_budget=2**30)
    )
    yield studio
    studio.close()


def png(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def noise(size=(32, 32), mode="RGB"):
    pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], len(mode)), np.uint8)
    return Image.fromarray(pixels, mode)


PICTURE = png(noise())
MASK = png(Image.fromarray(np.pad(np.full((14, 10), 255, np.uint8), ((6, 12), (9, 13)))))


def finished(studio, **values):
    base = {**BASE, "width": 32, "height": 32, **values.pop("base", {})}
    job = studio.submit("edit", {"base": base, "picture": PICTURE, "source_prompt": "a red fox", **values})
    return ended(job)


def example(name):
    return next(one for one in read_index(EXAMPLES)["edits"] if one["name"] == name)


# What comes of an edit.


def test_an_inverted_edit_streams_both_ways_and_measures(studio):
    view = finished(studio, edit="replace", base={"seed": 100})
    assert view.status is JobStatus.DONE, view.message
    assert [cell.label for cell in view.cells] == ["Inversion", "Reconstruction", "Edit"]
    up, reconstruction, edit = view.cells
    assert [len(cell.rows) for cell in view.cells] == [len(cell.frames) for cell in view.cells] == [4, 4, 4]
    assert [row.sigma for row in up.rows] == sorted(row.sigma for row in up.rows)
    assert [row.sigma for row in edit.rows] == sorted((row.sigma for row in edit.rows), reverse=True)
    assert reconstruction.figures["psnr"] == pytest.approx(reconstruction.figures["autoencoder_psnr"], abs=1e-6)
    assert 0 < reconstruction.figures["ssim"] <= 1 and edit.figures["evaluations"] == 8
    assert edit.images.shape == reconstruction.images.shape == (1, 32, 32, 3)
    record = studio.store.get(edit.results[0])
    assert record.kind == "edit" and record.metadata["figures"]["edit"]["edit"]["key"] == "replace"
    with Image.open(record.path) as stored:
        assert np.array_equal(np.asarray(stored), edit.images[0])
    json.dumps(view.outcome, allow_nan=False)


def test_a_trajectory_is_kept_for_the_next_edit_alone(studio):
    first = finished(studio, edit="reprompt", base={"seed": 101})
    second = finished(studio, edit="replace", base={"seed": 999, "prompt": "a blue cat"})
    assert "Kept" in second.cells[0].note and len(second.cells[0].frames) == 4
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
        assert "Kept" not in finished(studio, edit="reprompt", **change).cells[0].note, change


def test_a_trajectory_is_kept_where_only_a_branch_differs_that_the_way_up_never_evaluates(studio):
    guided = {"key": "ddim", "guidance_scale": 2.0}
    for inversion, kept in (("direct", True), (guided, False)):
        finished(studio, edit="reprompt", inversion=inversion, base={"seed": 103})
        for changed in ({"negative_prompt": "the sea"}, {"guidance": {"key": "cfg", "guidance_rescale": 0.7}}):
            view = finished(studio, edit="reprompt", inversion=inversion, base=changed)
            assert ("Kept" in view.cells[0].note) is kept, (inversion, changed)
        other_scale = {"guidance": {"key": "cfg", "guidance_scale": 6.0}}
        assert "Kept" in finished(studio, edit="reprompt", inversion=inversion, base=other_scale).cells[0].note


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
        assert "Kept" in finished(studio, **edit).cells[0].note
        write_lora(3.0)
        second = finished(studio, **edit)
        assert "Kept" not in second.cells[0].note
        assert not np.array_equal(first.cells[0].frames[-1].latents, second.cells[0].frames[-1].latents)
        shutil.rmtree(models / "tiny")
        tiny_sd(models / "tiny", seed=9)
        studio.catalog.rescan()
        assert "Kept" not in finished(studio, **edit).cells[0].note
        assert "Kept" in finished(studio, **edit).cells[0].note
    finally:
        studio.close()


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
    with studio.loader.model("emoji") as full, studio.loader.model("emoji", quantization=Choice("int8")) as small:
        return full.network, small.network, quantizer


def test_edict_is_inverted_anew_for_another_guidance(studio):
    for scale, kept in ((3.0, False), (3.0, True), (5.0, False)):
        view = finished(
            studio, edit="reprompt", inversion="edict", base={"guidance": {"key": "cfg", "guidance_scale": scale}}
        )
        assert view.status is JobStatus.DONE and ("Kept" in view.cells[0].note) == kept
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


def test_inpainting_is_exact_outside_the_mask(studio):
    view = finished(studio, edit="inpaint", mask=MASK)
    (cell,) = view.cells
    source, mask = np.asarray(noise()), read_mask(MASK).pixels
    assert np.array_equal(cell.images[0][~mask], source[~mask]) and not np.array_equal(
        cell.images[0][mask], source[mask]
    )
    with Image.open(studio.store.get(cell.results[0]).path) as stored:
        kept = np.array_equal(np.asarray(stored)[~mask], source[~mask])
    assert cell.figures["background_exact"] == float(kept) == 1.0
    assert cell.figures["background_psnr"] is not None


def test_a_background_that_is_not_exact_is_not_called_so(studio, monkeypatch):
    inverted = finished(studio, edit="reprompt", mask=MASK)
    assert inverted.cells[2].figures["background_exact"] == 0  # through the VAE, and nothing is pasted back
    assert "identical" not in edit_figures(inverted).split("Outside the mask")[1].split("Change to source")[0]

    def careless(picture, source, mask):
        pasted = np.where(mask[..., None], picture, source)
        pasted[0, 0] ^= 1
        return pasted

    monkeypatch.setattr(edit_task, "_pasted", careless)
    view = finished(studio, edit="inpaint", mask=MASK)
    assert view.cells[0].figures["background_exact"] == 0
    assert "pasted back" not in edit_figures(view)


def test_outpainting_keeps_the_middle(studio):
    view = finished(studio, edit={"key": "outpaint", "right": 16})
    picture = view.cells[0].images[0]
    assert picture.shape == (32, 48, 3) and np.array_equal(picture[:, :32], np.asarray(noise()))


@pytest.mark.parametrize("edit", ["image_to_image", "inpaint"])
def test_strength_zero_is_the_picture_and_one_runs_every_step(studio, edit):
    none = finished(studio, edit={"key": edit, "strength": 0}, mask=MASK)
    assert none.status is JobStatus.DONE and np.array_equal(none.cells[0].images[0], np.asarray(noise()))
    assert none.cells[0].figures["evaluations"] == 0 and "strength 0" in none.cells[0].note
    whole = finished(studio, edit={"key": edit, "strength": 1}, mask=MASK)
    assert len(whole.cells[0].rows) == 4


def test_a_cancelled_edit_stops_and_leaves_no_result(studio):
    job = studio.submit(
        "edit",
        {"base": {**BASE, "num_inference_steps": 200}, "picture": PICTURE, "source_prompt": "a fox", "edit": "replace"},
    )
    view = job.view()
    while not (view.cells and view.cells[0].rows):
        view = job.wait(view.version, 30)
    job.cancel()
    while not view.status.final:
        view = job.wait(view.version, 30)
    assert view.status is JobStatus.CANCELLED and view.cells[2].results == ()
    assert finished(studio, edit="replace").status is JobStatus.DONE


def test_an_edit_that_cannot_be_stored_is_still_shown_and_can_be_taken(studio, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        values = {"base": {**BASE, "width": 32, "height": 32}, "picture": PICTURE, "edit": "image_to_image"}
        job = studio.submit("edit", values)
        view = ended(job)
    assert view.status is JobStatus.FAILED and "full" in view.message
    parts = EditRenderer(studio.store, "e", job)(view)
    assert parts["e-slider"] == {"hidden": None} and "Change to source" in parts["e-figures"]["html"]
    taken = base64.b64decode(parts["e-download"]["src"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(taken)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), view.cells[-1].images[0])


def test_an_old_edit_shows_its_stored_picture(studio):
    job = studio.submit(
        "edit", {"base": {**BASE, "width": 32, "height": 32}, "picture": PICTURE, "edit": "image_to_image"}
    )
    ended(job)
    job.let_pictures_go()
    parts = EditRenderer(studio.store, "e", job)(job.view())
    assert (
        parts["e-hero"] == parts["e-download"]
        and "src" not in parts["e-hero"]
        and parts["e-picture"] == {"hidden": None}
    )


def test_the_shipped_model_changes_a_background_and_the_classifier_sees_it(studio):
    record = example("background-2")
    picture = (EXAMPLES / record["source"]).read_bytes()
    base = {
        "model": "emoji",
        "prompt": record["target_caption"],
        "num_inference_steps": 16,
        "seed": 1,
        "width": 0,
        "height": 0,
        "guidance": {"key": "cfg", "guidance_scale": 7.5},
    }
    view = finished(
        studio,
        base=base,
        picture=picture,
        source_prompt=record["source_caption"],
        edit="replace",
        mask=(EXAMPLES / record["mask"]).read_bytes(),
    )
    reconstruction, edit = view.cells[1].figures, view.cells[2].figures
    assert (
        reconstruction["psnr"] == pytest.approx(reconstruction["autoencoder_psnr"], abs=1e-6)
        and reconstruction["psnr"] > 28
    )
    assert edit["prompt_probability"] > 0.8 and view.outcome["sees"] == "four leaf clover on green"
    assert edit["background_psnr"] > 15


# Odd pictures.


def test_odd_pictures_are_read_upright_and_opaque():
    assert np.array_equal(read_picture(png(noise().convert("CMYK"), "JPEG", quality=95)).pixels.shape, (32, 32, 3))
    turned = noise((40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(png(turned, "JPEG", exif=exif)).size == (20, 40)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    read = read_picture(png(clear))
    assert (read.pixels == 255).all() and "transparent" in read.notes[0]
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    moving = read_picture(png(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert "first is used" in moving.notes[0] and moving.pixels[0, 0].tolist() == [255, 0, 0]
    assert read_picture("data:image/png;base64," + base64.b64encode(PICTURE).decode()).pixels.shape == (32, 32, 3)


def test_what_the_model_cannot_make_is_brought_to_its_size_and_said(studio):
    view = finished(studio, picture=png(noise((61, 47))), base={"width": 0, "height": 0})
    assert (
        view.status is JobStatus.DONE and "61 × 47" in view.cells[0].note and "cut to its middle" in view.cells[0].note
    )
    squeezed = finished(studio, picture=png(noise((61, 47))), fit="resize")
    assert "squeezed to 32 × 32" in squeezed.cells[0].note


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"picture": b"nothing"}, "not a picture"),
        ({"picture": "/etc/passwd"}, "base64"),
        ({"picture": 3}, "base64"),
        ({"picture": None}, "no picture"),
        ({"edit": "inpaint"}, "needs a mask"),
        ({"edit": "replace", "source_prompt": ""}, "what the source"),
        ({"edit": "inpaint", "mask": np.zeros((32, 32), bool)}, "mask is empty"),
        ({"edit": "inpaint", "mask": np.ones((32, 32), bool)}, "whole"),
        ({"edit": "inpaint", "mask": np.ones((9, 9), bool)}, "picture's size"),
        ({"nonsense": 1}, "Unknown setting"),
        ({"edit": "magic"}, "Unknown edit"),
        ({"inversion": {"key": "edict", "p": 2}}, "from 0.9"),
        ({"base": {**BASE, "prompt": ""}}, "prompt is empty"),
        ({"base": {**BASE, "num_inference_steps": 10**6}}, "from 1 to 200"),
        ({"base": []}, "object"),
    ],
)
def test_bad_input_gets_one_sentence_at_once(studio, values, said):
    with pytest.raises(SettingsError, match=said):
        studio.submit("edit", {"base": BASE, "picture": PICTURE, "source_prompt": "a fox", **values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"edit": "replace", "source_prompt": "a fox"}, "as many words"),
        ({"edit": {"key": "outpaint", "right": 5}}, "multiples of"),
        ({"base": {"width": 33}}, "multiples of"),
        ({"edit": {"key": "refine", "blend": "moon"}}, "Neither prompt"),
        ({"edit": {"key": "outpaint", "right": 1024, "left": 1024}}, "smaller margins"),
    ],
)
def test_what_only_the_model_knows_is_said_too(studio, values, said):
    view = finished(studio, **values)
    assert view.status is JobStatus.FAILED and said in view.message
    assert len(view.message) < 300


def test_a_mask_may_be_transparent_or_gray():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.putpixel((1, 2), (0, 0, 0, 255))
    assert read_mask(png(clear)).pixels.sum() == 1 and read_mask(png(clear)).pixels[2, 1]
    with pytest.raises(PictureError):
        read_mask(b"x")


# The doors.


@pytest.fixture(scope="module")
def endpoint(studio):
    """The /edit endpoint of a server on this studio."""
    import gradio as gr
    from gradio_client import Client

    from studio.api import attach

    with gr.Blocks(analytics_enabled=False) as demo:
        attach(studio)
    _, url, _ = demo.launch(
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        server_name="127.0.0.1",
        allowed_paths=[str(studio.store.folder)],
    )
    client = Client(url, verbose=False)
    yield lambda *values: client.predict(*values, api_name="/edit")
    client.close()
    demo.close(verbose=False)


def test_the_endpoint_edits_the_same_picture(studio, endpoint):
    settings = {
        "base": {**{name: value for name, value in BASE.items() if name != "prompt"}, "width": 32, "height": 32},
        "edit": "replace",
        "source_prompt": "a red fox",
    }
    result = endpoint("a red cat", base64.b64encode(PICTURE).decode(), settings)
    view = finished(studio, edit="replace")
    assert result["status"] == "done" and [cell["label"] for cell in result["cells"]] == [
        "Inversion",
        "Reconstruction",
        "Edit",
    ]
    with Image.open(result["images"][0]) as theirs:
        assert np.array_equal(np.asarray(theirs), view.cells[2].images[0])
    for picture, values, said in (
        ("/etc/passwd", {}, "base64"),
        (base64.b64encode(PICTURE).decode(), {"base": BASE, "edit": "inpaint"}, "needs a mask"),
    ):
        with pytest.raises(Exception, match=said):
            endpoint("a red cat", picture, values)


def test_the_command_line_edits_the_same_picture(studio, folder, tmp_path):
    paths = {name: tmp_path / f"{name}.png" for name in ("picture", "mask", "out")}
    paths["picture"].write_bytes(PICTURE)
    paths["mask"].write_bytes(MASK)
    arguments = [
        "--outputs-folder",
        str(tmp_path / "outputs"),
        "--models-folder",
        str(folder),
        "edit",
        "a red cat",
        "--model",
        "tiny",
        "--steps",
        "4",
        "--seed",
        "5",
        "--sampler",
        "ddim",
        "--guidance",
        "cfg,guidance_scale=4",
        "--width",
        "32",
        "--height",
        "32",
        "--edit",
        "inpaint,strength=0.75",
        "--picture",
        str(paths["picture"]),
        "--mask",
        str(paths["mask"]),
        "--out",
        str(paths["out"]),
    ]
    assert main(arguments) == 0
    view = finished(studio, edit={"key": "inpaint", "strength": 0.75}, mask=MASK)
    with Image.open(paths["out"]) as ours:
        assert np.array_equal(np.asarray(ours), view.cells[0].images[0])
    assert main([*arguments[:4], "edit", "x", "--picture", str(tmp_path / "none.png"), "--out", "x.png"]) == 2


def test_every_edit_of_the_table_runs_through_the_studio(studio):
    settings = {"reweight": {"words": "cat=2"}}
    for key in EDITS:
        view = finished(
            studio,
            edit={"key": key, **settings.get(key, {})},
            mask=None if key == "outpaint" else MASK,
            base={"num_inference_steps": 2},
        )
        assert view.status is JobStatus.DONE, (key, view.message)
