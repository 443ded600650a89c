"""A seed of -1, null or nothing is drawn: once for all that a request makes, told in the answer, kept in the file."""

from __future__ import annotations

import pytest
from PIL import Image

from studio.backend import Studio, StudioSettings
from studio.cli.main import main
from studio.tasks import TASKS
from studio.tasks.seeds import draw_omitted_seeds, get_seed
from tests.studio.waiting import ended

RANDOM = [{}, {"seed": None}, {"seed": -1}]
BASED = ["compare", "convergence", "edit", "upscale", "animate", "quantize"]


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("seeds")
    studio = Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu"))
    yield studio
    studio.close()


@pytest.mark.parametrize("said", RANDOM)
def test_a_seed_that_is_not_given_is_drawn_told_and_stored(studio, said):
    values = {"prompt": "a fox", "num_inference_steps": 1, **said}
    jobs = [studio.submit("text_to_image", values) for _ in range(3)]
    seeds = [get_seed(job.request) for job in jobs]
    assert len(set(seeds)) == 3 and all(0 <= seed < 2**32 for seed in seeds)
    for job, seed in zip(jobs, seeds, strict=True):
        (result,) = ended(job).cells[0].results
        assert studio.store.get(result).metadata["request"]["seed"] == seed


@pytest.mark.parametrize("said", RANDOM)
@pytest.mark.parametrize("task", BASED)
def test_the_seed_is_drawn_where_the_endpoint_puts_the_prompt(task, said):
    values = {"base": {"prompt": "a fox", **said}, "other": 1}
    seeds = {draw_omitted_seeds(TASKS[task], values)["base"]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert values == {"base": {"prompt": "a fox", **said}, "other": 1}


@pytest.mark.parametrize("said", RANDOM)
def test_cells_of_a_comparison_begin_from_one_noise(studio, said):
    values = {"base": {"prompt": "a fox", "num_inference_steps": 1, **said}, "cells": [{"sampler": "ddim"}, {}]}
    job = studio.submit("compare", {**values, "reference": False})
    seeds = {job.request.base.seed, *(cell.request.seed for cell in job.request.cells)}
    assert len(seeds) == 1 and seeds != {0}
    ended(job)


def test_a_seed_that_is_given_stays_and_a_second_noise_is_drawn_where_there_is_one():
    task = TASKS["text_to_image"]
    assert draw_omitted_seeds(task, {"prompt": "a", "seed": 0})["seed"] == 0
    assert "variation_seed" not in draw_omitted_seeds(task, {"prompt": "a", "seed": 0})
    varied = {"prompt": "a", "seed": 0, "variation_strength": 0.5}
    assert len({draw_omitted_seeds(task, varied)["variation_seed"] for _ in range(3)}) == 3
    assert draw_omitted_seeds(task, {**varied, "variation_seed": 0})["variation_seed"] == 0


@pytest.mark.parametrize("values", [{}, {"base": 7}, {"base": {}}, {"base": {"prompt": ""}}, [], None])
def test_what_says_nothing_of_a_request_is_left_as_it_is(values):
    assert draw_omitted_seeds(TASKS["upscale"], values) == values
    assert draw_omitted_seeds(TASKS["learn"], values) == values and draw_omitted_seeds(TASKS["keep"], values) == values


def test_the_command_tells_the_seed_that_makes_the_picture_again(tmp_path, capsys):
    folders = ["--outputs-folder", str(tmp_path / "outputs"), "--models-folder", str(tmp_path / "models")]

    def generate(name, *flags):
        out = tmp_path / name
        assert main([*folders, "generate", "a fox", "--steps", "1", "--out", str(out), *flags]) == 0
        return Image.open(out).tobytes(), capsys.readouterr().err

    picture, said = generate("first.png")
    (line,) = [line for line in said.splitlines() if line.startswith("Drawn at random: --seed ")]
    again, said = generate("again.png", "--seed", line.rpartition(" ")[2])
    assert again == picture and "Drawn at random" not in said
    assert generate("other.png")[0] != picture
