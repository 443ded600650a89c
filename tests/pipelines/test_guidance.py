"""Guidance methods: their formulas in float64, their neutral settings bit for bit, and whole runs on tiny models."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance as stock_projection
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.tangential_classifier_free_guidance import normalized_guidance as stock_damping

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import denoise
from pipelines.core.prediction import Prediction
from pipelines.core.schedule import Level
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.guidance import GUIDANCE
from pipelines.guidance.adaptive import cosine
from pipelines.guidance.frequency import low_pass
from pipelines.guidance.projected import project
from pipelines.guidance.residual import residual_output
from pipelines.guidance.tangential import project_on_main_direction
from pipelines.guidance.zero_star import optimal_scale
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.workflows.compare.request import evaluations

NEUTRAL = {
    "cfg": {},
    "interval": {"sigma_low": 0.0, "sigma_high": 0.0},
    "apg": {"parallel": 1.0, "norm_threshold": 0.0, "momentum": 0.0},
    "cfg_zero_star": {"scaling": False, "zero_levels": 0},
    "tcfg": {"damping": 0.0},
    "fdg": {"low_frequency_scale": 3.0},
    "adaptive": {"threshold": 1.01},
    "residual": {"refresh": 1},
    "pag": {"perturbed_scale": 0.0},
    "seg": {"perturbed_scale": 0.0},
    "slg": {"perturbed_scale": 0.0},
    "nag": {"negative_scale": 1.0},
    "nasa": {"negative_scale": 0.0},
    "sag": {"blur_scale": 0.0},
    "autoguidance": {"perturbed_scale": 0.0},
    "attend_and_excite": {"step_size": 0.0},
    "a_star": {"step_size": 0.0},
    "linear": {"every": 1, "share": 1.0},
    "minority": {"strength": 0.0},
    "blended": {"second": ""},
    "judged": {"strength": 0.0},
}
TINY = {"slg": {"first_block": 0, "last_block": 0, "sigma_low": 0.5}, "residual": {"guidance_scale": 1.2}}
TINY |= {"blended": {"second": "a cat face"}}
"""Settings for networks of one or two blocks, whose first estimate of x0 is a hundred times too large."""
EMBEDDED = {"pag": "no UNet", "seg": "no UNet", "sag": "no UNet", "slg": "Stable Diffusion 3"}
EMBEDDED |= dict.fromkeys(("attend_and_excite", "a_star"), "no UNet")
"""Why methods do not fit FLUX, where it is not the missing branch."""
WITHOUT_BRANCHES = ("nag", "nasa")
"""What fits networks that take the guidance scale as an input."""
LEVEL = Level(math.sqrt(0.5), math.sqrt(0.5), 500.0)
FLOW_LEVEL = Level(0.4, 0.6, 600.0)
KINDS = {"epsilon": LEVEL, "v_prediction": LEVEL, "sample": LEVEL, "flow": FLOW_LEVEL}


def random_latents(seed: int, rows: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(rows, 4, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def branches(kind: str = "epsilon", level: Level | None = None, rows: int = 3, seed: int = 0) -> dict[str, Prediction]:
    """A conditional and an unconditional prediction that resemble each other."""
    latents, shared = random_latents(seed, rows), random_latents(seed + 1, rows)
    raws = {"negative": shared, "positive": shared + 0.3 * random_latents(seed + 2, rows)}
    return {name: Prediction(raw, latents, level or KINDS[kind], kind) for name, raw in raws.items()}


def at_same_place(kind: str) -> dict[str, Prediction]:
    """Predictions of one kind that all estimate the same x0 from the same latents."""
    wanted = branches("sample", KINDS[kind])
    built = {}
    for name, prediction in wanted.items():
        alpha, sigma = prediction.level.alpha, prediction.level.sigma
        latents, clean = prediction.latents, prediction.raw
        noise = (latents - alpha * clean) / sigma
        raw = {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "flow": noise - clean, "sample": clean}
        built[name] = Prediction(raw[kind], latents, prediction.level, kind)
    return built


@pytest.fixture(scope="module", params=["sd", "sd3"])
def family(request):
    pipe = {"sd": tiny_models.tiny_sd, "sd3": tiny_models.tiny_sd3}[request.param]()
    found = family_of(pipe.components)
    if request.param == "sd3":
        found.max_sequence_length = 8
    return found


def draw(family, key: str, batch_size: int = 1, seed: int = 3, steps: int = 4, **settings):
    request = Request(
        prompt="a fox",
        num_inference_steps=steps,
        width=32,
        height=32,
        seed=seed,
        batch_size=batch_size,
        guidance=Choice(key, {"guidance_scale": 3.0, **settings}),
    )
    resolved = resolve(request, family)
    return [list(denoise(build_run(resolved, family)))[-1] for _ in range(2)]


@pytest.mark.parametrize("key", list(GUIDANCE))
def test_a_run_at_the_neutral_settings_is_classifier_free_guidance_bit_for_bit(family, key):
    assert set(NEUTRAL) == set(GUIDANCE)
    if GUIDANCE[key].fit(family.traits):
        with pytest.raises(MethodFitError):
            draw(family, key)
        return
    assert torch.equal(draw(family, key, **NEUTRAL[key])[0].latents, draw(family, "cfg")[0].latents)


@pytest.mark.parametrize("key", list(GUIDANCE))
def test_a_run_repeats_itself_and_its_picture_does_not_depend_on_its_batch(family, key):
    if GUIDANCE[key].fit(family.traits) or key == "linear":
        pytest.skip("it does not fit this model")
    first, again = draw(family, key, batch_size=3, **TINY.get(key, {}))
    assert torch.equal(first.latents, again.latents)  # what one run remembered is not the next one's
    alone = draw(family, key, seed=5, **TINY.get(key, {}))[0]
    size = float(alone.latents.abs().max())  # what is guided far is rounded as far
    assert torch.allclose(first.latents[2:], alone.latents, atol=2e-5 * max(size, 5.0))
    if key != "cfg":
        assert not torch.allclose(alone.latents, draw(family, "cfg", seed=5)[0].latents, atol=1e-3)


@pytest.mark.parametrize("key", [key for key in GUIDANCE if key != "cfg"])
def test_a_model_without_an_unconditional_prediction_is_refused_with_the_reason(key):
    embedded = EMBEDDED.get(key, "as an input")
    if key not in WITHOUT_BRANCHES:
        assert embedded in GUIDANCE[key].fit(Traits("flux", "flow", "transformer", "embedded"))
    assert GUIDANCE[key].fit(Traits("stock", "epsilon", "pipeline", "cfg"))
    fitting = Traits("sd3", "flow", "transformer", "cfg") if key == "slg" else Traits("sd", "epsilon", "unet", "cfg")
    assert GUIDANCE[key].fit(fitting) is None


@pytest.mark.parametrize("key", list(GUIDANCE))
def test_a_scale_of_one_evaluates_one_branch(key):
    further = (
        {"low_frequency_scale": 1.0} if key == "fdg" else NEUTRAL[key] if "perturbed_scale" in NEUTRAL[key] else {}
    )
    guidance = GUIDANCE[key].build({"guidance_scale": 1.0, **further})
    assert guidance.plan(LEVEL) == ("positive",)
    only = {"positive": branches()["positive"]}
    assert guidance.combine(only) is only["positive"]


def test_the_interval_is_open_below_and_closed_above():
    guidance = GUIDANCE["interval"].build({"guidance_scale": 3.0, "sigma_low": 0.5, "sigma_high": 2.0})
    ratios = {0.0: 1, 0.5: 1, 0.51: 2, 2.0: 2, 2.01: 1}
    for ratio, count in ratios.items():
        alpha = 1 / math.sqrt(1 + ratio**2)
        assert len(guidance.plan(Level(alpha, alpha * ratio, 1.0))) == count, ratio
    assert len(guidance.plan(Level(0.0, 1.0, 999.0))) == 1  # noise alone
    open_end = GUIDANCE["interval"].build({"sigma_low": 0.5, "sigma_high": 0.0})
    assert len(open_end.plan(Level(0.0, 1.0, 999.0))) == 2


def test_an_interval_spares_evaluations_and_says_so(family):
    step = draw(family, "interval", steps=6, sigma_low=0.5, sigma_high=4.0)[0]
    assert 6 < step.evaluations < 12


@pytest.mark.parametrize("threshold", [0.0, 2.0])
@pytest.mark.parametrize("kind", list(KINDS))
def test_projected_guidance_says_the_same_of_x0_for_every_form_of_network(kind, threshold):
    settings = {"guidance_scale": 6.0, "parallel": 0.3, "norm_threshold": threshold, "momentum": -0.5}
    guidance = GUIDANCE["apg"].build(settings)
    ours = [guidance.combine(at_same_place(kind)).denoised for _ in range(3)]
    clean = {name: prediction.raw for name, prediction in branches("sample", KINDS[kind]).items()}
    buffer = MomentumBuffer(-0.5)  # algorithm 1 as diffusers has it, on the estimates of x0
    for result in ours:
        theirs = stock_projection(
            clean["positive"],
            clean["negative"],
            5.0,
            buffer,
            eta=0.3,
            norm_threshold=threshold,
            use_original_formulation=True,
        )
        assert torch.allclose(result, theirs, atol=1e-10)


def test_without_its_parallel_part_an_update_is_orthogonal_to_the_prediction():
    guidance = GUIDANCE["apg"].build({"guidance_scale": 6.0, "parallel": 0.0, "norm_threshold": 0.0, "momentum": 0.0})
    pair = branches("sample")
    update = guidance.combine(pair).raw - pair["positive"].raw
    products = (update * pair["positive"].raw).flatten(1).sum(1)
    assert products.abs().max() < 1e-9 < update.abs().max()
    assert not project(update, torch.zeros_like(update)).any()


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_the_norm_threshold_binds_only_what_is_longer(limit):
    guidance = GUIDANCE["apg"].build({"guidance_scale": 2.0, "parallel": 1.0, "norm_threshold": 0.5, "momentum": 0.0})
    if limit > 100:
        guidance.norm_threshold = limit
    pair = branches("sample")
    update = guidance.combine(pair).raw - pair["positive"].raw  # w - 1 = 1
    whole = (pair["positive"].raw - pair["negative"].raw).flatten(1).norm(dim=1)
    assert torch.allclose(update.flatten(1).norm(dim=1), whole.clamp(max=limit), atol=1e-9)


def test_the_optimal_scale_leaves_a_rest_orthogonal_to_the_unconditional_prediction():
    pair = branches()
    low, high = pair["negative"].raw, pair["positive"].raw
    scale = optimal_scale(low, high)
    assert ((high - scale * low) * low).flatten(1).sum(1).abs().max() < 1e-9
    assert torch.allclose(
        scale.flatten(), cfg_zero_star_scale(high.flatten(1), low.flatten(1)).flatten().double(), atol=1e-5
    )
    assert torch.equal(optimal_scale(torch.zeros_like(low), high).flatten(), torch.ones(3, dtype=torch.float64))


def test_flow_models_stand_still_at_the_first_levels_only():
    guidance = GUIDANCE["cfg_zero_star"].build({"guidance_scale": 3.0, "zero_levels": 2})
    levels = [Level(1 - time, time, 1000 * time) for time in (1.0, 0.8, 0.8, 0.6, 0.8, 0.4)]
    still = [not guidance.combine(branches("flow", level)).raw.any() for level in levels]
    assert still == [True, True, True, False, True, False]  # 0.8 is among the first however often it is asked for
    noise = GUIDANCE["cfg_zero_star"].build({"guidance_scale": 3.0, "zero_levels": 2})
    assert noise.combine(branches("epsilon")).raw.any()


def test_damping_projects_on_the_first_singular_vector():
    pair = branches()
    low, high = pair["negative"].raw, pair["positive"].raw
    rows = torch.stack([high.flatten(1), low.flatten(1)], dim=1)
    main = torch.linalg.svd(rows, full_matrices=False).Vh[:, 0]
    wanted = (low.flatten(1) * main).sum(1, keepdim=True) * main
    assert torch.allclose(project_on_main_direction(low, high).flatten(1), wanted, atol=1e-10)
    ours = GUIDANCE["tcfg"].build({"guidance_scale": 3.0}).combine(pair).raw
    assert torch.allclose(ours, stock_damping(high, low, 3.0), atol=1e-5)  # theirs is in float32


def test_a_low_pass_keeps_constants_is_linear_and_takes_the_finest_pattern_away():
    flat = torch.full((2, 3, 8, 6), 0.7, dtype=torch.float64)
    assert torch.allclose(low_pass(flat), flat, atol=1e-12)
    board = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).double().mul(2).sub(1).expand(1, 1, 16, 16)
    assert low_pass(board).abs().max() < 1e-12
    first, second = random_latents(1), random_latents(2)
    assert torch.allclose(low_pass(first + 2 * second), low_pass(first) + 2 * low_pass(second), atol=1e-12)
    single = random_latents(3, size=1)
    assert torch.allclose(low_pass(single), single, atol=1e-12)


def test_frequency_decoupled_guidance_is_the_pyramid_guided_level_by_level():
    pair = branches()
    low, high = pair["negative"].raw, pair["positive"].raw
    ours = GUIDANCE["fdg"].build({"guidance_scale": 6.0, "low_frequency_scale": 2.0}).combine(pair).raw
    coarse = low_pass(low) + 2 * (low_pass(high) - low_pass(low))
    fine_low, fine_high = low - low_pass(low), high - low_pass(high)
    assert torch.allclose(ours, coarse + fine_low + 6 * (fine_high - fine_low), atol=1e-10)


def test_adaptive_guidance_turns_each_sample_at_its_own_level():
    guidance = GUIDANCE["adaptive"].build({"guidance_scale": 3.0, "threshold": 0.9})
    noise = random_latents(1, 2)
    other = random_latents(2, 2)
    cosines, plans, results = [], [], []
    for shares in ((0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)):
        share = torch.tensor(shares, dtype=torch.float64).view(-1, 1, 1, 1)
        pair = {
            "negative": Prediction(noise, noise, LEVEL, "epsilon"),
            "positive": Prediction(noise + share * other, noise, LEVEL, "epsilon"),
        }
        plans.append(len(guidance.plan(LEVEL)))
        cosines.append(cosine(pair["negative"].noise, pair["positive"].noise).flatten() >= 0.9)
        results.append((guidance.combine(pair).raw, pair["positive"].raw, noise))
    assert [row.tolist() for row in cosines] == [[True, False], [False, False], [True, True], [True, True]]
    assert plans == [2, 2, 2, 1]
    raw, positive, negative = results[1]
    assert torch.equal(raw[0], positive[0])  # it had agreed before
    assert torch.equal(raw[1], negative[1] + 3 * (positive[1] - negative[1]))


@pytest.mark.parametrize(
    ("low", "high", "branch_count"), [(0.28, 5.42, 2), (8.0, 60.0, 2), (0.0, 0.01, 2), (9.0, 9.001, 1)]
)
def test_a_comparison_counts_the_most_branches_of_any_level(low, high, branch_count):
    settings = {"guidance_scale": 3.0, "sigma_low": low, "sigma_high": high}
    request = Request(num_inference_steps=10, guidance=Choice("interval", settings))
    plain = Request(num_inference_steps=10, guidance=Choice("cfg", {"guidance_scale": 1.0}))
    assert evaluations(request, None) == branch_count * evaluations(plain, None)


def test_adaptive_guidance_counts_what_it_evaluates(family):
    step = draw(family, "adaptive", steps=6, threshold=0.5)[0]
    request = Request(num_inference_steps=6, guidance=Choice("adaptive", {"guidance_scale": 3.0}))
    assert 6 < step.evaluations < 12 <= evaluations(request, family.traits) + 1


@pytest.mark.parametrize(("refresh", "count"), [(0, 7), (1, 12), (3, 8)])
def test_residual_guidance_is_priced_at_what_it_evaluates(family, refresh, count):
    settings = {"guidance_scale": 3.0, "refresh": refresh}
    step = draw(family, "residual", steps=6, **settings)[0]
    request = Request(num_inference_steps=6, guidance=Choice("residual", settings))
    assert step.evaluations == count == evaluations(request, family.traits)


@pytest.mark.parametrize("kind", KINDS)
def test_residual_guidance_is_classifier_free_guidance_where_the_negative_estimate_of_x0_stays(kind):
    settings = {"guidance_scale": 3.0}
    residual, stock = GUIDANCE["residual"].build(settings), GUIDANCE["cfg"].build(settings)
    first = at_same_place(kind)
    assert residual.plan(KINDS[kind]) == ("negative", "positive")
    assert torch.equal(residual.combine(first).raw, stock.combine(first).raw)
    assert residual.plan(KINDS[kind]) == ("positive",)
    origin = first["negative"].denoised
    later = Level(0.9, 0.1, 100.0) if kind == "flow" else Level(0.8, 0.6, 100.0)
    latents = random_latents(9)
    positive = Prediction(random_latents(10), latents, later, kind)
    negative = positive.with_raw(residual_output(origin, positive))
    assert torch.allclose(negative.denoised, origin, atol=1e-12)
    expected = stock.combine({"negative": negative, "positive": positive}).raw
    assert torch.allclose(residual.combine({"positive": positive}).raw, expected, atol=1e-12)


def test_residual_guidance_leads_away_from_a_picture_without_asking_the_negative_prompt():
    picture, positive = random_latents(1), branches()["positive"]
    guidance = GUIDANCE["residual"].build({"guidance_scale": 2.0, "delta": 0.5}).starting_from(picture)
    assert guidance.plan(LEVEL) == ("positive",)
    residual = 0.5 * (positive.latents - LEVEL.alpha * picture) / LEVEL.sigma
    expected = residual + 2.0 * (positive.raw - residual)
    assert torch.allclose(guidance.combine({"positive": positive}).raw, expected, atol=1e-12)
    with pytest.raises(SettingsError, match="changes its size"):
        guidance.combine({"positive": branches(rows=2)["positive"]})


def test_residual_guidance_counts_one_evaluation_more_than_steps(family):
    assert draw(family, "residual", steps=6, guidance_scale=1.2)[0].evaluations == 7
    assert draw(family, "residual", steps=6, guidance_scale=1.2, refresh=3)[0].evaluations == 8
    assert draw(family, "residual", steps=6, guidance_scale=1.0)[0].evaluations == 6
