"""Guidance away from a perturbed network: parity with the stock pipelines, and networks returned as they were."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch
from diffusers import DDIMScheduler, StableDiffusionPAGPipeline
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError
from pipelines.core.loop import denoise
from pipelines.core.prediction import Query
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.guidance import GUIDANCE
from pipelines.guidance.perturbations import (
    BlurredQueries,
    IdentityAttention,
    RoundedWeights,
    SkippedBlocks,
    blur_matrix,
    round_weights,
    self_attentions,
)
from pipelines.requests.text_to_image import build_run, resolve


@pytest.fixture(scope="module")
def unet_pipe():
    return tiny_models.tiny_sd()


@pytest.fixture(scope="module")
def joint_pipe():
    return tiny_models.tiny_sd3()


def query_of(family, rows: int = 2):
    latents = torch.randn(rows, *family.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    level = family.noise_schedule.at(600.0 if not family.traits.flow else 0.6)
    return Query(latents, level), family.encode_prompts("a red fox", "", rows, (32, 32))


@pytest.mark.parametrize(
    ("make", "perturbation"),
    [
        ("unet", IdentityAttention()),
        ("unet", IdentityAttention("all")),
        ("unet", BlurredQueries(2.0)),
        ("unet", BlurredQueries(math.inf, "all")),
        ("joint", SkippedBlocks(0, 0)),
        ("unet", RoundedWeights(3)),
        ("joint", RoundedWeights(3)),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_perturbed_network_says_something_else_and_is_itself_again(unet_pipe, joint_pipe, make, perturbation, fails):
    family = family_of((unet_pipe if make == "unet" else joint_pipe).components)
    query, conditionings = query_of(family)

    def predict():
        with torch.no_grad():
            return family.predict_raw(query.latents, query.timesteps, conditionings["positive"])

    before = predict()
    try:
        with perturbation.applied(family):
            during = predict()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert not torch.allclose(before, during, atol=1e-5)
    assert torch.equal(before, predict())


def test_identity_attention_is_that_of_diffusers(unet_pipe):
    layer = self_attentions(unet_pipe.unet, "middle")[0]
    hidden = torch.randn(2, 16, layer.to_q.in_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), IdentityAttention().applied(family_of(unet_pipe.components)):
        ours = layer(hidden)
        layer.set_processor(PAGIdentitySelfAttnProcessor2_0())
        theirs = layer(torch.cat([hidden, hidden]))[2:]
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("size", "sigma"), [(1, 2.0), (4, 10.0), (9, 1.5), (6, 1e4), (5, math.inf)])
def test_a_blur_keeps_constants_and_the_sum_and_ends_at_the_mean(size, sigma):
    matrix = blur_matrix(size, sigma, torch.float64)
    assert torch.allclose(matrix.sum(1), torch.ones(size, dtype=torch.float64), atol=1e-12)
    assert (matrix >= 0).all()
    if sigma > 1e3:
        assert torch.allclose(matrix, torch.full_like(matrix, 1 / size), atol=0.1 if size > 1 else 0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_rounded_to_the_nearest_of_their_rows_levels(bits):
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    rounded, levels = round_weights(weight, bits), 2 ** (bits - 1) - 1
    step = weight.flatten(1).abs().amax(1) / levels
    assert ((rounded - weight).abs().flatten(1) <= step[:, None] / 2 + 1e-12).all()
    places = rounded.flatten(1) / step[:, None]
    assert torch.allclose(places, places.round(), atol=1e-9) and places.abs().max() <= levels + 1e-9
    assert torch.allclose(round_weights(rounded, bits), rounded, atol=1e-12)
    assert not round_weights(torch.zeros(2, 2), bits).any()


def test_the_blur_is_a_mirrored_convolution():
    values = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = torch.exp(-(torch.arange(-3.0, 4.0, dtype=torch.float64) ** 2) / 2)
    padded = torch.nn.functional.pad(values, (3, 3), mode="reflect")
    wanted = sum(weight * padded[..., place : place + 8] for place, weight in enumerate(weights / weights.sum()))
    assert torch.allclose(values @ blur_matrix(8, 1.0, torch.float64).T, wanted, atol=1e-12)


def test_perturbed_attention_guidance_equals_the_stock_pipeline(unet_pipe):
    names = ("vae", "text_encoder", "tokenizer", "unet")
    stock = StableDiffusionPAGPipeline(
        **{name: unet_pipe.components[name] for name in names},
        scheduler=DDIMScheduler.from_config(
            unet_pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        pag_applied_layers=["mid"],
    )
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        "a red fox",
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=3.0,
        pag_scale=2.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    family = family_of(unet_pipe.components)
    request = Request(
        prompt="a red fox",
        num_inference_steps=4,
        width=32,
        height=32,
        seed=3,
        sampler=Choice("ddim", {"eta": 0.0}),
        guidance=Choice("pag", {"guidance_scale": 3.0, "perturbed_scale": 2.0}),
    )
    *_, step = denoise(build_run(resolve(request, family), family))
    assert step.evaluations == 12
    assert torch.allclose(step.latents, theirs, atol=2e-4 * float(theirs.abs().max()))


def test_skipping_a_block_is_what_the_stock_transformer_does(joint_pipe):
    family = family_of(joint_pipe.components)
    query, conditionings = query_of(family)
    tensors = conditionings["positive"].tensors
    with torch.no_grad():
        theirs = joint_pipe.transformer(
            hidden_states=query.latents,
            timestep=query.timesteps,
            encoder_hidden_states=tensors["prompt_embeds"],
            pooled_projections=tensors["pooled_prompt_embeds"],
            skip_layers=[0],
            return_dict=False,
        )[0]
        with SkippedBlocks(0, 0).applied(family):
            ours = family.predict_raw(query.latents, query.timesteps, conditionings["positive"])
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("key", "branch_count"), [("pag", 3), ("seg", 3), ("autoguidance", 3)])
def test_the_formula_adds_the_way_from_the_perturbed_prediction(unet_pipe, key, branch_count):
    family = family_of(unet_pipe.components)
    query, conditionings = query_of(family)
    with torch.no_grad():
        guidance = GUIDANCE[key].build({"guidance_scale": 3.0, "perturbed_scale": 2.0})
        denoiser = Denoiser(family, guidance, conditionings)
        guided = denoiser.answer(query)
        one_branch = {
            name: family.predict_raw(query.latents, query.timesteps, conditionings[name])
            for name in ("negative", "positive")
        }
        with guidance.perturbation.applied(family):
            perturbed = family.predict_raw(query.latents, query.timesteps, conditionings["positive"])
    low, high = one_branch["negative"], one_branch["positive"]
    assert torch.allclose(guided.raw, low + 3 * (high - low) + 2 * (high - perturbed), atol=1e-4)
    assert denoiser.evaluations == branch_count
    alone = GUIDANCE[key].build({"guidance_scale": 1.0, "perturbed_scale": 2.0})
    with torch.no_grad():
        assert torch.allclose(
            Denoiser(family, alone, conditionings).answer(query).raw, high + 2 * (high - perturbed), atol=1e-4
        )


def test_a_composed_prompt_is_perturbed_term_by_term(unet_pipe):
    family = family_of(unet_pipe.components)
    request = Request(
        prompt="a red fox AND a blue moon",
        num_inference_steps=2,
        width=32,
        height=32,
        guidance=Choice("pag", {"guidance_scale": 3.0, "perturbed_scale": 2.0}),
    )
    *_, step = denoise(build_run(resolve(request, family), family))
    # the negative prompt, the two parts, and of the perturbed branch those two and its own base
    assert step.evaluations in (10, 12)
    plain = request.replace(prompt="a red fox")
    assert not torch.allclose(step.latents, list(denoise(build_run(resolve(plain, family), family)))[-1].latents)


def test_what_could_change_nothing_is_refused(joint_pipe):
    family = family_of(joint_pipe.components)
    with pytest.raises(MethodFitError, match="blocks, none from 7 to 9"), SkippedBlocks(7, 9).applied(family):
        pass
    with pytest.raises(MethodFitError, match="no self-attention"), IdentityAttention().applied(family):
        pass


def test_a_run_that_could_not_be_perturbed_is_refused_before_it_begins(joint_pipe):
    family = family_of(joint_pipe.components)
    request = Request(prompt="a red fox", num_inference_steps=4, width=32, height=32, guidance=Choice("slg"))
    with pytest.raises(MethodFitError, match="none from 7 to 9"):
        resolve(request, family)
    resolve(request.replace(guidance=Choice("slg", {"perturbed_scale": 0.0})), family)
