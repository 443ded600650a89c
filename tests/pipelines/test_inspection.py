"""Inspections: their exact settings, sums that agree, and a network that is as it was."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from network_state import assert_unchanged, state_of

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, PromptError, SettingsError
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.inspection import INSPECTIONS
from pipelines.inspection.classifier import choose_least
from pipelines.inspection.personalization import _read_word, find_start, replace_word
from pipelines.inspection.protection import protect
from pipelines.inspection.smoothness import istd
from pipelines.inspection.word_attention import average_maps
from pipelines.inspection.word_information import information, split
from pipelines.inspection.zeroth_order import (
    DescentSettings,
    ZerothOrderAdam,
    estimate_gradient,
    list_noise_directions,
)
from pipelines.requests.text_to_image import resolve
from pipelines.weights.embedding_files import read_embedding, write_embedding
from pipelines.workflows.edit.request import Picture
from pipelines.workflows.inspect import InspectRequest, run_inspection

PICTURE = Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
QUICK = {
    "word_attention": {"draws": 2},
    "word_information": {"draws": 3, "words": "red, fox"},
    "classifier": {"draws": 2, "prompts": "a dark moon"},
    "autoencoder_trace": {},
    "seed_shift": {"points": 3},
    "smoothness": {"points": 3},
    "protection": {"steps": 3},
    "directions": {"runs": 4, "directions": 2},
    "personalization": {"word": "my-fox", "start": "fox", "steps": 2, "directions": 1, "memory": 2},
}


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_models.tiny_sd().components)


def base(**changes) -> Request:
    values = {"prompt": "a red fox", "num_inference_steps": 2, "width": 32, "height": 32, "seed": 3, **changes}
    return Request(sampler=Choice("ddim"), **values)


def inspect(family, key: str, picture: Picture | None = PICTURE, cancelled=lambda: False, **settings):
    request = InspectRequest(base(), Choice(key, {**QUICK[key], **settings}), picture)
    return run_inspection(request, resolve(request.base, family), family, cancelled)


@pytest.mark.parametrize("key", list(INSPECTIONS))
def test_an_inspection_repeats_itself_counts_what_it_ran_and_leaves_the_network_as_it_was(family, key):
    before = state_of(family.network)
    pieces: list[int] = []
    request = InspectRequest(base(), Choice(key, QUICK[key]), PICTURE)
    run = resolve(request.base, family)
    found, context = run_inspection(request, run, family, advance=lambda: pieces.append(1))
    again, _ = inspect(family, key)
    assert found.figures == again.figures and all(np.isfinite(list(found.figures.values())))
    assert len(pieces) == INSPECTIONS[key].build(QUICK[key]).count_pieces()
    expected = {"word_attention": 2, "word_information": 12, "classifier": 4, "seed_shift": 12, "smoothness": 12}
    expected["protection"] = 6  # three edits of one guided step each
    expected["directions"] = 44  # 4 runs of 4 and 2 once more for the middle block, 5 pictures of 4
    expected["personalization"] = 36  # 2 steps of 2, 3 checks of 8, 2 pictures of 4
    assert context.evaluations == expected.get(key, 0)
    for values in found.maps.values():
        assert values.shape == tuple(family.latent_shape(32, 32)[1:])
    assert_unchanged(family.network, before)


@pytest.mark.parametrize("key", [key for key in INSPECTIONS if key != "autoencoder_trace"])
def test_a_stop_ends_an_inspection_and_leaves_the_network_as_it_was(family, key):
    before, asked = state_of(family.network), []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 1

    with pytest.raises(Cancelled):
        inspect(family, key, cancelled=cancelled)
    assert_unchanged(family.network, before)


def test_a_protected_picture_stays_within_its_bound_and_no_bound_changes_nothing(family):
    found, _ = inspect(family, "protection", most=4, steps=5)
    before, after = found.pictures[:2].astype(int)
    assert 0 < abs(after - before).max() == found.figures["largest change of a color"] <= 4
    assert (before == PICTURE.pixels).all() and found.curve[0][1] < 1e-5 and len(found.curve) == 6
    none, _ = inspect(family, "protection", most=0)
    changed = {name for name, value in none.figures.items() if value}
    assert changed <= {"change of its edit after JPEG"} and none.sentence == "Nothing was changed."
    assert (none.pictures[0] == none.pictures[1]).all() and (none.pictures[2] == none.pictures[3]).all()


def test_the_search_for_a_protection_comes_nearer_to_gray_as_far_as_its_bound():
    """A linear encoder: the descent of the squared distance has its end at the bound, in the sign of the gradient."""
    picture = torch.full((1, 3, 4, 4), 200 / 255, dtype=torch.float64)
    after = protect(lambda images: 3 * images, picture, 10, 5)
    assert torch.allclose(after, torch.full_like(picture, 190 / 255))


def test_equal_prompts_tie_exactly_and_the_least_error_is_chosen(family):
    found, _ = inspect(family, "classifier", prompts="a red fox")
    first, second = found.figures.values()
    assert first == second and "equally well" in found.sentence
    assert choose_least([3.0, 1.0, 2.0]) == 1
    assert choose_least([1.0, 2.0, 1.0]) is None


def test_the_diffusion_classifier_finds_the_prompt_that_a_perfect_network_was_told(family, monkeypatch):
    def perfect(latents, timesteps, conditioning):
        level = resolve(base(), family).noise_schedule.at(float(timesteps[0]))
        noise = (latents - level.alpha * clean) / level.sigma
        embeds = conditioning.tensors["prompt_embeds"]
        wrong = (embeds != right.tensors["prompt_embeds"]).flatten(1).any(1)
        return noise + wrong.view(-1, 1, 1, 1)

    from pipelines.inspection.base import InspectContext

    context = InspectContext(family, resolve(base(), family), PICTURE.pixels)
    clean, right = context.encode_picture(), context.encode_prompt("a dark moon")
    monkeypatch.setattr(family, "predict_raw", perfect)
    found, _ = inspect(family, "classifier", prompts="a dark moon; a green sea")
    errors = list(found.figures.values())
    assert found.sentence == "It shows: a dark moon."
    assert errors[1] < 1e-6 and errors[0] == pytest.approx(1, abs=1e-3) == errors[2]


def test_the_attention_of_all_tokens_sums_to_one_at_every_place():
    random = torch.Generator().manual_seed(0)
    seen = [((side, side), torch.rand(2, side * side, 20, generator=random).softmax(-1)) for side in (4, 8, 2)]
    maps = average_maps(seen, (16, 16))
    assert maps.shape == (20, 16, 16)
    assert torch.allclose(maps.sum(0), torch.ones(16, 16), atol=1e-6)
    only = average_maps([((4, 4), torch.eye(16)[None])], (4, 4))
    assert torch.equal(only, torch.eye(16).reshape(16, 4, 4))


def test_a_words_shares_are_those_of_its_tokens_and_leave_something_to_the_marks(family):
    found, _ = inspect(family, "word_attention")
    assert list(found.maps) == ["a", "red", "fox"]
    assert 0 < sum(found.figures.values()) < 1
    assert found.figures["share of fox"] == pytest.approx(float(found.maps["fox"].mean()))


def test_a_transformers_words_share_what_its_picture_sees_of_the_text():
    flow = family_of(tiny_models.tiny_sd3().components)
    before = state_of(flow.network)
    request = InspectRequest(base(prompt="a fox", width=32, height=32), Choice("word_attention", {"draws": 2}), PICTURE)
    found, context = run_inspection(request, resolve(request.base, flow), flow)
    assert set(found.maps) == {"a", "fox"} and found.maps["fox"].shape == (8, 8)
    assert 0 < sum(found.figures.values()) < 1 and context.evaluations == 2
    assert_unchanged(flow.network, before)


def test_a_word_that_comes_again_has_a_map_of_its_own(family):
    request = InspectRequest(base(prompt="a fox a fox"), Choice("word_attention", {"draws": 1}), PICTURE)
    found, _ = run_inspection(request, resolve(request.base, family), family)
    assert list(found.maps) == ["a", "fox", "a (2)", "fox (2)"]


def test_the_parts_of_two_words_information_sum_to_what_both_tell(family):
    random = torch.Generator().manual_seed(1)
    first, second, both = (torch.rand(5, 4, generator=random, dtype=torch.float64) for _ in range(3))
    parts = split(first, second, both)
    total = parts.redundant + parts.unique_first + parts.unique_second + parts.synergistic
    assert torch.allclose(total, both, atol=1e-15)
    assert torch.allclose(parts.redundant + parts.unique_first, first, atol=1e-15)
    assert torch.allclose(parts.redundant + parts.unique_second, second, atol=1e-15)
    assert min(float(one.min()) for one in (parts.redundant, parts.unique_first, parts.unique_second)) >= 0
    same = split(first, first, first)
    assert not float(same.synergistic.abs().max()) and not float(same.unique_first.abs().max())
    found = inspect(family, "word_information")[0].maps
    pieces = found["redundant"] + found["only red"] + found["only fox"] + found["synergistic"]
    assert np.allclose(pieces, found["both"], atol=1e-5 * np.abs(found["both"]).max())


def test_a_word_that_changes_nothing_tells_nothing():
    estimate = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert not float(information(estimate, estimate, 2.0).sum())
    assert information(estimate, estimate + 1, 2.0).tolist() == pytest.approx(np.full((3, 3), 4.0))


def test_a_shift_of_zero_changes_nothing_and_a_whole_turn_neither(family):
    still = inspect(family, "seed_shift", step=0)[0]
    assert [change for _, change in still.curve] == [0.0] * 3
    moved = inspect(family, "seed_shift", step=1)[0]
    assert moved.curve[0][1] == 0.0 and moved.curve[1][1] > 0
    width = family.latent_shape(32, 32)[-1]
    assert inspect(family, "seed_shift", step=width, points=2)[0].curve[1][1] == 0.0


def test_a_path_that_stands_still_has_no_spread(family):
    still = inspect(family, "smoothness", seed=3)[0]
    assert still.figures == {"ISTD": 0.0, "mean change": 0.0, "largest change": 0.0}
    assert inspect(family, "smoothness", seed=4)[0].figures["mean change"] > 0
    assert istd([0.3, 0.3, 0.3]) == pytest.approx(0, abs=1e-16)
    assert istd([0.0, 2.0]) == 1.0


def test_a_picture_that_the_decoder_gives_back_has_a_ratio_of_one(family, monkeypatch):
    monkeypatch.setattr(family, "encode_images", lambda images: images)
    monkeypatch.setattr(family, "decode", lambda latents: latents * 0.5 + 0.25)  # half way to gray each time
    found = inspect(family, "autoencoder_trace")[0].figures
    assert found["ratio"] == pytest.approx(4, rel=0.02)  # uint8 rounds
    monkeypatch.setattr(family, "decode", lambda latents: latents)
    assert inspect(family, "autoencoder_trace")[0].figures == {"loss": 0.0, "second loss": 0.0, "ratio": 1.0}


def test_without_a_picture_the_requests_own_is_drawn_and_counted(family):
    own, context = inspect(family, "word_attention", picture=None)
    assert context.picture.shape == (32, 32, 3)
    assert context.evaluations == 2 + 4  # two guided steps before
    given, _ = inspect(family, "word_attention", picture=Picture(context.picture))
    assert own.figures == given.figures


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"inspection": "x-ray"}, "Unknown inspection"),
        ({"inspection": {"key": "classifier", "draws": 0}}, "draws is 0"),
        ({"base": {"batch_size": 2}}, "one picture"),
        ({"base": {"cache": "deepcache"}}, "inspection"),
        ({"base": {"vae": {"key": "file", "name": "other"}}}, "own VAE"),
        ({"base": 1}, "base of an inspection"),
        ({"words": "fox"}, "an inspection"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence_before_anything_runs(values, sentence):
    with pytest.raises(SettingsError, match=sentence):
        InspectRequest.parse(values, Request.parse, lambda value: value).check(None)


def test_a_prompt_or_model_that_does_not_fit_is_refused_with_the_reason(family):
    with pytest.raises(PromptError, match="nothing to choose"):
        inspect(family, "classifier", prompts="")
    with pytest.raises(PromptError, match="Two different words"):
        inspect(family, "word_information", words="fox, fox")
    with pytest.raises(MethodFitError, match="single words"):
        INSPECTIONS["word_attention"].require_fit(Traits("flux", "flow", "transformer", "embedded"))
    with pytest.raises(MethodFitError, match="its own pipeline"):
        INSPECTIONS["smoothness"].require_fit(Traits("stock", "epsilon", "pipeline"))


def test_a_word_that_was_not_learned_is_the_one_it_began_as(family):
    embeddings = family.embeddings
    found, _ = inspect(family, "personalization", steps=0)
    assert np.array_equal(*found.pictures) and "No step explained" in found.sentence and family.embeddings is embeddings
    before, after = (found.figures[f"error with the {name}"] for name in ("word it began as", "new word"))
    assert before == after and torch.equal(found.words["my-fox"], _read_word(family, "fox"))


def test_a_learned_word_is_read_by_the_studio_and_by_diffusers(family, tmp_path):
    found, _ = inspect(family, "personalization", steps=24, directions=4, learning_rate=0.3)
    figures = found.figures
    assert figures["error with the new word"] < figures["error with the word it began as"]
    vectors, path = found.words["my-fox"], tmp_path / "my-fox.safetensors"
    write_embedding(vectors, path)
    assert torch.equal(read_embedding(path)["clip_l"], vectors) and list(tmp_path.iterdir()) == [path]
    stock = tiny_models.tiny_sd()
    stock.load_textual_inversion(path, token="my-fox")
    table = stock.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[-len(vectors) :], vectors)
    assert not inspect(family, "personalization", save=False)[0].words


def test_a_word_is_put_into_its_place_or_refused():
    assert find_start("A red fox", "") == "red" and find_start("a fox", " fox ") == "fox"
    assert replace_word("a Fox on a foxglove, fox", "fox", "my-fox") == "a my-fox on a foxglove, fox"
    with pytest.raises(PromptError, match="The prompt has no word 'cat'"):
        replace_word("a fox", "cat", "my-cat")
    for wrong in ({"word": "My fox"}, {"low": 0.9, "high": 0.5}):
        with pytest.raises(SettingsError):
            INSPECTIONS["personalization"].build(wrong)
    with pytest.raises(MethodFitError, match="more than one text encoder"):
        INSPECTIONS["personalization"].require_fit(Traits("sdxl", "epsilon", "unet"))


def test_slopes_along_an_orthogonal_basis_give_the_gradient_and_noise_is_what_varied_least():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(6, dtype=torch.float64, generator=generator)
    directions = 6**0.5 * torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
    torch.testing.assert_close(estimate_gradient(directions, directions @ gradient), gradient, rtol=0, atol=1e-12)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
    scales = torch.tensor([3.0, 1.0, 0.01], dtype=torch.float64)
    history = 5 + torch.linalg.qr(torch.randn(20, 3, dtype=torch.float64, generator=generator)).Q * scales @ basis[:3]
    noise = list_noise_directions(history, 1e-3)
    assert noise.shape == (4, 6) and torch.allclose(noise @ noise.T, torch.eye(4, dtype=torch.float64))
    # The columns are centered, which moves them a little: what is kept is the plane in which they vary.
    assert (noise @ basis[:2].T).abs().max() < 0.02 and len(list_noise_directions(history, 0.0)) == 3
    for memory, share in ((0, 0.2), (10, 0.5)):
        adam = ZerothOrderAdam(torch.ones(6, dtype=torch.float64), DescentSettings(0.05, memory))
        for _ in range(200):
            drawn = torch.randn(4, 6, dtype=torch.float64, generator=generator)
            adam.step(drawn, [float(2 * one @ adam.vector) for one in drawn])
        assert adam.vector.norm() < share * 6**0.5
