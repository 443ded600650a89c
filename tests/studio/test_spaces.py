"""The app as a Space, and what a Space would reject in a folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from pipelines.core.errors import StepwiseError
from studio.server.spaces_check import find_problems, main, parse_front_matter

ROOT = Path(__file__).resolve().parents[2]
MATTER = {
    "title": "Stepwise",
    "emoji": "🪜",
    "colorFrom": "indigo",
    "colorTo": "pink",
    "sdk": "gradio",
    "sdk_version": '"6.31.0"',
    "python_version": '"3.12"',
    "app_file": "app.py",
    "short_description": "Watch every step",
    "suggested_hardware": "zero-a10g",
    "models": "[owner/name]",
    "tags": "[diffusion]",
}


@pytest.fixture
def space(tmp_path):
    """Writes a good folder with some settings changed; None leaves a setting out."""

    def write(**changes: str | None) -> Path:
        matter = {name: value for name, value in {**MATTER, **changes}.items() if value is not None}
        lines = "".join(f"{name}: {value}\n" for name, value in matter.items())
        (tmp_path / "README.md").write_text(f"---\n{lines}---\n# Stepwise\n", encoding="utf-8")
        (tmp_path / "app.py").write_text("print('hello')\n")
        (tmp_path / "requirements.txt").write_text(
            "torch>=2.8,<2.14  # any of these\ngradio>=6.31,<7\nnumpy\n-r more.txt\n"
        )
        return tmp_path

    return write


def test_a_good_folder_has_no_problem(space, capsys):
    assert find_problems(space()) == []
    assert main([str(space())]) == 0
    assert "Nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"title": None}, "title is missing"),
        ({"app_file": "main.py"}, "no such file"),
        ({"colorFrom": "teal"}, "Choose one of: red"),
        ({"sdk": "streamlit"}, "sdk is 'streamlit'"),
        ({"python_version": "3.10"}, "between quotation marks"),
        ({"python_version": '"3.11"'}, "ZeroGPU has 3.10 and 3.12"),
        ({"short_description": "x" * 61}, "has 61 characters"),
        ({"emoji": "x"}, "single emoji"),
        ({"sdk_version": '"5.0.0"'}, "the Space installs the latter"),
        ({"suggested_hardware": "gpu"}, "suggested_hardware is 'gpu'"),
        ({"models": "[https://huggingface.co/a/b]"}, "as owner/name"),
        ({"colourFrom": "red"}, "not a setting of a Space"),
        ({"title": '"unclosed'}, "cannot be read"),
    ],
)
def test_each_mistake_in_the_front_matter_is_told(space, changes, words):
    (told,) = find_problems(space(**changes))
    assert words in told


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("torch==2.13.0", "ZeroGPU has torch 2.8.0 to 2.11.0"),
        ("gradio==5.1", "the Space installs the latter"),
        ("torch=>2", "not a requirement"),
    ],
)
def test_a_requirement_that_a_space_cannot_meet_is_told(space, line, words):
    folder = space()
    (folder / "requirements.txt").write_text(line)
    (told,) = find_problems(folder)
    assert words in told


def test_a_missing_readme_and_a_broken_app_are_told(space):
    folder = space()
    (folder / "app.py").write_text("def broken(:\n")
    assert "not readable Python" in find_problems(folder)[0]
    (folder / "README.md").write_text("# no front matter\n")
    assert "no YAML block" in find_problems(folder)[0]
    (folder / "README.md").unlink()
    assert "There is no README.md" in find_problems(folder)[0]
    with pytest.raises(StepwiseError, match="There is no folder"):
        find_problems(folder / "nowhere")
    assert main([str(folder / "nowhere")]) == 2 and main([str(folder)]) == 1


def test_large_and_binary_files_belong_into_lfs_unless_the_hub_puts_them_there(space):
    folder = space()
    (folder / "large.txt").write_bytes(b"a" * (10 * 2**20 + 1))
    (folder / "weights.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    (folder / "words.txt").write_text(
        "ä" * 5000, encoding="utf-8"
    )  # text that ends in the middle of a letter at 8192 bytes
    large, binary = find_problems(folder)
    assert "large.txt has 10.0 MiB" in large and "weights.safetensors is a binary file" in binary
    assert find_problems(folder, uploaded=True) == []
    (folder / ".gitattributes").write_text(
        "*.safetensors filter=lfs diff=lfs merge=lfs -text\nlarge.txt filter=lfs -text\n"
    )
    assert find_problems(folder) == []


def test_this_repository_is_a_space():
    assert find_problems(ROOT, uploaded=True) == []
    matter = parse_front_matter((ROOT / "README.md").read_text(encoding="utf-8"))
    assert matter["app_file"] == "app.py" and len(matter["short_description"]) <= 60


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """`python app.py` as a CPU Space starts it: no flags, everything in the environment."""
    home = tmp_path_factory.mktemp("space")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "HOME": str(home),
        "STEPWISE_HOME": str(home),
        "TMPDIR": str(home),
        "SYSTEM": "spaces",
        "SPACE_ID": "ann/stepwise",
        "SPACE_HOST": "ann-stepwise.hf.space",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    log = home / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + 120
        while "runs at" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def ask(port: int, path: str, body: dict | None = None, **headers: str):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode() if body else None,
        {"Host": "ann-stepwise.hf.space", "X-Forwarded-Proto": "https", "Content-Type": "application/json", **headers},
    )
    return urllib.request.urlopen(request, timeout=120)


def test_a_cpu_space_serves_the_page_and_makes_pictures(running):
    with ask(running, "/") as page:
        assert "huggingface.co" in page.headers["content-security-policy"]
        assert b"https://ann-stepwise.hf.space" in page.read()
    data = {"data": ["a fox on a blue background", {"num_inference_steps": 2, "seed": 1}]}
    with ask(running, "/gradio_api/call/generate", data, Origin="https://ann-stepwise.hf.space") as began:
        event = json.load(began)["event_id"]
    with ask(running, f"/gradio_api/call/generate/{event}") as stream:
        kind, told = stream.read().decode().strip().split("\n\n")[-1].split("\n")
    assert kind == "event: complete"
    (result,) = json.loads(told.removeprefix("data: "))
    assert result["status"] == "done" and result["images"]


def test_a_space_refuses_pages_of_others(running):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(running, "/gradio_api/call/generate", {"data": ["a fox", {}]}, Origin="https://evil.example")
