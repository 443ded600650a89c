"""Stories: scenes drawn together, that see each other exactly as far as they are told to, and leave nothing behind."""

from __future__ import annotations

import copy

import pytest
import torch

from pipelines.core.errors import MethodFitError, PromptError, SettingsError
from pipelines.core.loop import denoise
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.requests.limits import Limits, check_fit, check_request
from pipelines.requests.scenes import scene_of_story, with_scenes_counted
from pipelines.requests.text_to_image import build_run, one_of_batch, resolve
from pipelines.stories import STORIES
from pipelines.stories.base import SHARES, SharingNetwork
from pipelines.stories.consistent import look_at_others, sample_places
from tests.pipelines.network_state import assert_unchanged, broken_at, state_of
from tests.pipelines.tiny_models import tiny_flux, tiny_sd, tiny_sd3

SCENES = ["on a green field", "in a blue sea", "at night"]
EVERYTHING = {"consistent": {"sharing": 1.0, "layers": 1.0}, "style": {"attention": 1.0}}


@pytest.fixture(scope="module", params=["sd", "sd3", "flux"])
def family(request):
    tiny = {"sd": tiny_sd, "sd3": tiny_sd3, "flux": tiny_flux}
    return family_of(tiny[request.param]().components)


def story(key="consistent", scenes=SCENES, **settings):
    return Choice(key, {"scenes": "\n".join(scenes), **settings})


def request_of(**changes):
    values = {"model": "m", "prompt": "a fox", "width": 32, "height": 32, "num_inference_steps": 2, "seed": 4}
    return with_scenes_counted(Request(**{**values, **changes}))


def draw(family, **changes):
    *_, step = denoise(build_run(resolve(request_of(**changes), family), family))
    return step.latents


def evaluation(family, key, rows, **settings):
    """What a story's network says of these rows, in float64, and what the network says of each alone."""
    family = family_of({**family.components, family.network_name: copy.deepcopy(family.network).double()})
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, 8, 8, dtype=torch.float64, generator=generator)[rows]
    encoded = family.encode_texts({scene: scene for scene in SCENES}, 1, (32, 32))
    prompt = Conditioning.cat([encoded[SCENES[row]] for row in rows])
    built = STORIES[key].build({"scenes": "a\nb\nc", **EVERYTHING[key], **settings})
    network = SharingNetwork(family, built.control(family.network, len(rows), 0), len(rows))
    times = torch.full((len(rows),), 500.0)
    marked = Conditioning({**prompt.tensors, SHARES: torch.ones(len(rows))})
    before = state_of(family.network)
    with torch.no_grad():
        told, alone = network.predict_raw(latents, times, marked), network.predict_raw(latents, times, prompt)
    assert_unchanged(family.network, before)
    return told, alone


def tolerance(family):
    return 1e-6 if family.key == "flux" else 1e-12  # FLUX turns queries and keys in float32


@pytest.mark.parametrize("key", EVERYTHING)
def test_equal_pictures_that_see_all_of_each_other_are_what_each_is_alone(family, key):
    told, alone = evaluation(family, key, [1, 1, 1])
    torch.testing.assert_close(told, alone, rtol=0, atol=tolerance(family))


def test_pictures_that_see_all_of_each_other_have_no_order(family):
    told, alone = evaluation(family, "consistent", [0, 1, 2])
    turned, _ = evaluation(family, "consistent", [2, 0, 1])
    torch.testing.assert_close(turned, told[[2, 0, 1]], rtol=0, atol=tolerance(family))
    assert (told - alone).abs().amax((1, 2, 3)).min() > 1e-4


def test_the_first_picture_of_a_style_is_drawn_as_alone_and_the_others_are_not(family):
    told, alone = evaluation(family, "style", [0, 1, 2])
    torch.testing.assert_close(told[0], alone[0], rtol=0, atol=tolerance(family))
    assert (told[1:] - alone[1:]).abs().amax((1, 2, 3)).min() > 1e-4


def test_without_sharing_each_picture_is_the_one_drawn_alone(family):
    """Bit for bit the same run with nothing shared; alone, in another batch, the sums round otherwise."""
    latents = draw(family, story=story(sharing=0.0))
    for neutral in (story(layers=0.0), story(start=1.0), story("style", attention=0.0), story("style", start=1.0)):
        assert torch.equal(draw(family, story=neutral), latents)
    for index, scene in enumerate(SCENES):
        alone = draw(family, prompt=f"a fox {scene}", seed=4 + index)
        torch.testing.assert_close(latents[index : index + 1], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("key", EVERYTHING)
def test_a_story_of_one_scene_is_the_picture(family, key):
    one = draw(family, story=story(key, SCENES[:1]))
    assert torch.equal(one, draw(family, prompt=f"a fox {SCENES[0]}"))


@pytest.mark.parametrize("key", EVERYTHING)
@pytest.mark.parametrize("most", [1, 3, 4])
def test_rows_are_parted_between_stories_only(family, key, most, monkeypatch):
    whole = draw(family, story=story(key))
    monkeypatch.setattr(family, "max_rows", most)
    torch.testing.assert_close(draw(family, story=story(key)), whole, rtol=0, atol=1e-4)


def test_the_network_is_as_it_was_after_an_error_and_a_cancel(family):
    before = state_of(family.network)
    with broken_at(family.network, 2), pytest.raises(RuntimeError):
        draw(family, story=story())
    assert_unchanged(family.network, before)
    run = build_run(resolve(request_of(story=story()), family), family)
    steps = denoise(run)
    next(steps)
    steps.close()
    assert_unchanged(family.network, before)


def test_the_others_sampled_places_stand_behind_a_pictures_own():
    places = sample_places(3, 10, 0.4, seed=1)
    assert [len(one) for one in places] == [4, 4, 4] and len({tuple(one.tolist()) for one in places}) > 1
    assert all(torch.equal(one, other) for one, other in zip(places, sample_places(3, 10, 0.4, seed=1), strict=True))
    rows = torch.arange(6 * 10.0).view(6, 10, 1)
    seen = look_at_others(rows, places)
    assert seen.shape == (6, 10 + 2 * 4, 1) and torch.equal(seen[:, :10], rows)
    assert torch.equal(seen[1, 10:14], rows[0][places[0]]) and torch.equal(seen[1, 14:], rows[2][places[2]])
    assert torch.equal(seen[3, 10:14], rows[4][places[1]])  # the second branch sees its own rows


def test_places_that_were_drawn_without_gradients_are_used_by_an_evaluation_with_them():
    """A run without gradients is under `inference_mode`; minority guidance takes some of one evaluation in between."""
    with torch.inference_mode():
        places = sample_places(2, 10, 0.4, seed=1)
    rows = torch.randn(2, 10, 3, requires_grad=True)
    look_at_others(rows, places).sum().backward()
    seen = torch.ones(2, 10)
    for picture, chosen in enumerate(places):
        seen[picture, chosen] += 1  # by the other picture
    assert torch.equal(rows.grad, seen.unsqueeze(-1).expand(-1, -1, 3))


def test_a_guidance_that_changes_a_layer_keeps_it(family):
    """Perturbed attention replaces processors for its own branch, over which the story must not write."""
    if family.key != "sd":
        pytest.skip("a transformer's guidance leaves out whole blocks")
    pag = Choice("pag", {"perturbed_scale": 3.0, "place": "all"})
    assert not torch.equal(draw(family, story=story(), guidance=pag), draw(family, story=story()))
    alone = draw(family, story=story(sharing=0.0), guidance=pag)
    for index, scene in enumerate(SCENES):
        single = draw(family, prompt=f"a fox {scene}", seed=4 + index, guidance=pag)
        torch.testing.assert_close(alone[index : index + 1], single, rtol=0, atol=1e-4)


def test_a_saved_scene_has_its_own_prompt_and_tells_the_same_story_again():
    request = request_of(story=story(sharing=0.7))
    second = one_of_batch(request, 1)
    assert second.prompt == "a fox in a blue sea" and second.seed == 4 and with_scenes_counted(second).batch_size == 3
    assert second.story.settings["subject"] == "a fox" and second.story.settings["sharing"] == 0.7
    assert scene_of_story(second, 2).prompt == "a fox at night"
    built = STORIES.build(second.story)
    assert built.list_prompts(second.prompt) == [f"a fox {scene}" for scene in SCENES]


def test_scenes_are_lines_or_parted_by_bars():
    told = STORIES["style"].build({"scenes": " one \n\n two | three \\| four"})
    assert told.list_prompts("x") == ["x one", "x two", "x three \\| four"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"story": Choice("consistent", {"scenes": " \n"})}, PromptError, "no scenes"),
        ({"story": story(scenes=["a <lora:x:1>", "b"])}, PromptError, "acts on all pictures"),
        ({"story": story(scenes=["[a:b:0.5]"])}, MethodFitError, "Stories take a prompt"),
        ({"story": story(scenes=["x"] * 17)}, SettingsError, "number of scenes"),
        ({"story": story(scenes=["x" * 4000])}, SettingsError, "with its scene"),
        ({"story": story(), "cache": Choice("deepcache")}, MethodFitError, "A cache leaves out"),
        ({"story": story(), "made_like": Choice("comfyui")}, SettingsError, "Stepwise's own rules"),
        ({"story": story(), "search": Choice("random")}, SettingsError, "A search looks for one picture"),
        ({"story": story(), "ensemble": Choice("composition", {"second": "n"})}, MethodFitError, "drawn by one model"),
    ],
)
def test_what_a_story_cannot_be_is_said_before_it_queues(changes, error, words):
    with pytest.raises(error, match=words):
        check_request(request_of(**changes), Limits())


def test_guidance_that_takes_a_transformers_whole_attention_is_refused(family):
    request = request_of(story=story(), guidance=Choice("nag"))
    if family.traits.backbone == "unet":
        check_fit(request, family.traits)
        assert draw(family, story=story(), guidance=Choice("nag")).isfinite().all()
        return
    with pytest.raises(MethodFitError, match="see each other"):
        check_fit(request, family.traits)
