"""A search through the studio: its population, its best when it is stopped, its file replayed, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import ModelMissingError, SettingsError
from studio import infotext
from studio.api.running import describe_progress
from studio.backend import Studio, StudioSettings
from studio.jobs.job import JobStatus
from studio.safety.people import People
from studio.tasks.runs.search import sources_of
from studio.ui.population import build_curve
from studio.ui.presentation import list_progress_parts
from studio.ui.result_actions import as_one_picture
from studio.ui.viewer import ViewerRenderer
from tests.pipelines.tiny_models import tiny_sd
from tests.studio.waiting import ended

BASE = {
    "model": "tiny",
    "prompt": "a red fox",
    "seed": 5,
    "num_inference_steps": 4,
    "width": 32,
    "height": 32,
    "sampler": "ddim",
    "schedule": "uniform",
    "guidance": {"key": "cfg", "guidance_scale": 4.0},
    "search": {"key": "random", "budget": 48, "together": 2},
    "reward": "sharpness",
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    tiny_sd(models / "tiny")
    studio = Studio(
        StudioSettings(outputs=tmp_path_factory.mktemp("outputs"), models=models, device="cpu", memory_budget=2**30)
    )
    yield studio
    studio.close()


def generate(studio, **changes):
    return ended(studio.submit("text_to_image", {**BASE, **changes}))


def picture_of(studio, view) -> np.ndarray:
    (result,) = view.cells[0].results
    with Image.open(studio.store.get(result).path) as picture:
        return np.array(picture)


def test_a_search_stores_its_best_with_its_settings_and_the_file_alone_makes_it_again(studio):
    job = studio.submit("text_to_image", BASE)
    view = ended(job)
    assert view.status is JobStatus.DONE
    population, figures = view.population, view.cells[0].figures
    assert (population.judged, population.spent, population.budget) == (6, 48, 48)
    assert figures["evaluations"] == 48
    assert figures["search"]["picture"] == population.best.name
    assert population.best.reward == max(picture.reward for picture in population.latest)
    assert [reward for _, reward in population.curve] == sorted(reward for _, reward in population.curve)
    image = picture_of(studio, view)
    assert (image == population.best.image).all()
    restored = studio.read_picture(str(studio.store.get(view.cells[0].results[0]).path))
    assert restored.values["search"]["budget"] == 48
    again = ended(studio.submit("text_to_image", {**restored.values, "model": "tiny"}))
    assert (picture_of(studio, again) == image).all()
    seed = int(population.best.name.removeprefix("seed "))
    alone = generate(studio, search="none", seed=seed)
    assert abs(picture_of(studio, alone).astype(int) - image).max() <= 1  # a batch of another size
    assert describe_progress(view, job)["search"]["best"]["reward"] == population.best.reward


def test_a_stopped_search_keeps_its_best_and_its_file_replays_to_there(studio):
    job = studio.submit("text_to_image", {**BASE, "search": {"key": "random", "budget": 20_000, "together": 2}})
    while job.view().population is None or job.view().population.judged < 6:
        job.wait(job.view().version, 5)
    job.cancel()
    view = ended(job)
    assert view.status is JobStatus.CANCELLED
    record = studio.store.get(view.cells[0].results[0])
    assert record.metadata["figures"]["search"]["stopped"]
    assert record.metadata["request"]["search"]["stopped_after"] == view.population.judged
    again = ended(studio.submit("text_to_image", record.metadata["request"]))
    assert again.status is JobStatus.DONE
    assert again.population.spent == view.population.spent < 20_000
    assert (picture_of(studio, again) == picture_of(studio, view)).all()
    assert list_progress_parts(view)[0] == "Stopped, the best is kept"


def test_a_search_stopped_before_any_picture_is_a_stopped_job_without_results(studio):
    job = studio.submit("text_to_image", {**BASE, "search": {"key": "random", "budget": 800}})
    job.cancel()
    view = ended(job)
    assert view.status is JobStatus.CANCELLED
    assert not view.cells or not view.cells[0].results


def test_the_viewer_shows_the_population_with_rewards_and_the_budget(studio):
    job = studio.submit("text_to_image", BASE)
    view = ended(job)
    render = ViewerRenderer(studio, "t2i", job)
    running = render(dataclasses.replace(view, status=JobStatus.RUNNING, cells=(
        dataclasses.replace(view.cells[0], results=(), images=None),
    )))  # fmt: skip
    assert running["t2i-hero"]["src"].startswith("data:image/")
    assert running["t2i-batch"]["html"].count("<button") == 6
    assert "48 of 48 evaluations" in running["t2i-progress"]["html"]
    finished = render(view)
    assert finished["t2i-hero"]["file"]
    assert 'data-file="' in finished["t2i-batch"]["html"].split("</button>")[0]
    assert finished["t2i-batch"]["html"].count('aria-pressed="true"') == 1
    assert "<polyline" in build_curve(view.population)
    alone = view.population.best.name.removeprefix("seed ")
    assert finished["t2i-hero"]["data-seed"] == alone and f"<dd>{alone}</dd>" in finished["t2i-figures"]["html"]
    values, words = as_one_picture(BASE | {"search": {"key": "random"}}, view.cells[0].figures)
    assert (values["search"], str(values["seed"]), words) == ({"key": "none"}, alone, "")
    job.let_pictures_go()
    assert "t2i-hero" in render(job.view())


def test_a_picture_that_no_seed_alone_makes_says_so_and_has_none_to_copy(studio):
    job = studio.submit("text_to_image", {**BASE, "search": {"key": "zero_order", "budget": 48, "neighbors": 2}})
    view = ended(job)
    assert view.population.best.name.startswith("round") and view.population.best.seed is None
    finished = ViewerRenderer(studio, "t2i", job)(view)
    assert finished["t2i-hero"]["data-seed"] is None and "No seed alone makes it" in finished["t2i-figures"]["html"]
    assert "no seed alone" in as_one_picture(BASE, view.cells[0].figures)[1]


def test_a_search_travels_in_the_parameters_text(studio):
    view = generate(studio, reward={"key": "color", "color": "#00ff00"})
    record = studio.store.get(view.cells[0].results[0])
    with Image.open(record.path) as picture:
        text = picture.info["parameters"]
    assert "Search:" in text
    restored = infotext.read_texts({"parameters": text})
    assert restored.values["search"]["key"] == "random"
    assert restored.values["reward"]["color"] == "#00ff00"
    plain = generate(studio, search="none")
    with Image.open(studio.store.get(plain.cells[0].results[0]).path) as picture:
        assert "Search:" not in picture.info["parameters"]


def test_a_picture_of_the_gallery_is_a_goal_for_who_may_see_it(studio):
    view = generate(studio, search="none", seed=9)
    name = view.cells[0].results[0]
    similar = {"reward": {"key": "similarity", "picture": name}, "seed": 7}
    found = generate(studio, **similar)
    assert found.population.best.name == "seed 9"
    assert found.population.best.reward > 40  # its own picture but for the batch's size
    people, studio.people = studio.people, People(are_separate=True)
    try:
        with pytest.raises(SettingsError, match="There is no result"):
            sources_of(studio, "login somebody").find_picture(name)
    finally:
        studio.people = people


def test_what_cannot_be_searched_is_refused_before_it_queues(studio):
    cases = [
        ({"search": {"key": "random", "budget": 7}}, "of which one picture takes 8"),
        ({"search": {"key": "random", "budget": 30_000}}, "from 1 to 20000"),
        ({"batch_size": 2}, "batch size is 2"),
        ({"search": {"key": "fk_steering"}}, "needs fresh noise"),
        ({"search": {"key": "rollover"}}, "diffusion model"),
        ({"reward": "adherence"}, "cannot judge by this prompt"),
        ({"reward": {"key": "similarity", "picture": "nothing"}}, "There is no result"),
        ({"search": "best"}, "Unknown search"),
    ]
    for changes, sentence in cases:
        with pytest.raises(SettingsError, match=sentence):
            studio.submit("text_to_image", {**BASE, **changes})
    with pytest.raises(ModelMissingError, match="rewards/clip"):
        studio.submit("text_to_image", {**BASE, "reward": "clip"})
    for task, values in (("compare", {"base": BASE, "cells": [{}, {"seed": 2}]}), ("convergence", {"base": BASE})):
        with pytest.raises(SettingsError, match="does not search"):
            studio.submit(task, values)
