"""Programs at the studio's doors: named endpoints through gradio_client, and the command line."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HOME": str(home),
        "XDG_DATA_HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }


@pytest.fixture(scope="module")
def url(server):
    return server.url


@pytest.fixture
def client(url):
    from gradio_client import Client

    client = Client(url, verbose=False)
    yield client
    client.close()


SETTINGS = {"num_inference_steps": 5, "seed": 3}
ADDRESS = "http://127.0.0.1:7860"
"""Of the example in docs/api.md; only this is changed before it is run."""


@pytest.mark.parametrize("schedule", ["learned", {"key": "learned", "name": "emoji-dpmpp-2m-6-bespoke"}])
def test_a_learned_schedule_runs_and_the_file_says_which(client, schedule):
    result = client.predict(
        "a fox on a blue background",
        settings={"num_inference_steps": 6, "seed": 3, "schedule": schedule},
        api_name="/generate",
    )
    assert result["status"] == "done", result
    with Image.open(result["images"][0]) as image:
        saved = json.loads(image.info["stepwise"])["metadata"]["request"]
    assert saved["schedule"] == {"key": "learned", "name": "emoji-dpmpp-2m-6-bespoke"}


def test_the_pages_example_runs_as_it_stands(url, capsys):
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    example, streamed = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert example.count(ADDRESS) == 1
    names: dict = {}
    exec(example.replace(ADDRESS, url), names)
    result = names["result"]
    assert result["status"] == "done"
    assert capsys.readouterr().out.splitlines()[-1] == f"{result['images'][0]} {result['cells'][0]['figures']}"
    exec(streamed, names)
    names["client"].close()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "data:" in line]
    assert lines and all(pictures == ["data:image/png;base64,"] * 2 for _, *pictures in lines)
    assert names["progress"]["status"] == "done" and "previews" not in names["progress"]
    assert result["cells"][0]["figures"]["evaluations"] == 40
    with Image.open(result["images"][0]) as image:
        assert "Steps: 20" in image.info["parameters"] and "Seed: 7" in image.info["parameters"]


def test_a_program_gets_the_picture_as_a_file_with_its_settings(client):
    result = client.predict("a fox on a blue background", settings=SETTINGS, api_name="/generate")
    assert result["status"] == "done"
    (path,) = result["images"]
    with Image.open(path) as image:
        assert image.size == (64, 64)
        assert "Steps: 5" in image.info["parameters"]
    assert result["cells"][0]["figures"]["evaluations"] == 10


def test_every_step_can_be_watched(client):
    job = client.submit(
        "a panda on a pink background", settings={**SETTINGS, "num_inference_steps": 60}, api_name="/generate"
    )
    steps = [update["step"] for update in job]
    assert steps == sorted(steps)
    assert len({step for step in steps if 0 < step < 60}) >= 3


def test_a_job_is_cancelled_by_its_id(client):
    job = client.submit("a panda", settings={**SETTINGS, "num_inference_steps": 200}, api_name="/generate")
    for update in job:
        if update["step"] > 1:
            client.predict(update["job"], api_name="/cancel")
        last = update
    assert last["status"] == "cancelled"
    assert last["images"] == []


@pytest.mark.parametrize(
    ("prompt", "settings", "words"),
    [
        ("", {}, "prompt is empty"),
        ("x" * 10_000, {}, "10000 characters"),
        ("a fox", {"num_inference_steps": 0}, "from 1 to 200"),
        ("a fox", {"num_inference_steps": 10**6}, "from 1 to 200"),
        ("a fox", {"width": 63, "height": 64}, "multiples of"),
        ("a fox", {"width": 10**5}, "width"),
        ("a fox", {"model": "../../etc"}, "Unknown model"),
        ("a fox", {"model": "http://127.0.0.1:1/x.safetensors"}, "Unknown model"),
        ("a fox", {"sampler": "flow_euler"}, "does not fit"),
        ("a fox", {"loras": ["/etc/passwd"]}, "no LoRA"),
        ("a fox", {"nonsense": 1}, "Unknown setting"),
    ],
)
def test_bad_input_gets_one_sentence(client, prompt, settings, words):
    with pytest.raises(Exception, match=words) as caught:
        client.predict(prompt, settings=settings, api_name="/generate")
    assert "Traceback" not in str(caught.value)


def test_compare_returns_figures_for_each_cell(client):
    cells = [{"sampler": "ddim"}, {"sampler": "dpmpp_2m"}, {"sampler": "heun"}]
    result = client.predict(
        "a fox on a blue background",
        settings={"base": SETTINGS, "cells": cells, "reference_steps": 20},
        api_name="/compare",
    )
    assert result["status"] == "done"
    assert [cell["figures"]["evaluations"] for cell in result["cells"][:3]] == [10, 10, 18]
    assert all(cell["figures"]["psnr"] > 5 for cell in result["cells"][:3])
    assert len(result["images"]) >= 3


@pytest.mark.slow
def test_fifty_people_at_once(url):
    from gradio_client import Client

    results, errors = [], []

    def person(seed: int) -> None:
        try:
            # Fifty copies of the page's configuration take seconds to send on two cores; the client waits for five.
            client = Client(url, verbose=False, httpx_kwargs={"timeout": 120})
            settings = {"num_inference_steps": 1, "seed": seed}
            results.append(
                (seed, client.predict("a fox on a blue background", settings=settings, api_name="/generate"))
            )
            client.close()
        except Exception as error:
            errors.append(error)

    people = [threading.Thread(target=person, args=(seed,)) for seed in range(50)]
    for one in people:
        one.start()
    for one in people:
        one.join(240)
    assert errors == []
    assert len(results) == 50
    pictures = {seed: np.asarray(Image.open(result["images"][0])).tobytes() for seed, result in results}
    assert len(set(pictures.values())) == 50  # everybody has a picture of their own


def run_studio(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "studio",
            "--outputs-folder",
            str(home / "outputs"),
            "--models-folder",
            str(home / "models"),
            *arguments,
        ],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_command_line_makes_the_same_picture_as_the_endpoint(client, tmp_path):
    done = run_studio(
        tmp_path,
        "generate",
        "a fox on a blue background",
        "--steps",
        "5",
        "--seed",
        "3",
        "--out",
        str(tmp_path / "fox.png"),
    )
    assert done.returncode == 0, done.stderr
    result = client.predict("a fox on a blue background", settings=SETTINGS, api_name="/generate")
    with Image.open(tmp_path / "fox.png") as ours, Image.open(result["images"][0]) as theirs:
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def run_here(home: Path, *arguments: str) -> int:
    """The same command in this process, which has imported everything."""
    return main(["--outputs-folder", str(home / "outputs"), "--models-folder", str(home / "models"), *arguments])


def test_the_command_line_compares_and_writes_a_table(tmp_path):
    axes = ("--x", "num_inference_steps=2|4", "--y", "sampler=ddim|unipc,order=2", "--reference-steps", "10")
    assert run_here(tmp_path, "compare", "a fox", "--seed", "3", *axes, "--out", str(tmp_path / "grid.csv")) == 0
    with (tmp_path / "grid.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len([row for row in rows if row]) >= 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "", "--out", "x.png"), "prompt is empty"),
        (("generate", "a fox", "--sampler", "hune", "--out", "x.png"), "Unknown sampler"),
        (("generate", "a fox", "--sampler", "ddim,eta", "--out", "x.png"), "has no value"),
    ],
)
def test_the_command_line_says_what_is_wrong_and_returns_2(tmp_path, arguments, words, capsys):
    assert run_here(tmp_path, *arguments) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
