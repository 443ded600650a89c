"""Searches on tiny models: what they find, count, refuse and leave behind."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_models
import torch
from network_state import assert_unchanged, state_of

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, ModelMissingError, SettingsError
from pipelines.core.loop import denoise
from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.requests.encoding import decode
from pipelines.requests.search import check_search, resolve_search, run_search
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.rewards import REWARDS
from pipelines.rewards.base import RewardSources
from pipelines.search import SEARCHES
from pipelines.search.base import BACKWARD

KEYS = [key for key in SEARCHES if key != "none"]
STOCHASTIC = ("fk_steering", "doit", "beam")
ASCENTS = ("reno", "adjoint")


@pytest.fixture(scope="module")
def families():
    found = {name: family_of(getattr(tiny_models, f"tiny_{name}")().components) for name in ("sd", "sd3")}
    found["sd3"].max_sequence_length = 8
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return RewardSources(tmp_path_factory.mktemp("models"))


def name_of(key: str) -> str:
    return "sd3" if key == "rollover" else "sd"


def request_of(key: str, budget: int = 64, seed: int = 3, reward: str = "sharpness", **settings) -> Request:
    sampler = "euler_a" if key in STOCHASTIC else "flow_euler" if key == "rollover" else "ddim"
    return Request(
        prompt="a red fox",
        num_inference_steps=4,
        width=32,
        height=32,
        seed=seed,
        sampler=Choice(sampler),
        schedule=Choice("shift" if key == "rollover" else "uniform"),
        search=Choice(key, {"budget": budget, **settings}),
        reward=Choice(reward),
    )


def find(request, family, sources, cancelled=lambda: False):
    search, problem = resolve_search(request, family, sources, cancelled)
    return list(run_search(search, problem)), problem


@pytest.fixture
def counted(families):
    """Counts the rows that the networks evaluate."""
    rows = [0]

    def counting(family):
        original = family.predict_raw

        def predict_raw(latents, timesteps, conditioning):
            rows[0] += len(latents)
            return original(latents, timesteps, conditioning)

        return predict_raw

    for family in families.values():
        family.predict_raw = counting(family)
    yield rows
    for family in families.values():
        del family.predict_raw


@pytest.mark.parametrize("key", KEYS)
def test_a_search_spends_what_it_evaluates_within_its_budget_and_its_best_only_rises(families, sources, counted, key):
    family = families[name_of(key)]
    found, problem = find(request_of(key), family, sources)
    backward = 0 if key not in ASCENTS else BACKWARD * 8 * sum("iteration" in one.best.name for one in found)
    spent = [one.spent for one in found]
    assert problem.spent <= 64
    assert spent == sorted(spent)
    if key in ASCENTS:
        iterations = (problem.spent - counted[0]) / BACKWARD / 8  # what was not evaluated are backward passes
        assert iterations == int(iterations) > 0
        assert backward
    else:
        assert problem.spent == counted[0]
    finished = [one.best.reward for one in found if one.best.finished]
    assert finished
    assert finished == sorted(finished)
    rewards = [candidate.reward for one in found for candidate in one.candidates if candidate.finished]
    assert finished[-1] == max(rewards)
    assert found[-1].judged == sum(len(one.candidates) for one in found)


@pytest.mark.parametrize("key", KEYS)
def test_a_search_found_again_is_the_same_and_one_that_was_stopped_replays_by_where_it_ended(families, sources, key):
    family = families[name_of(key)]
    whole, _ = find(request_of(key), family, sources)
    again, _ = find(request_of(key), family, sources)
    assert (again[-1].best.image == whole[-1].best.image).all()
    middle = whole[len(whole) // 2]
    ended, _ = find(request_of(key, stopped_after=middle.judged), family, sources)
    assert len(ended) == len(whole) // 2 + 1
    assert (ended[-1].spent, ended[-1].best.name) == (middle.spent, middle.best.name)
    assert (ended[-1].best.image == middle.best.image).all()


@pytest.mark.parametrize("key", KEYS)
def test_a_search_that_is_stopped_or_fails_leaves_the_network_as_it_was(families, sources, key):
    family = families[name_of(key)]
    before = state_of(family.network)
    decoder = state_of(family.vae)
    asked = [0]

    def cancelled():
        asked[0] += 1
        return asked[0] > 5

    with pytest.raises(Cancelled):
        find(request_of(key), family, sources, cancelled)
    assert_unchanged(family.network, before)
    assert_unchanged(family.vae, decoder)
    assert not any(parameter.grad is not None for parameter in family.network.parameters())
    assert torch.is_grad_enabled()


def test_a_search_for_one_picture_is_the_plain_run_bit_for_bit(families, sources):
    family = families["sd"]
    request = request_of("random", budget=8)
    *_, step = denoise(build_run(resolve(request.replace(search=Choice("none")), family), family))
    plain = decode(family, step.latents)[0]
    for key in ("random", "zero_order", "find", "boundary", "vendi"):
        found, _ = find(request_of(key, budget=8), family, sources)
        assert (found[-1].best.image == plain).all()


def test_a_picture_of_the_random_search_is_its_seed_s_own(families, sources):
    family = families["sd"]
    found, _ = find(request_of("random", budget=40, together=3), family, sources)
    seed = int(found[-1].best.name.split()[-1])
    assert seed == max(range(3, 8), key=lambda one: next(
        candidate.reward for step in found for candidate in step.candidates if candidate.name == f"seed {one}"
    ))  # fmt: skip
    alone, _ = find(request_of("random", budget=8, seed=seed), family, sources)
    assert abs(alone[-1].best.image.astype(int) - found[-1].best.image).max() <= 1  # a batch of another size


def test_searches_without_their_own_part_are_best_of_n(families, sources):
    family = families["sd"]
    plain, _ = find(request_of("random", together=1), family, sources)
    for key, settings in (("boundary", {}), ("vendi", {"scale": 0.0})):
        found, _ = find(request_of(key, **settings), family, sources)
        assert [one.best.seed for one in found] == [one.best.seed for one in plain]
        assert (found[-1].best.image == plain[-1].best.image).all()


def test_a_boundary_noise_has_the_best_mean_of_all_prompts_and_each_is_paid_for(families, sources):
    family, prompts = families["sd"], ("a blue cat", "a house")
    found, problem = find(request_of("boundary", budget=100, prompts="; ".join(prompts)), family, sources)
    assert problem.spent == 96 and found[-1].judged == 4
    means = {}
    for seed in range(3, 7):
        rewards = []
        for prompt in ("a red fox", *prompts):
            (alone, *_), _ = find(request_of("random", budget=8, seed=seed).replace(prompt=prompt), family, sources)
            rewards.append(alone.best.reward)
        means[seed] = sum(rewards) / 3
    assert found[-1].best.seed == max(means, key=means.get)
    assert found[-1].best.reward == pytest.approx(max(means.values()), rel=1e-4)
    with pytest.raises(SettingsError, match="at least 24"):
        check_search(request_of("boundary", budget=20, prompts="; ".join(prompts)), None, sources)


def test_the_first_of_pictures_that_are_led_apart_is_the_seeds_own_and_the_others_are_not(families, sources):
    drawn = []
    for scale in (1.0, 0.0):
        found, _ = find(request_of("vendi", budget=24, every=1, scale=scale), families["sd"], sources)
        drawn.append([candidate for one in found for candidate in one.candidates])
    apart, plain = drawn
    assert (apart[0].image == plain[0].image).all() and apart[0].seed == 3
    assert (apart[1].image != plain[1].image).any() and apart[1].seed is None
    with pytest.raises(SettingsError, match="give the id of a result"):
        check_search(request_of("vendi", context="none such"), None, sources)


@pytest.mark.parametrize("key", ["fk_steering", "doit"])
def test_equal_rewards_leave_a_run_as_it_is_bit_for_bit(families, sources, key):
    family, count = families["sd"], 4 if key == "fk_steering" else 1
    request = request_of(key, budget=64)
    plain = request.replace(search=Choice("none"), batch_size=count)
    *_, step = denoise(build_run(resolve(plain, family), family))
    pictures = decode(family, step.latents)
    search, problem = resolve_search(request, family, sources)
    problem.builder._score = lambda images: torch.full((len(images),), 0.7)
    ended = next(one for one in run_search(search, problem) if one.candidates[0].finished)
    assert len(ended.candidates) == count
    for candidate, picture in zip(ended.candidates, pictures, strict=True):
        assert (candidate.image == picture).all()


def test_one_beam_of_one_way_and_a_drift_of_no_scale_are_the_plain_run(families, sources):
    family = families["sd"]
    plain = request_of("beam").replace(search=Choice("none"))
    *_, step = denoise(build_run(resolve(plain, family), family))
    picture = decode(family, step.latents)[0]
    for key, settings in (("beam", {"beams": 1, "branches": 1}), ("doit", {"scale": 0.0})):
        found, _ = find(request_of(key, budget=8, **settings), family, sources)
        assert (found[-1].best.image == picture).all()


def test_find_without_a_learning_rate_is_the_best_of_n(families, sources):
    family = families["sd"]
    still, _ = find(request_of("find", rate=0.0), family, sources)
    random, _ = find(request_of("random"), family, sources)
    assert [one.best.reward for one in still] == [one.best.reward for one in random]
    learned, _ = find(request_of("find", rate=2.0), family, sources)
    assert [one.best.reward for one in learned] != [one.best.reward for one in random]


@pytest.mark.parametrize("key", ASCENTS)
def test_an_ascent_without_a_rate_stays_and_a_small_one_rises(families, sources, key):
    family = families["sd"]
    budget = 160
    rewards = {}
    for rate in (0.0, 1.0):
        found, _ = find(request_of(key, budget=budget, rate=rate, regularization=0.0), family, sources)
        rewards[rate] = [one.candidates[0].reward for one in found]
    assert len(set(rewards[0.0])) == 1
    assert rewards[1.0][-1] > rewards[1.0][0] == rewards[0.0][0]


def test_reno_follows_the_same_gradient_as_the_adjoint_does(families, sources):
    family = families["sd"]
    runs = [find(request_of(key, budget=64, momentum=0.0), family, sources)[0] for key in ASCENTS]
    first, second = ([one.candidates[0].reward for one in run][:2] for run in runs)
    assert first == pytest.approx(second, rel=1e-4)


def test_what_contradicts_a_search_is_refused_in_a_sentence(families, sources):
    traits = families["sd"].traits
    cases = [
        (request_of("random", budget=7), "of which one picture takes 8"),
        (request_of("fk_steering", budget=31), "at least 32"),
        (request_of("random").replace(batch_size=2), "The batch size is 2"),
        (request_of("random").replace(second_pass=Choice("latent")), "no second pass"),
        (request_of("random").replace(made_like=Choice("a1111_cpu")), "own rules only"),
        (request_of("fk_steering").replace(sampler=Choice("ddim")), "needs fresh noise in each step, and DDIM draws"),
        (request_of("fk_steering").replace(cache=Choice("deepcache")), "Set Cache to No cache"),
        (request_of("paths").replace(start=Choice("short_time")), "cannot begin with"),
        (request_of("paths").replace(num_inference_steps=2), "at least 3 steps"),
        (request_of("reno").replace(num_inference_steps=9), "at most 8 steps"),
        (request_of("reno", reward="jpeg_size"), "JPEG size has none"),
        (request_of("adjoint").replace(sampler=Choice("dpmpp_2m")), "first-order steps"),
        (request_of("rollover").replace(sampler=Choice("dpmpp_2m")), "Flow Euler"),
        (request_of("adjoint").replace(guidance=Choice("attend_and_excite")), "moves nothing"),
        (request_of("adjoint").replace(guidance=Choice("apg")), "or a momentum of 0"),
        (request_of("adjoint").replace(guidance=Choice("residual")), "remembers earlier steps"),
        (request_of("adjoint").replace(guidance=Choice("adaptive")), "remembers earlier steps"),
        (request_of("find").replace(variation_strength=0.5), "variation"),
        (request_of("random", reward="adherence"), "cannot judge by this prompt"),
    ]
    for request, sentence in cases:
        with pytest.raises(SettingsError, match=sentence):
            check_search(request, traits, sources)
    with pytest.raises(ModelMissingError, match="rewards/pickscore"):
        check_search(request_of("random", reward="pickscore"), traits, sources)
    with pytest.raises(MethodFitError, match="diffusion model"):
        find(
            request_of("rollover").replace(sampler=Choice("ddim"), schedule=Choice("uniform")), families["sd"], sources
        )
    with pytest.raises(SettingsError, match="does not search"):
        resolve(request_of("random"), families["sd"])


def test_models_of_their_own_pipeline_and_compiled_ones_are_refused():
    traits = dataclasses.replace(family_of(tiny_models.tiny_sd().components).traits, backbone="pipeline")
    assert all("pipeline" in SEARCHES[key].fit(traits) for key in KEYS)
    compiled = dataclasses.replace(traits, backbone="unet", compiled=True)
    assert {key for key in KEYS if SEARCHES[key].fit(compiled)} == {*ASCENTS, "rollover"}
    assert REWARDS and all(parse_settings(SEARCHES[key].settings, {}, key).budget for key in KEYS)


@pytest.mark.parametrize("guidance", [Choice("apg"), Choice("residual", {"refresh": 2})])
def test_a_beam_that_looks_ahead_goes_on_as_if_it_had_not(families, sources, guidance):
    request = request_of("beam", budget=60, beams=1, branches=2, every=1).replace(guidance=guidance)
    search, problem = resolve_search(request, families["sd"], sources)
    problem.builder._score = lambda images: torch.zeros(len(images))  # the first way is kept: the picture of the seed
    ways = next(one.candidates for one in run_search(search, problem) if one.candidates[0].finished)
    alone = problem.judge(problem.finish(problem.run(problem.builder.draw(0, 1)))).name(["alone"])
    assert abs(ways[0].image.astype(int) - alone[0].image.astype(int)).max() <= 1


def test_a_rejected_candidate_of_rollover_leaves_no_trace_in_the_guidance(families, sources):
    """With the path's noise drawn again for the same candidate, the run is the one in which it alone was tried."""
    request = request_of("rollover", budget=64).replace(guidance=Choice("apg"))
    images = []
    for tries in (1, 4):
        search, problem = resolve_search(request, families["sd3"], sources)
        steps = search._try_steps

        def first_of(problem, run, prediction, index, quota, steps=steps, tries=tries):
            noise = run.noise
            drawn = noise(run.latents)
            run = dataclasses.replace(run, noise=lambda latents: drawn)
            for place, (_, answer, judged) in enumerate(steps(problem, run, prediction, index, 2.0 * tries)):
                yield -float(place), answer, judged  # all alike, the first is chosen

        search._try_steps = first_of
        found = [one for one in run_search(search, problem) if one.candidates[0].finished]
        images.append(found[0].candidates[0].image)
    assert (images[0] == images[1]).all()
