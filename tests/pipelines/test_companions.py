"""Several models as one network: exact where the models are, whatever their parameterizations."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from schedule_models import FLOW, SD

from pipelines.controls.ensemble import Ensemble, EnsembleSettings
from pipelines.core.denoiser import Denoiser
from pipelines.core.prediction import Conditioning, Prediction
from pipelines.core.types import Choice
from pipelines.families.companions import EnsembleNetwork, _build_raw, build_weight_name, join_conditionings
from pipelines.guidance import GUIDANCE

TYPES = {"epsilon": SD, "v_prediction": SD, "flow": FLOW}


class ExactDenoiser:
    """The best denoiser of N(mean, variance) data, in one prediction type; it records what it was given."""

    def __init__(self, prediction_type, mean=0.3, variance=0.6):
        self.prediction_type, self.noise_schedule = prediction_type, TYPES[prediction_type]
        self.mean, self.variance = mean, variance
        self.max_rows, self.rows_together, self.given = 0, 1, []

    def rows_that_fit(self, row):
        return 0

    def estimate(self, latents, level):
        alpha, sigma = level.alpha, level.sigma
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (latents - alpha * self.mean)

    def predict_raw(self, latents, timesteps, conditioning):
        self.given.append(conditioning)
        levels = [self.noise_schedule.at(time) for time in timesteps.tolist()]
        rows = zip(latents.split(1), levels, strict=True)
        return torch.cat([_build_raw(self.estimate(x, at), x, at, self.prediction_type) for x, at in rows])


def ask(first, second, timesteps, share=0.4):
    latents = torch.randn(len(timesteps), 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.full((len(timesteps),), share, dtype=torch.float64)
    conditioning = Conditioning({build_weight_name("other"): weight})
    times = torch.tensor(timesteps, dtype=torch.float64)
    return latents, EnsembleNetwork(first, {"other": second}).predict_raw(latents, times, conditioning)


def read_x0(raw, latents, timesteps, family):
    rows = zip(raw.split(1), latents.split(1), timesteps, strict=True)
    levels = family.noise_schedule
    return torch.cat([Prediction(one, x, levels.at(t), family.prediction_type).denoised for one, x, t in rows])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow", "sample"])
@pytest.mark.parametrize("time", [3, 400, 951.5])
def test_an_estimate_of_x0_written_as_an_output_is_read_back(kind, time):
    level = TYPES.get(kind, SD).at(time)
    x0, x = torch.randn(2, 1, 2, 4, 4, dtype=torch.float64).unbind(0)
    raw = _build_raw(x0, x, level, kind)
    torch.testing.assert_close(Prediction(raw, x, level, kind).denoised, x0, rtol=0, atol=1e-11)


@pytest.mark.parametrize("one", TYPES)
@pytest.mark.parametrize("other", TYPES)
def test_exact_denoisers_of_one_distribution_agree_in_every_parameterization(one, other):
    first, second, times = ExactDenoiser(one), ExactDenoiser(other), [40.0, 500.0, 900.0]
    latents, raw = ask(first, second, times)
    alone = first.predict_raw(latents, torch.tensor(times, dtype=torch.float64), Conditioning())
    torch.testing.assert_close(raw, alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("one", TYPES)
@pytest.mark.parametrize("other", TYPES)
def test_the_estimate_of_x0_is_the_weighted_mean(one, other):
    first, second, times = ExactDenoiser(one), ExactDenoiser(other, -0.2, 0.3), [40.0, 500.0, 900.0]
    latents, raw = ask(first, second, times)
    levels = [first.noise_schedule.at(time) for time in times]
    expected = torch.cat(
        [
            0.6 * first.estimate(x, at) + 0.4 * ExactDenoiser(one, -0.2, 0.3).estimate(x, at)
            for x, at in zip(latents.split(1), levels, strict=True)
        ]
    )
    torch.testing.assert_close(read_x0(raw, latents, times, first), expected, rtol=0, atol=1e-10)


def test_a_level_that_a_schedule_does_not_have_is_left_to_the_first_model():
    first, second = ExactDenoiser("flow"), ExactDenoiser("epsilon", -0.2)
    latents, raw = ask(first, second, [1000.0])
    alone = first.predict_raw(latents, torch.tensor([1000.0], dtype=torch.float64), Conditioning())
    assert torch.equal(raw, alone) and not second.given
    latents, raw = ask(first, second, [1000.0, 500.0])
    alone = first.predict_raw(latents, torch.tensor([1000.0, 500.0], dtype=torch.float64), Conditioning())
    assert torch.equal(raw[0], alone[0]) and not torch.equal(raw[1], alone[1])


def test_each_model_is_given_its_own_encoding_and_a_companion_without_a_share_is_not_asked():
    own = {"positive": Conditioning({"prompt_embeds": torch.ones(1, 2), "guidance": torch.tensor([4.0])})}
    theirs = {"positive": Conditioning({"prompt_embeds": torch.zeros(1, 3), "pooled": torch.zeros(1, 5)})}
    joined = join_conditionings(own, {"other": theirs})["positive"]
    first, second = ExactDenoiser("epsilon"), ExactDenoiser("epsilon")
    network, latents, times = EnsembleNetwork(first, {"other": second}), torch.randn(1, 2, 3, 3), torch.tensor([9.0])
    plain = network.predict_raw(latents, times, joined)
    assert torch.equal(plain, first.predict_raw(latents, times, Conditioning()))
    assert network.parts(latents, times, joined) == 1 and not second.given
    shared = Conditioning({**joined.tensors, build_weight_name("other"): torch.tensor([0.5])})
    network.predict_raw(latents, times, shared)
    assert network.parts(latents, times, shared) == 2
    assert set(first.given[-1].tensors) == {"prompt_embeds", "guidance"}
    assert {name: tuple(one.shape) for name, one in second.given[-1].tensors.items()} == {
        "guidance": (1,),
        "prompt_embeds": (1, 3),
        "pooled": (1, 5),
    }


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({}, [0.5] * 5),
        ({"weight": 0.0}, [1.0] * 5),
        ({"second_weight": 3.0}, [0.75] * 5),
        ({"course": "fade_in"}, [0, 0.2, 1 / 3, 3 / 7, 0.5]),
        ({"course": "fade_out"}, [0.5, 3 / 7, 1 / 3, 0.2, 0]),
        ({"begin": 0.2, "end": 0.6}, [0, 0.5, 0.5, 0, 0]),
    ],
)
def test_the_shares_of_a_step_are_the_weights_over_their_sum(settings, shares):
    ensemble = Ensemble(EnsembleSettings(second="other", **settings))
    given = ensemble.build(SimpleNamespace(device=torch.device("cpu")), [1.0, 0.5])
    for step, share in enumerate(shares):
        tensors = given.at("positive", step, 5)
        if share:
            torch.testing.assert_close(tensors[build_weight_name("other")], torch.tensor([share, share / 2]))
        else:
            assert not tensors


@pytest.mark.parametrize(
    ("settings", "positive", "negative"),
    [
        ({}, 0.5, 0.5),
        ({"reliability": 0.5, "second_weight": 3.0}, 0.75, 0.5),
        ({"reliability": 0.8, "weight": 0.0}, 1.0, 0.2),
        ({"reliability": 1.0}, 0.5, None),
    ],
)
def test_a_reliability_is_the_share_in_what_guidance_leads_away_from(settings, positive, negative):
    given = Ensemble(EnsembleSettings(second="other", **settings)).build(
        SimpleNamespace(device=torch.device("cpu")), [1.0]
    )
    shares = [given.at(branch, 1, 5).get(build_weight_name("other")) for branch in ("positive", "negative")]
    assert [None if one is None else pytest.approx(one.item()) for one in shares] == [positive, negative]


@pytest.mark.parametrize("reliability", [0.3, 1.0])
def test_a_guided_step_is_the_formula_of_unite_and_conquer(reliability):
    first, second, scale = ExactDenoiser("epsilon"), ExactDenoiser("epsilon", -0.2, 0.3), 4.0
    plain = {id(first): first.predict_raw, id(second): second.predict_raw}
    for one in (first, second):
        # What is said of a prompt is that of no prompt, and its number.
        one.predict_raw = lambda x, t, given, own=one: (
            plain[id(own)](x, t, given) + given.tensors["text"][:, :, None, None]
        )
    texts = {"positive": torch.tensor([[0.7]]), "negative": torch.tensor([[-0.1]])}
    conditionings = {name: Conditioning({"text": text.double()}) for name, text in texts.items()}
    conditionings = join_conditionings(conditionings, {"other": conditionings})
    settings = EnsembleSettings(second="other", weight=0.6, second_weight=0.4, reliability=reliability)
    shares = Ensemble(settings).build(SimpleNamespace(device=torch.device("cpu")), [1.0])
    network, guidance = (
        EnsembleNetwork(first, {"other": second}),
        GUIDANCE.build(Choice("cfg", {"guidance_scale": scale})),
    )
    denoiser = Denoiser(network, guidance, conditionings, additions=[shares])
    latents, level = torch.randn(1, 2, 3, 3, dtype=torch.float64), SD.at(400.0)
    answer = denoiser.predict(latents, level)
    times = torch.tensor([400.0], dtype=torch.float64)
    c, u = ([plain[id(one)](latents, times, None) + float(texts[name]) for one in (first, second)] for name in texts)
    betas = (reliability, 1 - reliability)
    expected = scale * (0.6 * c[0] + 0.4 * c[1]) - (scale - 1) * sum(b * one for b, one in zip(betas, u, strict=True))
    torch.testing.assert_close(answer.raw, expected, rtol=0, atol=1e-6)  # the shares are float32
    assert denoiser.evaluations == (3 if reliability == 1 else 4)
