"""Three doors, one picture: the page's run button, the endpoint and the command line give the same stored pixels."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from studio.cli.main import main
from studio.page.tabs import TABS
from studio.reliability.page import press, read_forms, stream_events
from studio.reliability.server import Server
from studio.results.records import Record
from studio.results.store import Store
from studio.tasks import TASKS
from tests.studio.task_examples import OFFERED

EMOJI = Path(__file__).resolve().parents[2] / "assets" / "data" / "emoji" / "1f98a.webp"
FOX, CAT = "a fox on a blue background", "a cat on a blue background"
PLAIN = {
    "num_inference_steps": 3,
    "seed": 3,
    "sampler": {"key": "ddim", "eta": 0.5},
    "guidance": {"key": "cfg", "guidance_scale": 5},
}
FLAGS = ["--steps", "3", "--seed", "3", "--sampler", "ddim,eta=0.5", "--guidance", "cfg,guidance_scale=5"]
OPENS_ON = "emoji-128"
"""The model that the page's first tab opens on."""
FORM = {"steps": 3, "seed_mode": "fixed", "seed": "3"}
METHODS = {
    "sampler": "ddim",
    "sampler_settings": {"ddim": {"eta": 0.5}},
    "guidance": "cfg",
    "guidance_settings": {"cfg": {"guidance_scale": 5}},
}
"""PLAIN as a form holds it."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One request, as each door takes it; every callable is given the folder with the inputs.

    Attributes:
        tab: whose run button is pressed.
        fields: of its form by name, as the page sends them; what is left out stays as the page shows it at first.
        endpoint: name and arguments for gradio_client.
        command: arguments of `python -m studio`, less `--out`.
        suffix: of the command's file.
    """

    tab: str
    fields: Callable[[Path, Server], Mapping[str, Any]]
    endpoint: Callable[[Path], tuple[str, list[Any]]]
    command: Callable[[Path], list[str]]
    suffix: str = ".png"


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def uploaded(server: Server, path: Path) -> dict[str, Any]:
    """A file as the page sends it: uploaded, and then named."""
    answer = server.web.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes(), "image/png")})
    return {"path": answer.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def drawn(at: Path) -> str:
    """The mask as the page draws it, each of the picture's pixels eight wide."""
    return f"data:image/png;base64,{encoded(at / 'board.png')}"


EDIT = {"num_inference_steps": 3, "seed": 3}
REPLACE = {"key": "replace", "cross_until": 0.3, "self_until": 0.1}
COMPARED = {"cells": [{"sampler": "unipc"}, {"sampler": "heun"}], "equal": "steps", "reference": False}
QUANTIZED = {"variants": ["int8", {"key": "int4", "group_size": 32}], "measure": False}
CLIP = {"frames": 4, "fps": 10, "format": "webp", "keys": [{"prompt": CAT, "seed": 8}]}
ROWS = {
    "text to image": Row(
        "text_to_image",
        lambda *_: {"prompt": FOX, **FORM, **METHODS},
        lambda _: ("generate", [FOX, {**PLAIN, "model": OPENS_ON}]),
        lambda _: ["generate", FOX, *FLAGS, "--model", OPENS_ON],
    ),
    "text to image in a style": Row(
        "text_to_image",
        lambda *_: {"prompt": "a fox", "style": "on_green", **FORM, **METHODS},
        lambda _: ("generate", ["a fox on a green background", {**PLAIN, "model": OPENS_ON}]),
        lambda _: ["generate", "a fox on a green background", *FLAGS, "--model", OPENS_ON],
    ),
    "compare": Row(
        "compare",
        lambda *_: {
            **{"prompt": FOX, **FORM, **METHODS, "equal": "steps", "reference": False},
            **{"number_4": 2, "cell_1_sampler": "unipc", "cell_2_sampler": "heun"},
        },
        lambda _: ("compare", [FOX, {"base": PLAIN, **COMPARED}]),
        lambda _: [
            "compare",
            FOX,
            *FLAGS,
            "--cell",
            "sampler=unipc",
            "--cell",
            "sampler=heun",
            "--reference-steps",
            "0",
        ],
    ),
    "edit with an inversion": Row(
        "edit",
        lambda at, server: {
            **{
                "prompt": CAT,
                "source_prompt": FOX,
                "steps": 3,
                "seed": "3",
                "source": uploaded(server, at / "picture.png"),
            },
            **{
                "edit": "replace",
                "edit_settings": {"replace": {"cross_until": 0.3, "self_until": 0.1}},
                "inversion": "edict",
            },
        },
        lambda at: (
            "edit",
            [
                CAT,
                encoded(at / "picture.png"),
                {"base": EDIT, "source_prompt": FOX, "edit": REPLACE, "inversion": "edict"},
            ],
        ),
        lambda at: [
            *["edit", CAT, "--steps", "3", "--seed", "3", "--picture", str(at / "picture.png")],
            *["--source-prompt", FOX, "--edit", "replace,cross_until=0.3,self_until=0.1", "--inversion", "edict"],
        ],
    ),
    "edit inside a mask": Row(
        "edit",
        lambda at, server: {
            **{"prompt": FOX, "steps": 3, "seed": "3", "source": uploaded(server, at / "picture.png")},
            **{"edit": "inpaint", "mask": drawn(at)},
        },
        lambda at: (
            "edit",
            [FOX, encoded(at / "picture.png"), {"base": EDIT, "edit": "inpaint", "mask": encoded(at / "mask.png")}],
        ),
        lambda at: [
            *["edit", FOX, "--steps", "3", "--seed", "3", "--picture", str(at / "picture.png")],
            *["--mask", str(at / "mask.png"), "--edit", "inpaint"],
        ],
    ),
    "animate": Row(
        "animate",
        lambda *_: {
            **{"prompt": FOX, **FORM, **METHODS, "frames": 4, "fps": 10, "format": "webp", "video": "walk"},
            **{"key_2": CAT, "key_2_seed": "8", "model": "emoji", "width": 64, "height": 64},
        },
        lambda _: ("animate", [FOX, {"base": PLAIN, **CLIP}]),
        lambda _: ["animate", FOX, *FLAGS, "--frames", "4", "--fps", "10", "--key", f"{CAT}@8"],
        ".webp",
    ),
    "quantize": Row(
        "quantize",
        lambda *_: {
            "prompt": FOX,
            **FORM,
            **METHODS,
            "variants": ["int8", "int4"],
            "int4_settings": {"": {"group_size": 32}},
            "measure": False,
        },
        lambda _: ("quantize", [FOX, {"base": PLAIN, **QUANTIZED}]),
        lambda _: ["quantize", FOX, *FLAGS, "--with", "int8", "--with", "int4,group_size=32", "--no-measure"],
    ),
}
"""A row for each thing that can be asked for at all three doors."""


def test_every_task_with_three_doors_and_a_tab_has_a_row():
    tabs = {tab.key for tab in TABS}
    assert {row.tab for row in ROWS.values()} == {key for key in OFFERED if TASKS[key].command and key in tabs}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    with Image.open(EMOJI) as opened:
        opened.convert("RGB").resize((64, 64)).save(folder / "picture.png")
    mask, board = Image.new("L", (64, 64)), Image.new("RGBA", (512, 512))
    ImageDraw.Draw(mask).rectangle((16, 16, 40, 40), fill=255)
    ImageDraw.Draw(board).rectangle((8 * 16, 8 * 16, 8 * 41 - 1, 8 * 41 - 1), fill="red")
    mask.save(folder / "mask.png")
    board.save(folder / "board.png")
    return folder


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    from gradio_client import Client

    client = Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))
    yield client
    client.close()


def pixels(paths) -> list[bytes]:
    """The pictures' pixels, of a clip all its frames', in an order of their own."""
    found = []
    for path in paths:
        with Image.open(path) as picture:
            frames = []
            for frame in range(getattr(picture, "n_frames", 1)):
                picture.seek(frame)
                frames.append(np.asarray(picture.convert("RGB")).tobytes())
            found.append(b"".join(frames))
    return sorted(found)


def by_page(server: Server, row: Row, inputs: Path) -> list[Record]:
    """What a press of the run button leaves in the store."""
    form = read_forms(server.web.get("/config").json())[row.tab]
    answer = press(server.web, form, form.filled(**row.fields(inputs, server)))
    assert answer.status_code == 200, answer.text
    job = answer.json()["session"]["job"]
    last = [*stream_events(server.web, row.tab, job)][-1]
    assert last["status"] == "done", last
    return [record for record in Store(server.outputs).list(limit=100) if record.job == job]


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_three_doors_give_the_same_pixels_and_settings(row, inputs, server, client, tmp_path):
    pressed = by_page(server, row, inputs)
    of_page = pixels(record.path for record in pressed)

    name, arguments = row.endpoint(inputs)
    answer = client.predict(*arguments, api_name=f"/{name}")
    assert answer["status"] == "done" and of_page == pixels(answer["images"])

    command, *more = row.command(inputs)
    out = tmp_path / f"out{row.suffix}"
    folders = ["--outputs-folder", str(tmp_path / "outputs"), "--models-folder", str(tmp_path / "models")]
    assert main([*folders, command, *more, "--out", str(out)]) == 0
    typed = Store(tmp_path / "outputs").list(limit=100)
    assert of_page and of_page == pixels(record.path for record in typed)
    if len(of_page) == 1:
        assert pixels([out]) == of_page
    assert sorted(record.parameters for record in pressed) == sorted(record.parameters for record in typed)


def test_the_doors_are_no_copies_of_each_other(inputs, server):
    """Another seed gives other pixels, so that equal ones say something."""
    first = by_page(server, ROWS["text to image"], inputs)
    other = dataclasses.replace(
        ROWS["text to image"], fields=lambda *_: {"prompt": FOX, **FORM, **METHODS, "seed": "4"}
    )
    assert pixels(one.path for one in first) != pixels(one.path for one in by_page(server, other, inputs))
