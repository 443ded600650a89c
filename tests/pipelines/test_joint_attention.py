"""Attention edits on transformers whose text and picture share one attention: SD3 and FLUX."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipelines.core.errors import PromptError
from pipelines.core.types import Choice, Traits
from pipelines.edits import EDITS
from pipelines.edits.attention import attention_layers, opened_attention, order_self_attention
from pipelines.edits.joint_attention import change_joint_maps
from pipelines.edits.map_controller import MapController
from pipelines.edits.masactrl import MutualAttention
from pipelines.edits.prompt_to_prompt import SharedMaps
from pipelines.edits.style_aligned import SharedAttention
from pipelines.edits.words import align, equalizer, read_rows, replacement
from pipelines.families import family_of
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import BASE, edited, request_of
from tests.pipelines.network_state import assert_unchanged, broken_at, state_of
from tests.pipelines.tiny_models import tiny_flux, tiny_sd, tiny_sd3

SHARING = {
    "replace": {"cross_until": 1.0, "self_until": 1.0},
    "refine": {"cross_until": 1.0, "self_until": 1.0, "blend": "cat, fox"},
    "reweight": {"words": "cat=3, red=-1", "cross_until": 1.0, "self_until": 0.0},
    "masactrl": {"start": 0.0, "layers": 1.0},
}
NEUTRAL = {
    "replace": {"cross_until": 0.0, "self_until": 0.0},
    "refine": {"cross_until": 0.0, "self_until": 0.0},
    "masactrl": {"layers": 0.0},
}


@pytest.fixture(scope="module")
def families():
    return {"sd3": family_of(tiny_sd3().components), "flux": family_of(tiny_flux().components)}


@pytest.fixture(scope="module")
def picture():
    return Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


def double(family):
    """A copy in float64, and an evaluation of four rows of it: source, edit, source, edit."""
    components = {**family.components, family.network_name: copy.deepcopy(family.network).double()}
    family = family_of(components)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 4, 8, 8, dtype=torch.float64, generator=generator)
    encoded = [family.encode_prompts(text, "", 1, (32, 32))["positive"] for text in ("", "", "a red fox", "a red cat")]
    tensors = {name: torch.cat([one.tensors[name] for one in encoded]) for name in encoded[0].tensors}
    prompt = type(encoded[0])(tensors)
    return family, lambda: family.predict_raw(latents, torch.full((4,), 500.0), prompt)


@pytest.mark.parametrize("key", ["sd3", "flux"])
def test_the_map_written_out_is_the_networks_own_attention(families, key):
    family, ask = double(families[key])
    before, seen = state_of(family.network), []

    class Watching(MapController):
        def change_part(self, maps, cross):
            seen.append((cross, maps.sum(-1)))
            return maps

    with torch.no_grad():
        plain = ask()
        with opened_attention(family.network, Watching()):
            opened = ask()
    # FLUX turns queries and keys in float32.
    torch.testing.assert_close(opened, plain, rtol=0, atol=1e-6 if key == "flux" else 1e-13)
    assert len(seen) == 2 * len(attention_layers(family.network)) == 2 * len(order_self_attention(family.network))
    for (_, own), (_, cross) in zip(seen[::2], seen[1::2], strict=True):
        torch.testing.assert_close(own + cross, torch.ones_like(own), rtol=0, atol=1e-6 if key == "flux" else 1e-13)
    assert_unchanged(family.network, before)


@pytest.mark.parametrize("key", ["sd3", "flux"])
@pytest.mark.parametrize(
    "make",
    [
        lambda network: SharedMaps(lambda own, edit: own, 1.0, 1.0, 4),
        lambda network: MutualAttention(order_self_attention(network), 0.0, 4),
        lambda network: SharedAttention(2.0),
    ],
)
def test_a_controller_leaves_the_sources_rows_alone_and_changes_the_edits(families, key, make):
    """Bit for bit, but for shared attention, whose source has its keys twice and does not see the second ones."""
    family, ask = double(families[key])
    with torch.no_grad(), opened_attention(family.network, MapController()):
        plain = ask()
    controller = make(family.network)
    with torch.no_grad(), opened_attention(family.network, controller):
        changed = ask()
    if isinstance(controller, SharedAttention) or not controller.changes_maps:
        torch.testing.assert_close(changed[[0, 2]], plain[[0, 2]], rtol=0, atol=1e-6 if key == "flux" else 1e-12)
    else:
        assert torch.equal(changed[:3], plain[:3])
    assert (changed[3] - plain[3]).abs().max() > 1e-6


def test_a_changed_row_sums_to_one_and_its_parts_are_what_was_asked_for():
    maps = torch.randn(4, 2, 9, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    tripled = SharedMaps(lambda own, edit: 3 * own, 1.0, 0.0, 4)
    changed = change_joint_maps(tripled, maps, 5)
    assert torch.equal(changed[:3], maps[:3])
    expected = torch.cat([maps[3, ..., :9], 3 * maps[2, ..., 9:]], dim=-1)
    torch.testing.assert_close(changed[3], expected / expected.sum(-1, keepdim=True), rtol=0, atol=1e-15)
    both = SharedMaps(lambda own, edit: own, 1.0, 1.0, 4)
    torch.testing.assert_close(change_joint_maps(both, maps, 5)[3], maps[2], rtol=0, atol=1e-15)
    assert change_joint_maps(SharedMaps(lambda own, edit: own, 0.0, 0.0, 4), maps, 5) is maps
    # Of attention to the picture alone.
    assert torch.equal(change_joint_maps(both, maps[..., :9], 0)[:3], maps[:3, ..., :9])


@pytest.mark.parametrize("key", ["sd3", "flux"])
@pytest.mark.parametrize("edit", list(NEUTRAL))
def test_for_no_steps_an_edit_is_plain_re_prompting_bit_for_bit(families, picture, edit, key):
    neutral = edited(families[key], request_of(picture, Choice(edit, NEUTRAL[edit])))[2][-1].latents
    paired = edited(families[key], request_of(picture, "reprompt"))[2][-1].latents
    assert torch.equal(neutral, paired)
    shared = edited(families[key], request_of(picture, Choice(edit, SHARING[edit])))[2][-1].latents
    assert torch.equal(shared[SOURCE], paired[SOURCE]) and (shared[TARGET] - paired[TARGET]).abs().max() > 1e-4


@pytest.mark.parametrize("key", ["sd3", "flux"])
def test_an_error_in_the_network_leaves_its_own_processors(families, picture, key):
    network = families[key].network
    before = state_of(network)
    # The way up has four evaluations; the fifth is with open attention.
    with broken_at(network.proj_out, 6), pytest.raises(RuntimeError, match="broken"):
        edited(families[key], request_of(picture, "refine"))
    assert_unchanged(network, before)


@pytest.mark.parametrize("key", ["sd3", "flux"])
@pytest.mark.parametrize("edit", ["replace", "refine", "masactrl"])
def test_equal_prompts_give_the_source(families, picture, edit, key):
    """Both rows are evaluated, and the edit's is given what the source's has: DDIM's way down is one for both."""
    request = request_of(picture, Choice(edit, SHARING[edit] | ({"blend": ""} if edit == "refine" else {})))
    request = request.replace(source_prompt=BASE.prompt, inversion=Choice("ddim"))
    _, _, steps = edited(families[key], request)
    # Float32: the edit's maps are brought to sums of one again.
    torch.testing.assert_close(steps[-1].latents[TARGET], steps[-1].latents[SOURCE], rtol=0, atol=2e-5)


@pytest.mark.parametrize("key", ["sd3", "flux"])
def test_words_stand_where_each_encoder_of_the_model_has_them(families, key):
    family = families[key]
    rows = family.list_text_rows(["a red fox", "a cat"])
    embeds = family.encode_prompts("a red fox", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    words, other = read_rows(rows, "a red fox"), read_rows(rows, "a red cat")
    assert words.total == sum(row.length for row in rows) == embeds.shape[1]
    changed = family.encode_prompts("a red cat", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    differs = (embeds != changed).any(-1)[0]
    # The T5 reads both ways; a CLIP's tokens see only what stands before them.
    clip = sum(row.length for row in rows if row.marks)
    assert differs[words.find("fox")[0]] and not differs[:clip][: words.find("fox")[0]].any()
    assert len(words.find("fox")) == sum(len(one.places[2]) for one in words.rows)
    matrix = replacement(words, other)
    assert matrix.shape == (words.total, words.total)
    torch.testing.assert_close(matrix.sum(1), torch.ones(words.total))
    assert equalizer(other, "cat=2")[list(other.find("cat"))].eq(2).all()
    places, has_source = align(words, words)
    assert places.tolist() == list(range(words.total)) and has_source.all()


def test_a_long_negative_prompt_leaves_the_words_where_they_are(picture):
    """It fills two chunks, so that the prompts have two as well."""
    family = family_of(tiny_sd().components)
    request = request_of(picture, "replace", negative_prompt="blurry " * 90)
    assert edited(family, request)[2][-1].latents.isfinite().all()
    with pytest.raises(PromptError, match="chunks"):
        edited(family, request_of(picture, "replace", prompt="cat " * 90, source="fox " * 90))


@pytest.mark.parametrize("edit", ["replace", "refine", "reweight", "masactrl", "style_aligned"])
def test_other_transformers_are_refused_with_their_reason(edit):
    problem = EDITS[edit].fit(Traits("stock", "flow", "transformer", "cfg"))
    assert problem is not None and "SD3 and FLUX" in problem
    assert EDITS[edit].fit(Traits("sd3", "flow", "transformer", "cfg")) is None
    assert EDITS["plug_and_play"].fit(Traits("sd3", "flow", "transformer", "cfg")) is not None
