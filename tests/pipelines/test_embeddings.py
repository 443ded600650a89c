"""Textual inversion: a prompt's new word stands for its vectors, and the model comes back as it was."""

from __future__ import annotations

import pytest
import torch
from lora_files import MAKERS, family
from safetensors.torch import save_file
from test_lora import assert_unchanged, state_of

from pipelines.core.errors import ModelFileError, PromptError
from pipelines.models.catalog_folder import scan_embeddings
from pipelines.weights.embedding_files import read_embedding
from pipelines.weights.embeddings import named_embeddings


def vectors(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


LAYOUTS = {
    "AUTOMATIC1111 and kohya": ("sd", {"emb_params": (3, 16)}),
    "diffusers": ("sd", {"clip_l": (3, 16)}),
    "old": ("sd", {"string_to_param.*": (3, 16)}),
    "SDXL": ("sdxl", {"clip_l": (3, 16), "clip_g": (3, 24)}),
    "SD3": ("sd3", {"clip_l": (3, 16), "clip_g": (3, 24)}),
    "SD3 with T5": ("sd3", {"clip_l": (3, 16), "clip_g": (3, 24), "t5xxl": (3, 40)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_word_stands_for_its_vectors(layout, tmp_path):
    """The vectors of known words, saved under a new name, give exactly the embeddings of those words."""
    key, shapes = LAYOUTS[layout]
    one = family(key)
    words = "red fox sky"
    places = [("clip_l", ""), ("clip_g", "_2"), ("t5xxl", "_3")]
    tensors = {}
    for name in shapes:
        suffix = next((end for part, end in places if part == name), "")
        ids = one.components[f"tokenizer{suffix}"](words, add_special_tokens=False).input_ids
        tensors[name] = one.components[f"text_encoder{suffix}"].get_input_embeddings().weight[ids].clone()
    save_file(tensors, tmp_path / "animal.safetensors")
    one.embeddings = {"animal": tmp_path / "animal.safetensors"}
    expected = one.encode_prompts(f"a photo of {words}", "", 1, (32, 32))["positive"].tensors
    before = state_of(one)
    prompts = ["a photo of embedding:animal", "a photo of Animal"]
    for prompt in prompts if key != "sd3" or "t5xxl" in shapes else []:
        found = one.encode_prompts(prompt, "", 1, (32, 32))["positive"].tensors
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, atol=1e-5), name
    if key == "sd3" and "t5xxl" not in shapes:
        # The T5 reads the word as it is written, the CLIPs its vectors.
        found = one.encode_prompts(prompts[0], "", 1, (32, 32))["positive"].tensors
        assert torch.allclose(found["pooled_prompt_embeds"], expected["pooled_prompt_embeds"], atol=1e-5)
    assert_unchanged(one, before)


@pytest.mark.parametrize("key", ["sdxl", "sd3"])
def test_the_pooled_embedding_is_read_at_the_end_of_the_prompt(key):
    """Published configurations name token 2 as the end; transformers then reads at the greatest id, a new word's."""
    one = family(key)
    shapes = {"clip_l": (3, 16), "clip_g": (3, 24)}
    words = "red fox sky"
    one.embeddings = {"animal": {}}
    encoders = [one.components[f"text_encoder{suffix}"] for suffix in ("", "_2")]
    for (part, _), suffix, encoder in zip(shapes.items(), ("", "_2"), encoders, strict=True):
        ids = one.components[f"tokenizer{suffix}"](words, add_special_tokens=False).input_ids
        one.embeddings["animal"][part] = encoder.get_input_embeddings().weight[ids].clone()
    ends = [module for encoder in encoders for module in encoder.modules() if hasattr(module, "eos_token_id")]
    assert ends
    kept = [module.eos_token_id for module in ends]
    for module in ends:
        module.eos_token_id = 2
    try:
        expected = one.encode_prompts(f"a photo of {words}", "", 1, (32, 32))["positive"].tensors
        found = one.encode_prompts("a photo of embedding:animal", "", 1, (32, 32))["positive"].tensors
        assert [module.eos_token_id for module in ends] == [2] * len(ends)
    finally:
        for module, value in zip(ends, kept, strict=True):
            module.eos_token_id = value
    assert torch.allclose(found["pooled_prompt_embeds"], expected["pooled_prompt_embeds"], atol=1e-5)


def test_weights_and_other_words_go_on_beside_it():
    one = family("sd")
    one.embeddings = {"my-style": {"clip_l": vectors(2, 16)}}
    plain = one.encode_prompts("a (my-style:1.0) fox", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    same = one.encode_prompts("a embedding:my-style fox", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    other = one.encode_prompts("a mystyle fox", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    assert torch.equal(plain, same) and not torch.allclose(plain, other)


@pytest.mark.parametrize("key", MAKERS)
def test_an_embedding_of_another_model_or_of_none_is_named(key):
    one = family(key)
    one.embeddings = {"wide": {"clip_l": vectors(2, 99), "clip_g": vectors(2, 99)}}
    with pytest.raises(PromptError, match="'wide' has vectors of width 99"):
        one.encode_prompts("a embedding:wide", "", 1, (32, 32))
    with pytest.raises(PromptError, match=r"'gone'.*Choose one of: wide"):
        one.encode_prompts("a fox", "embedding:gone", 1, (32, 32))
    one.embeddings = {"half": {"t5": vectors(2, 40)}}
    with pytest.raises(PromptError, match="has no vectors for this model's clip_l"):
        one.encode_prompts("embedding:half", "", 1, (32, 32))


def test_a_broken_embedding_is_named_and_not_said_to_be_missing(tmp_path):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    save_file({"clip_l": torch.full((2, 16), float("nan"))}, folder / "nan.safetensors")
    (folder / "torn.safetensors").write_bytes(b"torn")
    one = family("sd")
    one.embeddings = {"nan": folder / "nan.safetensors", **{entry.key: entry for entry in scan_embeddings(tmp_path)}}
    one.embeddings["nan"] = folder / "nan.safetensors"
    with pytest.raises(ModelFileError, match=r"nan\.safetensors holds NaN"):
        one.encode_prompts("a embedding:nan", "", 1, (32, 32))
    with pytest.raises(ModelFileError, match="'torn' cannot be used"):
        one.encode_prompts("a embedding:torn", "", 1, (32, 32))
    one.encode_prompts("a torn fox", "", 1, (32, 32))


def test_onetrainers_bundled_embeddings_last_as_long_as_their_lora(tmp_path):
    one = family("sd")
    target = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {f"unet.{target}.lora_A.weight": torch.zeros(2, 16), f"unet.{target}.lora_B.weight": torch.zeros(16, 2)}
    bundled = {"bundle_emb.my.word.clip_l": vectors(2, 16)}
    save_file(lora | bundled, tmp_path / "style.safetensors")
    before = one.encode_prompts("a my.word", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    with one.loras([(tmp_path / "style.safetensors", 1.0)]):
        inside = one.encode_prompts("a my.word", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    one.embeddings = {"my.word": {"clip_l": bundled["bundle_emb.my.word.clip_l"]}}
    expected = one.encode_prompts("a my.word", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    assert torch.equal(inside, expected) and not torch.allclose(inside, before)


@pytest.mark.parametrize(
    ("tensors", "family_key", "base"),
    [
        ({"emb_params": (8, 768)}, "sd", "sd1"),
        ({"<my-token>": (768,)}, "sd", "sd1"),
        ({"emb_params": (4, 1024)}, "sd", "sd2"),
        ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "sdxl", "sdxl"),
        ({"clip_l": (4, 768), "clip_g": (4, 1280), "t5xxl": (4, 4096)}, "sd3", "sd3"),
    ],
)
def test_files_are_listed_with_their_model(tmp_path, tensors, family_key, base):
    (tmp_path / "embeddings").mkdir()
    save_file(
        {name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "embeddings" / "a b,c.safetensors"
    )
    (entry,) = scan_embeddings(tmp_path)
    assert (entry.key, entry.family, entry.base, entry.problem) == ("a_b_c", family_key, base, "")
    assert all(part.ndim == 2 for part in read_embedding(entry.path).values())


def test_names_are_whole_words():
    known = {"cat": 1, "my-cat": 2}
    assert named_embeddings("a my-cat, concatenate", known, known) == ["my-cat"]
    assert named_embeddings("(cat:1.2) embedding:MY-CAT.safetensors", known, known) == ["my-cat", "cat"]
