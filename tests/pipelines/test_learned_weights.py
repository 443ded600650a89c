"""A learned schedule and the weights that it was fitted to."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_sd

from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice
from pipelines.families import family_of
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.schedules.learned import LearnedSchedules
from pipelines.schedules.learned_file import SHIPPED, find_all, write_learned
from pipelines.weights.network_identity import network_identity
from tests.pipelines.learned_records import REQUEST, fitted, settle


@pytest.fixture
def folder(tmp_path):
    return tmp_path


class Loaded(torch.nn.Module):
    """A model as the identity sees it."""

    def __init__(self, value=1.0):
        super().__init__()
        self.network = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(self.network.weight, value)
        torch.nn.init.zeros_(self.network.bias)


def test_other_weights_under_the_same_key_are_refused(folder):
    first, other = Loaded(), Loaded(1.001)
    record = fitted(network=network_identity(first))
    name = write_learned(record, folder).stem
    assert settle(REQUEST, folder, lambda: network_identity(first)).name == name
    with pytest.raises(
        SettingsError,
        match=f"'{name}' was fitted to other weights than the model emoji has now. Fit it again with "
        "`python -m studio learn --model emoji --sampler unipc --steps 4`",
    ):
        settle(REQUEST, folder, lambda: network_identity(other))
    worse = fitted(network=network_identity(other), method="auto_diffusion", held_out={"uniform": 0.9, "fitted": 0.8})
    chosen = write_learned(worse, folder).stem
    assert settle(REQUEST, folder, lambda: network_identity(other)).name == chosen != name
    plain = REQUEST.replace(schedule=Choice("karras"))
    settle(plain, folder, lambda: pytest.fail("nothing was fitted"))


def test_a_name_of_weights_is_the_same_in_half_precision():
    loaded = Loaded()
    loaded.network.half()
    assert network_identity(loaded) == network_identity(Loaded()) != network_identity(Loaded(1.5))


def test_the_shipped_schedules_are_whole_and_better_than_uniform():
    shipped = find_all(SHIPPED)
    assert len(shipped) == len(list(SHIPPED.glob("*.json"))) > 0
    for name, one in shipped.items():
        assert name == one.name
        assert one.held_out["fitted"] < one.held_out["uniform"]


def test_a_run_is_assembled_only_on_the_weights_it_was_fitted_to(folder):
    family = family_of(tiny_sd().components)
    family.learned = LearnedSchedules((folder,))
    write_learned(fitted(network=network_identity(family)), folder)
    resolved = resolve(REQUEST.replace(prompt="a fox", width=32, height=32), family)
    assert [step.level.timestep for step in denoise(build_run(resolved, family))] == [999, 710, 390, 95]
    assert resolved.request.schedule.settings["name"] == "emoji-unipc-4-ld3"
    with torch.no_grad():
        next(family.network.parameters()).mul_(1.5)
    with pytest.raises(SettingsError, match=r"other weights than the model emoji has now. Fit it again"):
        resolve(REQUEST.replace(prompt="a fox", width=32, height=32), family)


def test_a_run_tells_the_network_the_emphasized_prompts(folder, monkeypatch):
    family = family_of(tiny_sd().components)
    family.learned = LearnedSchedules((folder,))
    request = REQUEST.replace(prompt="a fox", negative_prompt="blurry", width=32, height=32)
    numbers = ((0.1,), (0.2, 0.3), (0.4, -0.5), (0.6,))
    write_learned(
        fitted(
            method="bespoke",
            branches=("negative", "positive"),
            model_times=(999.0, 700.0, 400.0, 90.0),
            single=(0, 3),
            evaluations=3,
            rows=((1.0, 0.1), *((1.0, *[0.1] * count) for count in (3, 5, 6))),
            network=network_identity(family),
            prompt_extrapolation=numbers,
        ),
        folder,
    )
    told, predict = [], family.predict_raw
    monkeypatch.setattr(
        family,
        "predict_raw",
        lambda latents, times, conditioning: (
            told.append(conditioning.tensors["prompt_embeds"]) or predict(latents, times, conditioning)
        ),
    )
    assert len(list(denoise(build_run(resolve(request, family), family)))) == 4
    prompts = family.encode_prompts("a fox", "blurry", 1, (32, 32))
    negative, positive = (prompts[name].tensors["prompt_embeds"][0] for name in ("negative", "positive"))
    for step, (one, by) in enumerate(zip(told, numbers, strict=True)):
        own = [positive] if step in (0, 3) else [negative, positive]
        torch.testing.assert_close(
            one, torch.stack([prompt + each * (positive - negative) for prompt, each in zip(own, by, strict=True)])
        )
