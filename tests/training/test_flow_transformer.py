"""The flow transformer's training, on a recipe so small that a step takes milliseconds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from training_toys import TOY

from pipelines.core.errors import ModelFileError, TrainingError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.emoji.objects import Catalog, shipped_catalog
from pipelines.families import family_of
from pipelines.families.preview import read_factors
from pipelines.families.sd3 import StableDiffusion3
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.training.autoencoder import build_autoencoder
from pipelines.training.composition_denoiser import composition_corpus
from pipelines.training.denoiser_networks import build_text_encoder
from pipelines.training.flow_networks import build_text_encoders, build_transformer, encode_for_transformer
from pipelines.training.flow_transformer import FlowTransformerTask, main
from pipelines.training.measures import load_pipeline
from pipelines.training.objectives import stratified_logit_normal
from pipelines.training.recipes import TransformerRecipe
from pipelines.training.tokenizer import encode_captions, train_tokenizer
from pipelines.training.trainer import Settings, Trainer

SHAPE = TransformerRecipe(
    width=24, layers=2, heads=2, text_width=32, words_width=8, batch=4, steps=20, learning_rate=3e-3, warmup=2
)
RECIPE = dataclasses.replace(
    TOY, denoiser=dataclasses.replace(TOY.denoiser, tokens=32, first=16, fresh=1), transformer=SHAPE
)


def catalog() -> Catalog:
    shipped = shipped_catalog(None)
    return Catalog(shipped.objects[:12], shipped.folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(composition_corpus(catalog(), 200), 700, 32, tmp_path_factory.mktemp("tokenizer"))


def build_task(tokenizer, **shape) -> FlowTransformerTask:
    torch.manual_seed(0)
    vae = build_autoencoder(RECIPE.autoencoder, RECIPE.size)
    first, second = build_text_encoders(SHAPE, build_text_encoder(RECIPE.denoiser, tokenizer))
    transformer = build_transformer(SHAPE, 4, RECIPE.size // 2)
    networks = {"transformer": transformer, "text_encoder": first, "text_encoder_2": second}
    recipe = dataclasses.replace(RECIPE, transformer=dataclasses.replace(SHAPE, **shape))
    return FlowTransformerTask(recipe, torch.nn.ModuleDict(networks), vae, tokenizer, catalog())


def test_times_have_a_normal_logit_one_in_each_equal_part():
    times = stratified_logit_normal(4_000, 0.5, 2.0, torch.Generator().manual_seed(0)).double()
    shares = torch.special.ndtr((torch.logit(times) - 0.5) / 2)
    assert ((shares * 4_000).floor() == torch.arange(4_000)).double().mean() > 0.999  # float32 rounds a few over
    assert (times.diff() >= 0).all() and times.min() > 0 and times.max() < 1


def test_what_the_transformer_reads_is_the_trained_encoders_last_layer_and_the_words(tokenizer):
    torch.manual_seed(0)
    trained = build_text_encoder(RECIPE.denoiser, tokenizer).eval()
    first, second = (part.eval() for part in build_text_encoders(SHAPE, trained))
    tokens = encode_captions(tokenizer, ["a fox on a blue background", ""])
    context, pooled = encode_for_transformer(
        torch.nn.ModuleDict({"text_encoder": first, "text_encoder_2": second}), tokens, 50, empty_tokens=3
    )
    before = trained(tokens, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(context[:, :32, :32], before)
    assert torch.equal(context[:, :32, 32:40], second(tokens, output_hidden_states=True).hidden_states[0])
    assert context.shape == (2, 35, 50) and not context[:, 32:].any() and not context[..., 40:].any()
    assert pooled.shape == (2, 40)


def test_a_fresh_transformer_says_zero_and_its_loss_is_that_of_the_velocity(tokenizer):
    task = build_task(tokenizer, reading=0.0)
    seen = {}

    def remember(module, arguments, keywords, output):
        seen.update(noisy=arguments[0].detach(), times=arguments[3] / 1_000, said=output[0].detach())

    task.networks["transformer"].register_forward_hook(remember, with_kwargs=True)
    loss = task.loss(3)
    assert not seen["said"].any()
    rng = np.random.default_rng([0, 3])
    latents = task.pool.batch(3, 4, rng, SHAPE.empty_captions)[0]
    share = seen["times"].view(-1, 1, 1, 1)
    noise = (seen["noisy"] - (1 - share) * latents) / share  # x_t = (1 - t) x_0 + t eps, equation 1
    assert torch.isclose(loss, (noise - latents).square().mean(), rtol=1e-4)
    assert 0.8 < noise.std() < 1.2


@pytest.mark.parametrize("padded", [0.0, 1.0])
def test_training_lowers_the_loss_and_goes_on_bit_for_bit(tokenizer, tmp_path, padded):
    whole, parts = build_task(tokenizer, padded=padded), build_task(tokenizer, padded=padded)
    Trainer(whole, tmp_path / "whole", Settings(steps=6)).run()
    Trainer(parts, tmp_path / "parts", Settings(steps=3)).run()
    parts.steps = whole.steps
    Trainer(parts, tmp_path / "parts", Settings(steps=6)).run()
    for name, value in whole.networks.state_dict().items():
        assert torch.equal(value, parts.networks.state_dict()[name]), name


def test_an_export_is_a_stock_pipeline_and_the_studio_draws_the_same(tokenizer, tmp_path):
    task = build_task(tokenizer)
    generator = torch.Generator().manual_seed(1)
    for parameter in task.networks["transformer"].parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    task.export(tmp_path / "model")
    task.sheet(tmp_path / "sheet.png")
    pipeline = load_pipeline(tmp_path / "model")
    assert type(pipeline) is StableDiffusion3Pipeline
    components = pipeline.components | {"preview": read_factors(tmp_path / "model")}
    family = family_of(components)
    assert isinstance(family, StableDiffusion3) and family.max_sequence_length == 0
    request = Request(
        prompt="a fox on a blue background",
        num_inference_steps=4,
        sampler=Choice("flow_euler", {}),
        guidance=Choice("cfg", {"guidance_scale": 3.0}),
        seed=5,
    )
    run = build_run(resolve(request, family), family)
    *_, step = denoise(run)
    stock = pipeline(
        request.prompt,
        sigmas=[level.sigma for level in run.levels[:-1]],
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        max_sequence_length=0,
    ).images
    assert torch.allclose(step.latents, stock, atol=2e-5)
    assert family_of(pipeline.components).max_sequence_length == 256


@pytest.mark.parametrize("count", [-1, 513, "256", 1.5])
def test_a_number_of_empty_tokens_that_cannot_be_is_refused(tokenizer, tmp_path, count):
    task = build_task(tokenizer)
    pipeline = task._build_pipeline({part: task.networks[part] for part in list(task.networks)[:3]}, task.vae)
    with pytest.raises(ModelFileError, match="max_sequence_length"):
        family_of(pipeline.components | {"preview": {"max_sequence_length": count}})


def test_a_recipe_without_a_transformer_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"no transformer\. Choose one of: emoji-128"):
        main(["--recipe", "cpu", "--start", str(tmp_path), "--run-dir", str(tmp_path / "run")])
