"""Edits of odd pictures, and from endpoint and command line."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import PictureError, SettingsError
from pipelines.edits import EDITS
from studio.cli.main import main
from studio.jobs.job import JobStatus
from studio.tasks import TASKS
from studio.tasks.pictures import read_mask, read_picture
from tests.studio import edit_runs
from tests.studio.edit_runs import BASE, MASK, PICTURE, finished, noise, png

make_models = edit_runs.make_models


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
        ({"edit": "replace", "source_prompt": "a fox"}, "as many words"),
        ({"edit": {"key": "refine", "blend": "moon"}}, "Neither prompt"),
        ({"edit": {"key": "reweight", "words": "moon=2"}}, "has no 'moon'"),
        ({"edit": "reweight"}, "no words to weigh"),
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
        ({"edit": {"key": "outpaint", "right": 5}}, "multiples of"),
        ({"base": {"width": 33}}, "multiples of"),
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


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_whose_alpha_channel_is_opaque_goes_by_its_white(mode):
    drawn = Image.new("L", (4, 4))
    drawn.putpixel((1, 2), 255)
    mask = read_mask(png(drawn.convert(mode))).pixels
    assert mask.sum() == 1 and mask[2, 1]


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
    placed = {"right": 0.25}
    settings = {"reweight": {"words": "cat=2"}, "move": placed, "dragon": placed, "ledits": {"concepts": "cat"}}
    settings["time"] = {"concept": "cat", "destination": "green cat"}
    for key in EDITS:
        view = finished(
            studio,
            edit={"key": key, **settings.get(key, {})},
            mask=None if key == "outpaint" else MASK,
            **({"reference": png(noise((24, 40)))} if EDITS[key].build().takes_reference else {}),
            base={
                "num_inference_steps": 2,
                **({"model": "emoji-128-flow"} if EDITS[key].fit(studio.traits("emoji")) else {}),
            },
        )
        assert view.status is JobStatus.DONE, (key, view.message)


def gif():
    frames = [noise((32, 32)), noise((32, 32)).transpose(Image.Transpose.ROTATE_90)]
    return png(frames[0], "GIF", save_all=True, append_images=frames[1:])


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(noise((40, 20)), "JPEG", exif=exif)


LARGE = noise((640, 640))
"""Of which one pixel is less than a latent place, and less than a quarter of a drawn one."""

SENSIBLE = {
    "alpha": {"picture": png(noise(mode="RGBA"))},
    "CMYK": {"picture": png(noise().convert("CMYK"), "JPEG")},
    "EXIF rotation": {"picture": turned()},
    "animated": {"picture": gif()},
    "another size": {"picture": png(noise((61, 17)))},
    "16 bits": {"picture": png(Image.new("I;16", (20, 20), 40000))},
    "no source prompt": {"source_prompt": "  "},
    "other words": {"source_prompt": "three very old dogs", "base": {"prompt": "a bus"}},
    "little strength": {"strength": 0.0},
    "all strength": {"strength": 1.0},
}
REFUSED = {
    "empty mask": ({"mask": np.zeros((32, 32), bool)}, "mask is empty"),
    "full mask": ({"mask": np.ones((32, 32), bool)}, "whole picture"),
    "another mask": ({"mask": np.ones((9, 9), bool)}, "picture's size"),
    "speck": ({"picture": png(LARGE), "mask": np.arange(640 * 640).reshape(640, 640) == 99}, "nothing|small"),
    "no prompt": ({"base": {"prompt": " "}}, "prompt is empty"),
    "cut picture": ({"picture": PICTURE[: len(PICTURE) // 2]}, "picture"),
    "huge strength": ({"strength": 1.5}, "strength|no setting"),
}
NEEDS_SOURCE = {key for key in EDITS if EDITS[key].build().needs_source()}
GIVEN = {"reweight": {"words": "cat=2"}, "ledits": {"concepts": "cat"}, "outpaint": {"left": 8}}
GIVEN |= {key: {"right": 0.25} for key in ("move", "dragon")} | {"time": {"concept": "cat", "destination": "old cat"}}


def parsed(studio, edit, picture=PICTURE, strength=None, base=None, **values):
    """The request that would be queued; nothing is run."""
    built = EDITS[edit].build()
    settings = GIVEN.get(edit, {}) | (
        {} if strength is None or "strength" not in fields_of(edit) else {"strength": strength}
    )
    if built.masked and "mask" not in values:
        size = read_picture(picture).size
        values["mask"] = np.add.outer(np.arange(size[1]), np.arange(size[0])) < sum(size) // 2
    if built.takes_reference:
        values.setdefault("reference", PICTURE)
    plain = {**BASE, "width": 32, "height": 32, **(base or {})}
    values = {"source_prompt": "a red fox", **values}
    return TASKS["edit"].parse({"base": plain, "picture": picture, "edit": {"key": edit, **settings}, **values}, studio)


def fields_of(edit):
    return {field.name for field in dataclasses.fields(EDITS[edit].settings)}


@pytest.mark.parametrize("edit", list(EDITS))
def test_odd_input_is_taken_sensibly_or_refused_with_a_sentence_before_it_queues(studio, edit):
    flow = EDITS[edit].fit(studio.traits("tiny")) is not None
    model = {"model": "emoji-128-flow"} if flow else {}
    for kind, values in SENSIBLE.items():
        base = {**model, **values.get("base", {})}
        try:
            request = parsed(studio, edit, **{**values, "base": base})
        except SettingsError as error:
            lacks = kind == "no source prompt" and edit in NEEDS_SOURCE
            apart = kind == "other words" and edit in ("replace", "reweight")
            ranged = kind == "little strength" and "strength" in fields_of(edit)
            assert (lacks or apart or ranged) and str(error).endswith((".", "?")), (kind, str(error))
        else:
            assert kind != "no source prompt" or edit not in NEEDS_SOURCE
            assert request.picture.pixels.shape[2] == 3
    for kind, (values, said) in REFUSED.items():
        if kind == "huge strength" and "strength" not in fields_of(edit):
            continue
        if kind == "speck" and EDITS[edit].build().is_cropped:  # its part is drawn larger
            continue
        values = {**values, "base": {**model, **values.get("base", {})}}
        if kind == "no prompt" and EDITS[edit].build().keeps_prompt:  # it has the source's
            assert parsed(studio, edit, **values).base.prompt == "a red fox"
            continue
        with pytest.raises(SettingsError, match=said):
            parsed(studio, edit, **values)
