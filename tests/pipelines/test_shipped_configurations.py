"""Single files of Stable Diffusion 1, 2 and SDXL load from what is shipped: no donor here, no hub."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil

import pytest
import regex
import torch
from checkpoint_files import checkpoint_of, open_clip, renamed, unet_name, vae_name, xl_checkpoint_of
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from model_folders import loader_of
from prompt_samples import sample_prompts
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.models import shipped_configurations
from pipelines.models.files import read_json
from pipelines.models.shipped_configurations import CONFIGURATIONS, load_light_part, read_clip_vocabulary
from pipelines.weights import kinds

TEXT_CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
PARAMETERS = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
}
"""Numbers of parameters of the published models; of SD 2 without the last layer of its text encoder."""

WIDTHS = {"sd1": 16, "sd2": 20, "sdxl": 40}
"""Of the text that the tiny networks read."""

IDS_OF_SAMPLES = "d831b1f9ad8f6a0bd8a2500560ada570d2034bcd049b717c4d8f1f11afa5ce47"
"""SHA-256 of the ids of `sample_prompts()` as JSON. The tokenizer of open_clip_torch 3.3.0, its repair of text by ftfy
left out, gave the same ids for all 1,000."""


def build_part(base: str, name: str):
    folder = shipped_configurations.CONFIGURATIONS / base / name
    if name.startswith("text_encoder"):
        return TEXT_CLASSES[name](CLIPTextConfig.from_pretrained(folder))
    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[name].from_config(read_json(folder / "config.json"))


@pytest.mark.parametrize("base", PARAMETERS)
def test_the_parts_have_as_many_parameters_as_the_published_ones(base):
    with torch.device("meta"):
        counted = {
            name: sum(parameter.numel() for parameter in build_part(base, name).parameters())
            for name in PARAMETERS[base]
        }
    assert counted == PARAMETERS[base]


def tokenize_by_hand(text: str, ids: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """Byte-pair encoding as Sennrich et al. (arXiv:1508.07909) and Radford et al. (CLIP) describe it.

    The vocabulary's first 256 tokens are the signs of bytes; which byte has which follows from Latin-1.
    """
    printable = [byte for byte in range(256) if 33 <= byte <= 126 or (161 <= byte <= 255 and byte != 173)]
    signs = {byte: chr(byte) for byte in printable}
    signs |= {byte: chr(256 + number) for number, byte in enumerate(sorted(set(range(256)) - set(printable)))}
    found = []
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
    for word in regex.findall(pattern, " ".join(text.split()).lower()):
        pieces = [signs[byte] for byte in word.encode()]
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: ranks.get(pair, math.inf))
            if best not in ranks:
                break
            merged = []
            while pieces:
                take = 2 if tuple(pieces[:2]) == best else 1
                merged.append("".join(pieces[:take]))
                pieces = pieces[take:]
            pieces = merged
        found += [ids[piece] for piece in pieces]
    return [ids["<|startoftext|>"], *found, ids["<|endoftext|>"]]


def test_ids_are_those_of_a_second_implementation_and_of_open_clip():
    tokenizer = load_light_part(CLIPTokenizer, CONFIGURATIONS / "sd1" / "tokenizer")
    ids, merges = read_clip_vocabulary()
    assert (len(ids), len(tokenizer), tokenizer.model_max_length) == (49_408, 49_408, 77)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    prompts = sample_prompts()
    sampled = [tokenizer(prompt, verbose=False).input_ids for prompt in prompts]
    assert hashlib.sha256(json.dumps(sampled).encode()).hexdigest() == IDS_OF_SAMPLES
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    assert [tokenize_by_hand(prompt, ids, ranks) for prompt in prompts[:200]] == sampled[:200]


@pytest.mark.parametrize(("base", "name", "pad"), [("sd1", "tokenizer", 49407), ("sdxl", "tokenizer_2", 0)])
def test_short_prompts_are_filled_as_the_models_were_trained(base, name, pad):
    tokenizer = load_light_part(CLIPTokenizer, CONFIGURATIONS / base / name)
    filled = tokenizer("a cat", padding="max_length", max_length=77).input_ids
    assert filled == [49406, 320, 2368, 49407, *[pad] * 73]


def shrink(part: str, base: str, config: dict) -> dict:
    """The configuration with fewer and narrower layers; whatever else it says stays."""
    if part == "unet":
        small = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
        small |= {"down_block_types": config["down_block_types"][-2:][::-1], "attention_head_dim": 4}
        small |= {"cross_attention_dim": WIDTHS[base]}
        if base == "sdxl":
            small |= {"down_block_types": config["down_block_types"][:2], "transformer_layers_per_block": [1, 1]}
            small |= {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 48}
        return (
            config
            | small
            | {"up_block_types": [name.replace("Down", "Up") for name in small["down_block_types"]][::-1]}
        )
    if part == "vae":
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
        return config | blocks | {"block_out_channels": [4, 8, 8], "layers_per_block": 1, "norm_num_groups": 2}
    width = {"text_encoder": min(WIDTHS[base], 20) if base != "sdxl" else 16, "text_encoder_2": 24}[part]
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
    return config | sizes | {"num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def small_configurations(tmp_path, monkeypatch):
    """The shipped configurations with tiny sizes in their place; tokenizers and schedulers are the shipped ones."""
    folder = tmp_path / "configurations"
    shutil.copytree(CONFIGURATIONS, folder)
    for path in folder.glob("*/*/config.json"):
        small = shrink(path.parent.name, path.parents[1].name, read_json(path))
        path.write_text(json.dumps(small))
    monkeypatch.setattr(shipped_configurations, "CONFIGURATIONS", folder)
    for base, width in WIDTHS.items():
        monkeypatch.setitem(kinds.CONTEXT_WIDTHS, width, ("sdxl" if base == "sdxl" else "sd", base))


def build_stock(base: str):
    """The stock pipeline with random weights, its light parts loaded as ours are."""
    index = read_json(shipped_configurations.CONFIGURATIONS / base / "model_index.json")
    torch.manual_seed(7)
    parts = {name: build_part(base, name).eval().requires_grad_(False) for name in PARAMETERS[base]}
    for name in index:
        if name.startswith("tokenizer"):
            parts[name] = load_light_part(CLIPTokenizer, shipped_configurations.CONFIGURATIONS / base / name)
    if base == "sdxl":
        return StableDiffusionXLPipeline(**parts, scheduler=None, add_watermarker=False)
    return StableDiffusionPipeline(
        **parts, scheduler=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def name_tensors(base: str, stock) -> dict[str, torch.Tensor]:
    if base == "sdxl":
        return xl_checkpoint_of(stock)
    if base == "sd1":
        return checkpoint_of(stock)
    text = open_clip(stock.text_encoder, "cond_stage_model.model.")
    return {**renamed(stock.unet, unet_name), **renamed(stock.vae, vae_name), **text}


@pytest.mark.parametrize("base", PARAMETERS)
def test_a_single_file_runs_without_a_donor_and_without_the_hub(base, small_configurations, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stock = build_stock(base)
    (tmp_path / "models").mkdir()
    save_file(name_tensors(base, stock), tmp_path / "models" / "painter.safetensors")
    loader = loader_of(tmp_path / "models")
    assert loader.catalog["painter"].problem == ""
    with loader.model("painter") as model:
        for name in PARAMETERS[base]:
            expected = getattr(stock, name).state_dict()
            loaded = model.components[name].state_dict()
            assert loaded.keys() == expected.keys()
            assert all(torch.equal(loaded[key], weight) for key, weight in expected.items()), name
        prediction = {"sd1": "epsilon", "sd2": "v_prediction", "sdxl": "epsilon"}[base]
        assert model.scheduler_config["prediction_type"] == prediction
        assert model.scheduler_config["num_train_timesteps"] == 1000
        encoded = model.encode_prompts("a photo of a fox", "blurry", 1, (32, 32))
        theirs = stock.encode_prompt(
            prompt="a photo of a fox", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        assert torch.equal(encoded["positive"].tensors["prompt_embeds"], theirs)
