"""Clips that cannot be are refused with a sentence, and every entry point makes the same ones."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import MethodFitError, PictureError, PromptError, SettingsError
from studio.cli.main import main
from studio.jobs.job import JobStatus
from studio.media.clips import encode_clip
from studio.page.gallery.markup import build_opened, build_tiles
from studio.results.archives import make_thumbnail
from studio.results.search import extract_settings
from studio.tasks.animate import parse_key
from tests.studio import clip_runs
from tests.studio.clip_runs import KEYS, MODELS, OWN_PIPELINE, finished, frames_of, picture, values

make_models = clip_runs.make_models


# The gallery.


@pytest.mark.parametrize("format", ["mp4", "webp"])
def test_the_gallery_shows_a_poster_and_plays_the_clip(studio, tmp_path, format):
    view = finished(studio, format=format, frames=12)
    record = studio.store.get(view.cells[0].results[0])
    assert record in studio.store.list(kind="video", text="red fox")
    small = make_thumbnail(record, tmp_path)
    with Image.open(small) as face:
        assert face.size == (32, 32)
    assert "<img" in build_tiles([(record, small)])
    assert ("<video" if format == "mp4" else "<img") in build_opened(record, "Tiny")
    settings = extract_settings(record)
    assert settings["prompt"] == "a red fox" and settings["seed"] == 5
    studio.store.delete(record.id)
    studio.store.restore(record.id)
    assert studio.store.get(record.id).path.exists()
    assert studio.store.reconcile().removed == 0


# Wishes that cannot be.


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"frames": 0}, SettingsError, "number of frames is 0. Choose a value from 1 to 257"),
        ({"frames": 10_000}, SettingsError, "is 10000"),
        ({"frames": "many"}, SettingsError, "whole number"),
        ({"frames": 1}, SettingsError, "fewer than the 2 keyframes"),
        ({"fps": 0}, SettingsError, "frame rate is 0"),
        ({"fps": float("nan")}, SettingsError, "whole number"),
        ({"format": "avi"}, SettingsError, "mp4, webp, gif"),
        ({"keys": []}, SettingsError, "at least two"),
        ({"keys": "a cat"}, SettingsError, "list"),
        ({"keys": [{"seed": 1}] * 12}, SettingsError, "12 at most"),
        ({"keys": [{"words": "a cat"}]}, SettingsError, "prompt"),
        ({"keys": [{"prompt": " "}]}, PromptError, "empty"),
        ({"keys": [{"seed": -2}]}, SettingsError, "seed is -2"),
        ({"base": {"prompt": ""}}, PromptError, "empty"),
        ({"base": {"batch_size": 2}}, SettingsError, "One clip"),
        ({"base": {"width": 2048, "height": 2048}, "frames": 257}, SettingsError, "more than are made here"),
        ({"method": "svd"}, MethodFitError, "is not Stable Video Diffusion"),
        ({"method": "dance"}, SettingsError, "walk, animatediff, svd, pipeline"),
        ({"method": {"key": "walk", "frames_at_once": 99}}, SettingsError, "from 1 to 32"),
        ({"first_frame": b"no picture"}, PictureError, "not a picture"),
        ({"first_frame": picture()}, PictureError, "no first frame"),
        ({"speed": 2}, SettingsError, "setting of a clip 'speed'"),
        ({"base": "a fox"}, SettingsError, "object"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_with_a_sentence(studio, change, error, said):
    with pytest.raises(error, match=said):
        studio.submit("animate", values(**change) if change.get("base") != "a fox" else change)


def test_video_models_say_what_they_need(studio):
    with pytest.raises(PictureError, match=r"starts from a picture. Give it a first frame"):
        studio.submit("animate", values(model="tiny-svd", first_frame=None))
    with pytest.raises(PictureError, match="takes no first frame"):
        studio.submit("animate", values(model="tiny-wan", first_frame=picture()))
    with pytest.raises(SettingsError, match="32 places in time"):
        studio.submit("animate", values(model="tiny-animatediff", frames=40))
    with pytest.raises(SettingsError, match="one prompt and one seed"):
        studio.submit("animate", values(model="tiny-wan", keys=KEYS))
    assert finished(studio, model="tiny-svd", base={"prompt": ""}).status is JobStatus.DONE
    assert finished(studio, model="tiny-animatediff", first_frame=picture()).status is JobStatus.DONE


@pytest.mark.parametrize("model", OWN_PIPELINE)
@pytest.mark.parametrize(("name", "choice"), [("sampler", "ddim"), ("schedule", "karras"), ("start", "gaussian")])
def test_methods_of_our_loop_are_refused_where_it_does_not_run(studio, model, name, choice):
    with pytest.raises(MethodFitError, match="runs through its own pipeline, which brings its own sampler"):
        studio.submit("animate", values(model=model, base={name: choice}))


@pytest.mark.parametrize("model", MODELS)
def test_a_clip_says_only_what_counted(studio, model):
    view = finished(studio, model=model, format="webp")
    record = studio.store.get(view.cells[0].results[0])
    loop = {"sampler", "schedule", "start"}
    noise = {"loras", "variation_seed", "variation_strength"}
    absent = (loop if model in OWN_PIPELINE else set()) | (noise if model != "tiny-sd" else set())
    for said in (record.metadata["request"], record.metadata["animate"]["base"], view.outcome["animate"]["base"]):
        assert (loop | noise) - said.keys() == absent and {"guidance", "seed"} <= said.keys()
    assert ("Sampler" in record.parameters) == (model not in OWN_PIPELINE) and "CFG scale: 4" in record.parameters
    settings = extract_settings(record)
    again = finished(
        studio, model=model, base={name: settings[name] for name in ("prompt", "seed", "num_inference_steps")}
    )
    assert np.array_equal(again.cells[0].images, view.cells[0].images)


def test_what_a_model_snaps_to_is_said_and_made(studio):
    view = finished(studio, model="tiny-wan", frames=8, base={"width": 40, "height": 30})
    record = studio.store.get(view.cells[0].results[0])
    assert "8 becomes 9" in view.cells[0].note and "40 × 30 becomes 48 × 32" in view.cells[0].note
    assert frames_of(record.path).shape == (9, 32, 48, 3)


def test_of_an_animated_file_the_first_picture_is_taken_with_a_word(studio):
    animation = encode_clip(np.stack([np.full((64, 64, 3), value, np.uint8) for value in (10, 240)]), 2, "gif")
    view = finished(studio, model="tiny-svd", first_frame=animation)
    assert view.status is JobStatus.DONE and "only the first is used" in view.cells[0].note


# The doors.


@pytest.fixture(scope="module")
def endpoint(studio):
    """The /animate endpoint of a server on this studio."""
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
    yield lambda *given: client.predict(*given, api_name="/animate")
    client.close()
    demo.close(verbose=False)


def test_three_doors_make_the_same_frames(studio, endpoint, folder, tmp_path):
    ours = frames_of(studio.store.get(finished(studio).cells[0].results[0]).path)
    settings = values()
    prompt = settings["base"].pop("prompt")
    result = endpoint(prompt, settings)
    assert result["status"] == "done" and np.array_equal(frames_of(result["images"][0]), ours)
    out = tmp_path / "walk.webp"
    arguments = [
        "--outputs-folder",
        str(tmp_path / "outputs"),
        "--models-folder",
        str(folder),
        "animate",
        "a red fox",
        "--model",
        "tiny-sd",
        "--steps",
        "2",
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
        "--key",
        "a blue cat@9",
        "--frames",
        "5",
        "--fps",
        "8",
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    assert np.array_equal(frames_of(out), ours)
    with pytest.raises(Exception, match="is 10000"):
        endpoint(prompt, {**settings, "frames": 10_000})


def test_the_command_takes_a_first_frame_and_refuses_odd_names(folder, tmp_path, capsys):
    source = tmp_path / "first.png"
    source.write_bytes(picture())
    head = ["--outputs-folder", str(tmp_path / "outputs"), "--models-folder", str(folder), "animate", ""]
    tail = ["--model", "tiny-svd", "--steps", "1", "--width", "64", "--height", "64", "--frames", "3"]
    assert main([*head, *tail, "--first-frame", str(source), "--out", str(tmp_path / "clip.gif")]) == 0
    assert frames_of(tmp_path / "clip.gif").shape == (3, 64, 64, 3)
    assert main([*head, *tail, "--out", str(tmp_path / "clip.avi")]) == 2
    assert "End it in .mp4, .webp, .gif" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a cat@7", {"prompt": "a cat", "seed": 7}),
        ("@7", {"seed": 7}),
        ("a cat", {"prompt": "a cat"}),
        ("me@home", {"prompt": "me@home"}),
        ("a@b@3", {"prompt": "a@b", "seed": 3}),
    ],
)
def test_a_key_on_the_command_line(text, key):
    assert parse_key(text) == key


def test_a_picture_may_come_as_base64(studio):
    given = base64.b64encode(picture()).decode()
    assert finished(studio, model="tiny-svd", first_frame=given).status is JobStatus.DONE
