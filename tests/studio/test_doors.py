"""Three doors, one picture: the page's task, the endpoint and the command line give the same pixels for the same settings."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from studio.backend import Studio, StudioSettings
from studio.command_line import main
from studio.reliability.server import serving
from studio.store import Store

EMOJI = Path(__file__).resolve().parents[2] / "assets" / "data" / "emoji" / "1f98a.webp"
FOX = "a fox on a blue background"
PLAIN = {"num_inference_steps": 3, "seed": 3, "sampler": {"key": "ddim", "eta": 0.5}, "guidance": {"key": "cfg", "guidance_scale": 5}}
FLAGS = ["--steps", "3", "--seed", "3", "--sampler", "ddim,eta=0.5", "--guidance", "cfg,guidance_scale=5"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One request, as each door takes it; every callable is given the folder with `picture.png` and `mask.png`.

    Attributes:
        task: key of the task table.
        values: for the task, as the page submits them.
        endpoint: name and arguments for gradio_client.
        command: arguments of `python -m studio`, less `--out`.
        suffix: of the command's file.
    """

    task: str
    values: Callable[[Path], dict[str, Any]]
    endpoint: Callable[[Path], tuple[str, list[Any]]]
    command: Callable[[Path], list[str]]
    suffix: str = ".png"


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


EDIT = {"num_inference_steps": 3, "seed": 3}
ROWS = {
    "text to image": Row(
        "text_to_image", lambda _: {**PLAIN, "prompt": FOX}, lambda _: ("generate", [FOX, PLAIN]), lambda _: ["generate", FOX, *FLAGS]),
    "compare": Row(
        "compare",
        lambda _: {"base": {**PLAIN, "prompt": FOX}, "cells": [{"sampler": "unipc"}, {"seed": 4}], "equal": "steps", "reference": False},
        lambda _: ("compare", [FOX, {"base": PLAIN, "cells": [{"sampler": "unipc"}, {"seed": 4}], "equal": "steps", "reference": False}]),
        lambda _: ["compare", FOX, *FLAGS, "--cell", "sampler=unipc", "--cell", "seed=4", "--reference-steps", "0"]),
    "edit with an inversion": Row(
        "edit",
        lambda at: {"base": {**EDIT, "prompt": "a cat on a blue background"}, "picture": (at / "picture.png").read_bytes(),
                    "source_prompt": FOX, "edit": "replace", "inversion": "edict"},
        lambda at: ("edit", ["a cat on a blue background", encoded(at / "picture.png"),
                             {"base": EDIT, "source_prompt": FOX, "edit": "replace", "inversion": "edict"}]),
        lambda at: ["edit", "a cat on a blue background", "--steps", "3", "--seed", "3", "--picture", str(at / "picture.png"),
                    "--source-prompt", FOX, "--edit", "replace", "--inversion", "edict"]),
    "edit inside a mask": Row(
        "edit",
        lambda at: {"base": {**EDIT, "prompt": FOX}, "edit": "inpaint",
                    **{name: (at / f"{name}.png").read_bytes() for name in ("picture", "mask")}},
        lambda at: ("edit", [FOX, encoded(at / "picture.png"), {"base": EDIT, "edit": "inpaint", "mask": encoded(at / "mask.png")}]),
        lambda at: ["edit", FOX, "--steps", "3", "--seed", "3", "--picture", str(at / "picture.png"), "--mask", str(at / "mask.png"),
                    "--edit", "inpaint"]),
    "quantize": Row(
        "quantize",
        lambda _: {"base": {**PLAIN, "prompt": FOX}, "variants": ["int8", {"key": "int4", "group_size": 32}], "measure": False},
        lambda _: ("quantize", [FOX, {"base": PLAIN, "variants": ["int8", {"key": "int4", "group_size": 32}], "measure": False}]),
        lambda _: ["quantize", FOX, *FLAGS, "--with", "int8", "--with", "int4,group_size=32", "--no-measure"]),
}
"""A row for each thing that can be asked for at all three doors."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    with Image.open(EMOJI) as opened:
        opened.convert("RGB").resize((64, 64)).save(folder / "picture.png")
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((16, 16, 40, 40), fill=255)
    mask.save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("task")
    studio = Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu"))
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from gradio_client import Client

    with serving(tmp_path_factory.mktemp("endpoint")) as server:
        client = Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))
        yield client
        client.close()


def pixels(paths) -> list[bytes]:
    """The pictures' pixels, in an order of their own."""
    found = []
    for path in paths:
        with Image.open(path) as picture:
            found.append(np.asarray(picture).tobytes())
    return sorted(found)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_three_doors_give_the_same_pixels(row, inputs, studio, client, tmp_path):
    job = studio.submit(row.task, row.values(inputs))
    view = job.view()
    while not view.status.final:
        view = job.wait(view.version, 60)
    assert view.status.value == "done", view.message
    by_task = pixels(studio.store.get(result).path for cell in view.cells for result in cell.results)

    name, arguments = row.endpoint(inputs)
    answer = client.predict(*arguments, api_name=f"/{name}")
    by_endpoint = pixels(answer["images"])

    command, *more = row.command(inputs)
    out = tmp_path / f"out{row.suffix}"
    folders = ["--outputs-folder", str(tmp_path / "outputs"), "--models-folder", str(tmp_path / "models")]
    assert main([*folders, command, *more, "--out", str(out)]) == 0
    by_command = pixels(record.path for record in Store(tmp_path / "outputs").list(limit=100))

    assert by_task and by_task == by_endpoint == by_command
    if len(by_task) == 1:
        assert pixels([out]) == by_task
