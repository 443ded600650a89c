"""Guidance that moves the latents by where words are seen: the stock pipeline's attend-and-excite, A-STAR's losses."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from diffusers import DDIMScheduler, StableDiffusionAttendAndExcitePipeline
from network_state import assert_unchanged, broken_at, state_of

from pipelines.core.errors import MethodFitError, PromptError
from pipelines.core.loop import denoise, denoise_together
from pipelines.core.prediction import Query
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.guidance import GUIDANCE
from pipelines.guidance.a_star import retention, segregation
from pipelines.guidance.attend_and_excite import neglect
from pipelines.guidance.attention_watch import AttentionWatch, cross_attentions
from pipelines.guidance.word_maps import choose_words, word_maps
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.workflows.compare.request import evaluations

KEYS = ["attend_and_excite", "a_star"]
MOVED = {"step_size": 2.0, "refinements": 2}


@pytest.fixture(scope="module")
def unet_pipe():
    return tiny_models.tiny_sd()


@pytest.fixture(scope="module")
def family(unet_pipe):
    return family_of(unet_pipe.components)


def request_of(key: str, settings: dict | None = None, **changes) -> Request:
    fields = {"prompt": "a red fox", "num_inference_steps": 4, "width": 32, "height": 32, "seed": 3}
    settings = {name: value for name, value in (settings or {}).items() if key != "a_star" or name != "refinements"}
    return Request(**{**fields, "guidance": Choice(key, settings), **changes})


def run(family, request: Request):
    return list(denoise(build_run(resolve(request, family), family)))


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of the stock pipeline
@pytest.mark.parametrize("refinements", [20, 0])
def test_attend_and_excite_equals_the_stock_pipeline(unet_pipe, family, refinements):
    names = ("vae", "text_encoder", "tokenizer", "unet")
    scheduler = DDIMScheduler.from_config(
        unet_pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    further = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    components = {name: unet_pipe.components[name] for name in names}
    stock = StableDiffusionAttendAndExcitePipeline(**components, scheduler=scheduler, **further)
    stock.set_progress_bar_config(disable=True)
    processors = dict(unet_pipe.unet.attn_processors)
    theirs = stock(
        "a red fox",
        [2, 3],
        height=32,
        width=32,
        num_inference_steps=5,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        max_iter_to_alter=3,
        thresholds={0: 0.05, 1: 0.5, 2: 0.8} if refinements else {},
        scale_factor=5.0,
        attn_res=(4, 4),
    ).images
    unet_pipe.unet.set_attn_processor(processors)
    settings = {"guidance_scale": 3.0, "step_size": 5.0, "share": 0.6, "refinements": refinements}
    request = request_of("attend_and_excite", settings, num_inference_steps=5, sampler=Choice("ddim", {"eta": 0.0}))
    step = run(family, request)[-1]
    assert torch.allclose(step.latents, theirs, atol=2e-4 * float(theirs.abs().max()))
    plain = run(family, request.replace(guidance=Choice("cfg", {"guidance_scale": 3.0})))[-1]
    assert not torch.allclose(step.latents, plain.latents, atol=1e-2)
    assert plain.evaluations + 3 <= step.evaluations <= evaluations(request, family.traits)


def test_a_word_that_is_seen_somewhere_lacks_nothing():
    maps = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    maps[0, 0, 1, 1] = maps[0, 1, 0, 2] = 1.0
    maps[1, 0, 1, 1], maps[1, 1, 2, 2] = 1.0, 0.25
    assert neglect(maps).tolist() == [0.0, 0.75]


def test_words_that_share_no_place_have_no_loss_and_equal_ones_a_half_a_pair():
    maps = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    maps[0, 0, 0, 0], maps[0, 1, 0, 1], maps[0, 2, 1, 1] = 0.3, 0.9, 0.2
    assert segregation(maps).tolist() == [0.0]
    assert segregation(torch.full((1, 3, 2, 2), 0.4, dtype=torch.float64)).item() == pytest.approx(1.5)
    assert segregation(maps[:, :1]).tolist() == [0.0]  # one word has nothing to be apart from
    masks = (maps > 0).double()
    assert retention(masks, masks).item() == pytest.approx(1.5)  # a half for each of the three words that stay
    assert retention(masks, 1 - masks).item() == pytest.approx(3.0)


def test_a_move_lessens_the_loss(family):
    run_in_progress = build_run(resolve(request_of("attend_and_excite"), family), family)
    guidance, level = run_in_progress.denoiser.guidance, run_in_progress.levels[0]

    def look(latents):
        asking = guidance.look(latents, level, neglect)
        query = next(asking)
        with torch.no_grad():
            prediction = run_in_progress.denoiser.answer(query)
        with pytest.raises(StopIteration) as end:
            asking.send(prediction)
        return end.value.value

    first = look(run_in_progress.latents)
    moved = look(run_in_progress.latents - 1e-2 * first.gradient / first.gradient.norm())
    expected = 1e-2 * float(first.gradient.norm())
    assert float(first.losses - moved.losses) == pytest.approx(expected, rel=0.1)


def test_a_watched_network_says_the_same_bit_for_bit(family):
    maps = []
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    query = Query(latents, family.noise_schedule.at(600.0))
    texts = family.encode_prompts("a red fox", "", 2, (32, 32))["positive"]
    with torch.no_grad():
        plain = family.predict_raw(query.latents, query.timesteps, texts)
        with AttentionWatch(cross_attentions, lambda layer, seen, grid: maps.append((seen, grid))).applied(family):
            watched = family.predict_raw(query.latents, query.timesteps, texts)
    assert torch.equal(plain, watched)
    assert len(maps) == len(cross_attentions(family.network))
    for seen, grid in maps:
        assert seen.shape[2] == grid[0] * grid[1]
        assert torch.allclose(seen.sum(-1), torch.ones_like(seen[..., 0]), atol=1e-5)
    words = word_maps(torch.full((1, 4, 4, 6), 1 / 6), [[1], [2, 3]])
    assert torch.allclose(words, torch.full_like(words, 0.25), atol=1e-6)  # even among four tokens that are no marks


@pytest.mark.parametrize("key", KEYS)
def test_the_network_is_as_it_was_after_finish_cancel_and_error(family, key):
    before = state_of(family.network)
    first = run(family, request_of(key, MOVED))[-1]
    assert_unchanged(family.network, before)
    for _ in denoise(build_run(resolve(request_of(key, MOVED), family), family)):
        break
    assert_unchanged(family.network, before)
    with broken_at(family.network, 1), pytest.raises(RuntimeError, match="broken"):
        run(family, request_of(key, MOVED))
    assert_unchanged(family.network, before)
    assert torch.equal(run(family, request_of(key, MOVED))[-1].latents, first.latents)
    assert all(parameter.grad is None for parameter in family.network.parameters())


@pytest.mark.parametrize("key", KEYS)
def test_moved_runs_advance_with_others_and_under_caches_and_samplers(family, key):
    requests = [
        request_of(key, MOVED),
        request_of("cfg", num_inference_steps=5),
        request_of(key, MOVED, seed=9, sampler=Choice("heun"), cache=Choice("deepcache", {"interval": 2})),
    ]
    last = {}
    for index, step in denoise_together([build_run(resolve(one, family), family) for one in requests]):
        last[index] = step
    for index, one in enumerate(requests):
        alone = run(family, one)[-1]
        assert torch.allclose(last[index].latents, alone.latents, atol=1e-3)
        assert last[index].evaluations == alone.evaluations


def test_words_are_those_that_were_named_or_all_but_the_small_ones(family):
    assert choose_words(" fox , red moon", ["a"]) == ["fox", "red moon"]
    assert choose_words("", ["A", "red", "fox,", "above", "the", "Moon", "fox"]) == ["red", "fox", "moon"]
    with pytest.raises(PromptError, match="no word"):
        choose_words("", ["a", "of"])
    with pytest.raises(PromptError, match="'moon', which is not in the prompt"):
        resolve(request_of("a_star", {"words": "moon"}), family)
    with pytest.raises(MethodFitError, match="same at every step"):
        resolve(request_of("a_star", prompt="a [red|blue] fox"), family)
    named = run(family, request_of("attend_and_excite", {**MOVED, "words": "red"}))[-1].latents
    assert not torch.equal(named, run(family, request_of("attend_and_excite", MOVED))[-1].latents)
    for key in KEYS:
        assert "no UNet" in GUIDANCE[key].fit(Traits("sd3", "flow", "transformer", "cfg"))
