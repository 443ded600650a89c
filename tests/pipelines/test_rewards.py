"""Rewards: exact values, gradients, published forms beside transformers, and what is refused."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
)

from pipelines.core.errors import ModelFileError, ModelMissingError, SettingsError
from pipelines.core.types import Choice
from pipelines.metrics.composition_adherence import adherence
from pipelines.metrics.detector import load_detector
from pipelines.rewards import REWARDS
from pipelines.rewards.base import DIFFERENTIABLE, RewardSources
from pipelines.rewards.color import lab
from pipelines.rewards.image_reward import _PICTURE_MEAN, _PICTURE_STD

PROMPT = "a cat face left of a rose"
PUBLISHED = ("clip", "pickscore", "hpsv2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A models folder with a random CLIP of two layers for each published reward."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), tiny_models.clip_tokenizer()
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 20,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        },
        vision_config={**text, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    for seed, key in enumerate(PUBLISHED):
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder / "rewards" / key)
        tokenizer.save_pretrained(folder / "rewards" / key)
    save_image_reward(folder / "rewards" / "imagereward", tokenizer)
    return folder


IMAGE_REWARD = {
    "vision": {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 1},
    "text": {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 1},
}


def blip(tokenizer):
    """A random BLIP of two layers, and a head of two."""
    torch.manual_seed(5)
    vision = BlipVisionModel(
        BlipVisionConfig(**IMAGE_REWARD["vision"], image_size=32, patch_size=8, layer_norm_eps=1e-6)
    )
    text = BlipTextConfig(**IMAGE_REWARD["text"], vocab_size=len(tokenizer), encoder_hidden_size=64)
    head = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    return vision.eval(), BlipTextModel(text, add_pooling_layer=False).eval(), head.eval()


def save_image_reward(folder, tokenizer):
    """Under the names of the authors' file: timm's of the vision transformer."""
    names = (
        ("embeddings.patch_embedding.", "patch_embed.proj."),
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding", "pos_embed"),
        ("post_layernorm.", "norm."),
        ("encoder.layers.", "blocks."),
        (".layer_norm", ".norm"),
        (".self_attn.qkv.", ".attn.qkv."),
        (".self_attn.projection.", ".attn.proj."),
    )
    vision, text, head = blip(tokenizer)
    state = {}
    for name, tensor in vision.state_dict().items():
        for new, old in names:
            name = name.replace(new, old)
        state[f"blip.visual_encoder.{name}"] = tensor.contiguous()
    state |= {f"blip.text_encoder.{name}": tensor.contiguous() for name, tensor in text.state_dict().items()}
    state |= {f"mlp.layers.{name}": tensor.contiguous() for name, tensor in head.state_dict().items()}
    folder.mkdir(parents=True)
    save_file(state, folder / "ImageReward.safetensors")
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def sources(weights):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return RewardSources(weights, lambda name: pixels)


def load(key, sources, prompt=PROMPT, **settings):
    return REWARDS.build(Choice(key, settings)).load(prompt, sources)


@pytest.mark.parametrize("key", list(REWARDS))
def test_a_reward_scores_each_picture_alone_and_has_a_gradient_where_its_group_says_so(sources, key):
    settings = {"picture": "x"} if key == "similarity" else {}
    score = load(key, sources, **settings)
    images = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    rewards = score(images)
    assert rewards.shape == (3,)
    assert rewards.dtype == torch.float32
    assert torch.allclose(score(images[1:2]), rewards[1:2], rtol=1e-4)  # convolutions differ by batch size
    has_gradient = DIFFERENTIABLE in REWARDS[key].groups
    assert rewards.requires_grad == has_gradient
    if has_gradient:
        rewards.sum().backward()
        assert images.grad.isfinite().all()
        assert images.grad.abs().sum() > 0


def test_imagereward_is_the_head_of_the_first_token_that_looks_at_the_picture(sources):
    tokenizer = tiny_models.clip_tokenizer()
    vision, text, head = blip(tokenizer)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (_PICTURE_MEAN, _PICTURE_STD))
    words = tokenizer(PROMPT, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
    with torch.no_grad():
        seen = vision(pixel_values=(pixels - mean) / std).last_hidden_state
        read = text(
            input_ids=words.input_ids.expand(2, -1),
            attention_mask=words.attention_mask.expand(2, -1),
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state
        wanted = (head(read[:, 0])[:, 0] - 0.16717363) / 1.03333950
        found = load("imagereward", sources)(pixels)
    assert torch.allclose(found, wanted, atol=1e-5) and float((found[0] - found[1]).abs()) > 0
    other = load("imagereward", sources, prompt="a house")(pixels)
    assert not torch.allclose(other, found, atol=1e-4)
    with pytest.raises(ModelMissingError, match=r"ImageReward\.pt.*a pickle is not read"):
        load("imagereward", RewardSources(sources.models / "none"))


def test_adherence_is_what_the_detector_says_and_its_logarithm_has_the_same_order(sources):
    images = torch.rand(4, 3, 128, 128)
    plain, logarithm = (load("adherence", sources, measure=name)(images) for name in ("probability", "logarithm"))
    assert torch.equal(plain, adherence(load_detector(), images, PROMPT))
    assert torch.equal(plain.clamp_min(1e-9).argsort(), logarithm.argsort())


def test_sharpness_is_zero_without_edges_and_that_of_a_checkerboard_by_hand(sources):
    score = load("sharpness", sources)
    assert score(torch.full((1, 3, 8, 8), 0.3)).item() < 1e-6
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().expand(1, 3, 8, 8)
    assert score(board).item() == pytest.approx((4 * 255) ** 2, rel=1e-5)  # each pixel differs from four neighbors


def test_the_jpeg_is_counted_as_pillow_writes_it(sources):
    pixels = (torch.rand(1, 3, 32, 32) * 255).round()
    buffer = io.BytesIO()
    Image.fromarray(pixels[0].permute(1, 2, 0).to(torch.uint8).numpy()).save(buffer, "JPEG", quality=70)
    larger, smaller = (load("jpeg_size", sources, want=want, quality=70) for want in ("larger", "smaller"))
    assert larger(pixels / 255).item() == pytest.approx(buffer.tell() / 1000)
    assert smaller(pixels / 255).item() == -larger(pixels / 255).item()


def test_colors_have_their_published_lab_coordinates_and_the_right_one_wins(sources):
    colors = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])[:, :, None, None]
    expected = torch.tensor([[100.0, 0.0, 0.0], [53.24, 80.09, 67.20]])
    assert torch.allclose(lab(colors)[:, :, 0, 0], expected, atol=0.01)  # as published, two digits
    score = load("color", sources, color="ff0000")
    assert score(colors.expand(2, 3, 8, 8))[1].item() == pytest.approx(0, abs=1e-5)
    assert score(colors.expand(2, 3, 8, 8))[0].item() < -50


def test_similarity_is_the_peak_signal_to_noise_ratio(sources):
    score = load("similarity", sources, picture="x")
    own = torch.from_numpy(sources.find_picture("x")).permute(2, 0, 1)[None] / 255
    assert score(own).item() == pytest.approx(100)
    assert score(own - 0.1)[0].item() == pytest.approx(20, abs=1e-4)
    assert load("similarity", sources, picture="x", side=8)(own).item() == pytest.approx(100)


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_published_form_is_that_of_transformers(sources, weights, key):
    folder = weights / "rewards" / key
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)  # their size: nothing is resized
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pictures = processor([Image.fromarray(one) for one in pixels], return_tensors="pt")
    words = tiny_models.clip_tokenizer()("a red fox", return_tensors="pt")
    with torch.no_grad():
        logits = model(**words, **pictures).logits_per_image[:, 0]
    factor = {"clip": 100, "pickscore": model.logit_scale.exp().item(), "hpsv2": 1}[key]
    expected = logits / model.logit_scale.exp() * factor
    scored = load(key, sources, "a red fox")(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    assert torch.allclose(scored, expected, rtol=1e-4)


def test_other_sizes_are_prepared_as_the_image_processor_does_but_for_its_rounding(sources, weights):
    folder = weights / "rewards" / "clip"
    model = CLIPModel.from_pretrained(folder).eval()
    smooth = torch.linspace(0, 1, 64)[None, :, None] * torch.linspace(0, 1, 48)[None, None] * torch.ones(3, 1, 1)
    pixels = (smooth * 255).round().to(torch.uint8)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    picture = processor(Image.fromarray(pixels.permute(1, 2, 0).numpy()), return_tensors="pt")
    words = tiny_models.clip_tokenizer()("a red fox", return_tensors="pt")
    with torch.no_grad():
        logit = model(**words, **picture).logits_per_image[0, 0] / model.logit_scale.exp() * 100
    scored = load("clip", sources, "a red fox")(pixels[None] / 255)
    assert scored.item() == pytest.approx(logit.item(), abs=0.5)  # of 100: half a level of rounding


@pytest.mark.parametrize("key", PUBLISHED)
def test_missing_and_broken_weights_are_said_in_a_sentence(tmp_path, weights, key):
    with pytest.raises(ModelMissingError, match=f"rewards/{key}/config.json is not in the models folder"):
        REWARDS[key].build().check("a fox", RewardSources(tmp_path))
    folder = tmp_path / "rewards" / key
    folder.mkdir(parents=True)
    for path in (weights / "rewards" / key).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelFileError, match="cannot be read"):
        REWARDS[key].build().load("a fox", RewardSources(tmp_path))


def test_a_prompt_outside_the_grammar_a_bad_color_and_no_picture_are_refused(sources):
    with pytest.raises(SettingsError, match="cannot judge by this prompt"):
        REWARDS["adherence"].build().check("an essay on light", sources)
    with pytest.raises(SettingsError, match="six hexadecimal digits"):
        REWARDS["color"].build({"color": "reddish"}).check("", sources)
    with pytest.raises(SettingsError, match="No picture is named"):
        REWARDS["similarity"].build().check("", sources)
    with pytest.raises(SettingsError, match="no picture 'nothing'"):
        REWARDS["similarity"].build({"picture": "nothing"}).check("", RewardSources(sources.models))
    assert math.isfinite(load("jpeg_size", sources)(torch.zeros(1, 3, 8, 8)).item())
