"""LoRA: the sum is right in every spelling, and the model comes back bit for bit as it was."""

from __future__ import annotations

import pickle

import pytest
import torch
from lora_files import MAKERS, TARGETS, diffusers_lora, family
from safetensors.torch import save_file
from tiny_models import tiny_sd

from pipelines.core.errors import LoraError, StepwiseError
from pipelines.families import family_of
from tests.pipelines.lora_states import assert_unchanged, state_of


@pytest.mark.parametrize("key", MAKERS)
def test_the_product_is_added_and_taken_off_again(key):
    one = family(key)
    lora, change = diffusers_lora(one, TARGETS[key], alpha=1.0)
    layer, before = one.network.get_submodule(TARGETS[key]), state_of(one)
    original = layer.weight.clone()
    with one.loras([(lora, 0.7)]):
        assert torch.allclose(layer.weight, original + 0.7 * change, atol=1e-6)
    assert_unchanged(one, before)


@pytest.mark.parametrize("key", MAKERS)
def test_the_model_comes_back_after_an_exception(key):
    one = family(key)
    lora, _ = diffusers_lora(one, TARGETS[key])
    before = state_of(one)
    with pytest.raises(RuntimeError, match="in the middle"), one.loras([(lora, 1.0), (lora, -0.3)]):
        raise RuntimeError("in the middle")
    assert_unchanged(one, before)


def test_a_weight_of_zero_and_no_lora_leave_every_tensor_where_it_is():
    one = family("sd")
    lora, _ = diffusers_lora(one, TARGETS["sd"])
    before = state_of(one)
    for choices in ([], [(lora, 0.0)]):
        with one.loras(choices):
            assert_unchanged(one, before)


def test_several_loras_add_up():
    one = family("sd")
    lora, change = diffusers_lora(one, TARGETS["sd"])
    original = one.network.get_submodule(TARGETS["sd"]).weight.clone()
    with one.loras([(lora, 1.0), (lora, 0.5)]):
        assert torch.allclose(one.network.get_submodule(TARGETS["sd"]).weight, original + 1.5 * change, atol=1e-6)


def test_a_half_precision_model_gets_its_own_bits_back():
    pipe = tiny_sd()
    pipe.unet.to(torch.bfloat16)
    one = family_of(pipe.components)
    lora, _ = diffusers_lora(one, TARGETS["sd"])
    before = state_of(one)
    with one.loras([(lora, 1.0)]):
        assert one.network.get_submodule(TARGETS["sd"]).weight.dtype == torch.bfloat16
    assert_unchanged(one, before)


def test_the_lora_changes_the_prediction():
    one = family("sd")
    lora, _ = diffusers_lora(one, TARGETS["sd"])
    given = one.encode_prompts("a fox", "", 1, (32, 32))["positive"]
    latents, times = torch.ones(1, 4, 8, 8), torch.tensor([500.0])
    plain = one.predict_raw(latents, times, given)
    with one.loras([(lora, 1.0)]):
        assert not torch.allclose(one.predict_raw(latents, times, given), plain, atol=1e-3)
    assert torch.equal(one.predict_raw(latents, times, given), plain)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"a": 1}), "not a safetensors"),
        (b"PK\x03\x04" + b"0" * 200, "not a safetensors"),
        (b"", "not a safetensors"),
        (b"\xff" * 64, "not a safetensors"),
        (None, "There is no LoRA"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_its_content(tmp_path, content, words):
    path = tmp_path / "style.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoraError, match=words), family("sd").loras([(path, 1.0)]):
        pass


def test_a_truncated_file_is_refused(tmp_path):
    lora, _ = diffusers_lora(family("sd"), TARGETS["sd"])
    path = tmp_path / "style.safetensors"
    save_file(lora, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LoraError), family("sd").loras([(path, 1.0)]):
        pass


@pytest.mark.parametrize(
    ("source", "target"), [("flux", "sd"), ("sd3", "flux"), ("sdxl", "sd"), ("sd", "sdxl"), ("flux", "sd3")]
)
def test_a_lora_of_another_family_is_refused_and_changes_nothing(source, target):
    lora, _ = diffusers_lora(family(source), TARGETS[source] if source != "sdxl" else "add_embedding.linear_1")
    if (source, target) == ("sd", "sdxl"):
        lora, _ = diffusers_lora(family("sd"), TARGETS["sdxl"])
    one = family(target)
    before = state_of(one)
    with pytest.raises(LoraError, match=f"model of the {target} family") as raised, one.loras([(lora, 1.0)]):
        pass
    assert isinstance(raised.value, StepwiseError)
    assert_unchanged(one, before)


def test_the_second_lora_being_wrong_leaves_the_first_unapplied():
    one = family("sd")
    lora, _ = diffusers_lora(one, TARGETS["sd"])
    wrong, _ = diffusers_lora(family("flux"), TARGETS["flux"])
    before = state_of(one)
    with pytest.raises(LoraError), one.loras([(lora, 1.0), (wrong, 1.0)]):
        pass
    assert_unchanged(one, before)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "no tensors"),
        ({"unet.x.hada_w1_a": torch.ones(1)}, "do not exist|incomplete"),
        ({"unet.x.unheard_of": torch.ones(1)}, "of no kind that is applied"),
        ({f"unet.{TARGETS['sd']}.lora_A.weight": torch.ones(2, 16)}, "incomplete"),
    ],
)
def test_a_file_that_is_no_plain_lora_is_refused(tensors, words):
    with pytest.raises(LoraError, match=words), family("sd").loras([(tensors, 1.0)]):
        pass
