"""What a missing fitted file's message says to run makes the file, where the start then finds it."""

from __future__ import annotations

import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.core.errors import ModelMissingError, SettingsError, TrainingError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.initializations.fitted import (
    DENOISING_GAIN,
    NOISE_LEVEL,
    STATISTICS,
    TRANSPORT,
    load_denoising_gain,
    load_statistics,
    load_transport,
)
from pipelines.initializations.noise_classifier import load_noise_classifier
from pipelines.initializations.short_time import estimate_by_gaussian
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.training import data_statistics, denoising_gain, noise_level
from tests.pipelines.tiny_models import tiny_sd

SHORT = ["--steps", "3"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A models folder with one tiny model, and pictures of one color each with a little grain."""
    folder = tmp_path_factory.mktemp("fitted")
    tiny_sd(folder / "models" / "tiny", seed=1)
    generator = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for place in range(20):
        pixels = generator.integers(20, 230, 3) + generator.integers(-20, 20, (40, 48, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / f"{place:02}.png")
    return folder


@pytest.fixture
def folder(originals, tmp_path):
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run_with(folder, start):
    """The last step of a run of the tiny model with this start."""
    with Loader(ModelCache(10**9), Catalog(folder / "models"), device="cpu").model("tiny") as family:
        request = resolve(Request(model="tiny", prompt="a fox", start=Choice(start), num_inference_steps=4), family)
        *_, last = denoise(build_run(request, family))
    return last


@pytest.mark.parametrize(
    ("start", "module", "more"),
    [("gaussian", data_statistics, []), ("optimal_transport", data_statistics, []), ("mcmc", noise_level, SHORT)],
)
def test_the_command_of_the_message_makes_what_the_start_needs(folder, start, module, more):
    with pytest.raises(ModelMissingError) as refused:
        run_with(folder, start)
    words = shlex.split(re.search(r"python -m .*", str(refused.value))[0])
    assert words[2] == module.__spec__.name
    places = {"--pictures": str(folder / "pictures"), "--run-dir": str(folder / "run")}
    given = [places[words[at - 1]] if word == "FOLDER" else word for at, word in enumerate(words)][3:]
    assert not module.main([*given, "--models-folder", str(folder / "models"), *more])
    assert run_with(folder, start).latents.isfinite().all()


def test_the_statistics_are_those_of_the_pictures(folder):
    arguments = ["--model", "tiny", "--models-folder", str(folder / "models"), "--pictures", str(folder / "pictures")]
    assert data_statistics.main(arguments) == 0
    kept = folder / "models" / "starts" / "tiny"
    assert {path.name for path in kept.iterdir()} == {STATISTICS, TRANSPORT}
    with data_statistics.open_model("tiny", folder / "models") as (family, found):
        latents = data_statistics.latents_of_folder(folder / "pictures", family, 100)
    assert found == kept and len(latents) == 20
    statistics = load_statistics(kept / STATISTICS)
    torch.testing.assert_close(statistics.mean, latents.double().mean(0), rtol=1e-3, atol=1e-4)
    spread = (latents.double() - latents.double().mean(0)).flatten(1).square().sum() / 19
    assert float(statistics.variances.sum()) == pytest.approx(float(spread), rel=1e-3)
    points = load_transport(kept / TRANSPORT).points
    assert (
        torch.cdist(points.flatten(1), latents.flatten(1)).amin(1).max() < 0.02 * latents.flatten(1).norm(dim=1).max()
    )


def test_the_short_time_names_both_commands_and_the_gain_is_that_of_the_models_estimates(folder):
    arguments = ["--model", "tiny", "--models-folder", str(folder / "models"), "--pictures", str(folder / "pictures")]
    assert denoising_gain.main(arguments) == 2  # the Gaussian comes first
    for module in (data_statistics, denoising_gain):
        with pytest.raises(ModelMissingError, match=module.__spec__.name):
            run_with(folder, "short_time")
        assert module.main(arguments) == 0
    assert run_with(folder, "short_time").latents.isfinite().all()
    kept = folder / "models" / "starts" / "tiny"
    gain = load_denoising_gain(kept / DENOISING_GAIN)
    with data_statistics.open_model("tiny", folder / "models") as (family, _):
        latents = data_statistics.latents_of_folder(folder / "pictures", family, 100)
        statistics = load_statistics(kept / STATISTICS)
        schedule, generator = family.noise_schedule, torch.Generator().manual_seed(0)
        conditioning = family.encode_texts({"positive": ""}, len(latents), family.default_size)["positive"]
        level = schedule.at(schedule.network_time(1.0))
        noisy = level.alpha * latents + level.sigma * torch.cat(
            [torch.randn(part.shape, generator=generator) for part in latents.split(16)]
        )
        with torch.no_grad():
            raw = family.predict_raw(noisy, torch.full((len(latents),), level.timestep), conditioning)
    assert gain.log_snr[0] == pytest.approx(2 * level.lam, rel=1e-6) and len(gain.gain) == 20
    estimates = estimate_by_gaussian(noisy, level, statistics), (noisy - level.sigma * raw) / level.alpha
    errors = [float((one - latents).square().flatten(1).sum(1).mean()) for one in estimates]
    # In batches of sixteen convolutions round otherwise, and the estimate divides by a small alpha.
    assert float(gain.gain[0]) == pytest.approx(errors[0] - errors[1], rel=1e-3)


def test_the_fit_tells_how_good_it_is(tmp_path):
    latents = torch.randn((64, 1, 2, 2), generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [3.0, 1, 0.1, 0.1]
    ).reshape(1, 2, 2)
    told = data_statistics.fit(latents, tmp_path, rank=2, points=8)
    assert told["latents"] == 64 and 0.99 < told["variance kept"] < 1
    assert 0.5 < told["least mass"] <= 1 <= told["most mass"] < 2
    assert len(load_transport(tmp_path / TRANSPORT).points) == 8


def test_a_classifier_learns_from_the_models_own_latents(folder):
    arguments = [
        "--run-dir",
        str(folder / "run"),
        "--model",
        "tiny",
        "--models-folder",
        str(folder / "models"),
        "--pictures",
        str(folder / "pictures"),
    ]
    noise_level.main([*arguments, "--steps", "120"])
    learned = load_noise_classifier(folder / "models" / "starts" / "tiny" / NOISE_LEVEL)
    with data_statistics.open_model("tiny", folder / "models") as (family, _):
        latents = data_statistics.latents_of_folder(folder / "pictures", family, 100)
    assert learned.shape == tuple(latents.shape[1:])
    torch.manual_seed(0)
    untrained = noise_level.NoiseClassifier(
        noise_level.NoiseLevelNetwork(latents.shape[1], 100), 0.03, 14.6, learned.shape
    )
    figures = [noise_level.measure(one, latents.repeat(20, 1, 1, 1))["median_error"] for one in (learned, untrained)]
    assert figures[0] < 0.5 * figures[1]


@pytest.mark.parametrize(
    "given",
    [
        ["--model", "tiny"],
        ["--pictures", "somewhere"],
        ["--model", "tiny", "--pictures", "somewhere", "--start", "other"],
    ],
)
def test_a_model_without_pictures_and_pictures_without_a_model_are_refused(tmp_path, given):
    with pytest.raises(TrainingError, match="belong together"):
        noise_level.main(["--run-dir", str(tmp_path), *given])
    assert not list(tmp_path.iterdir())


def test_too_few_pictures_and_an_unknown_model_are_refused(folder, capsys):
    for path in sorted((folder / "pictures").iterdir())[10:]:
        path.unlink()
    arguments = ["--models-folder", str(folder / "models"), "--pictures", str(folder / "pictures"), "--model"]
    with pytest.raises(SettingsError, match="There are 10 pictures"):
        noise_level.main(["--run-dir", str(folder / "run"), *arguments, "tiny"])
    assert data_statistics.main([*arguments, "tiny"]) == 2 and "There are 10 pictures" in capsys.readouterr().out
    assert data_statistics.main([*arguments, "none"]) == 2 and "Unknown model 'none'" in capsys.readouterr().out
