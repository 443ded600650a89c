"""The table form, and the checks of untrusted settings."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.caches import CACHES
from pipelines.core.errors import MethodFitError, SettingsError, UnknownMethodError
from pipelines.core.registry import Method, Table, parse_settings, setting_type
from pipelines.core.types import Choice, LoraChoice, Request, Traits
from pipelines.guidance import GUIDANCE
from pipelines.requests.limits import Limits, check_fit, check_request
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import LearnedSchedules, LearnedSettings

METHODS = [method for table in (SAMPLERS, SCHEDULES, GUIDANCE, CACHES) for method in table.values()]
FIELDS = [(method, field) for method in METHODS for field in dataclasses.fields(method.settings)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_every_method_is_documented_and_builds(method):
    assert method.label
    assert method.help.endswith(".")
    if method.key == "none":
        assert method.build() is None
        return
    assert "arXiv:" in method.paper
    assert method.build() is not None


@pytest.mark.parametrize(("method", "field"), FIELDS, ids=lambda one: getattr(one, "key", getattr(one, "name", "")))
def test_every_setting_says_its_range_and_refuses_what_is_outside(method, field):
    kind = setting_type(method.settings, field.name)
    assert field.metadata["help"]
    for bad in {
        bool: [1, "yes"],
        int: [1.5, "x", True, float("nan"), None],
        float: ["x", True, float("inf"), None, []],
        str: [3, None],
    }[kind]:
        with pytest.raises(SettingsError):
            parse_settings(method.settings, {field.name: bad})
    if kind in (int, float):
        for edge in (field.metadata["low"], field.metadata["high"]):
            assert getattr(parse_settings(method.settings, {field.name: edge}), field.name) == edge
        for bad in (field.metadata["low"] - 1, field.metadata["high"] + 1):
            with pytest.raises(SettingsError, match=f"from {field.metadata['low']}"):
                parse_settings(method.settings, {field.name: bad})
    if kind is str and field.name in ("words", "second"):  # those of any prompt
        assert parse_settings(method.settings, {field.name: "nothing like it"})
    elif kind is str:
        with pytest.raises(SettingsError, match=r"Choose (one of|steps)"):
            settings = parse_settings(method.settings, {field.name: "nothing like it"})
            if isinstance(settings, LearnedSettings):
                LearnedSchedules().require(settings.name)


def test_unknown_keys_name_the_choices():
    with pytest.raises(UnknownMethodError, match=r"Unknown sampler 'hune'. Choose one of: .*heun"):
        SAMPLERS["hune"]
    with pytest.raises(UnknownMethodError, match="eta"):
        SAMPLERS["ddim"].build({"etta": 1})


def test_two_lines_cannot_share_a_key():
    with pytest.raises(ValueError, match="share"):
        Table("sampler", [Method("a", "A", object), Method("a", "B", object)])


def test_a_sampler_that_does_not_fit_is_not_offered_and_is_refused():
    flow = Traits("sd3", "flow", "transformer")
    assert "heun" not in {method.key for method in SAMPLERS.fitting(flow)}
    with pytest.raises(MethodFitError, match="Heun does not fit"):
        check_fit(Request(prompt="a fox", sampler=Choice("heun")), flow)


REQUEST = Request(
    prompt="a fox on a blue background",
    negative_prompt="blur",
    sampler=Choice("ddim", {"eta": 0.3}),
    schedule=Choice("karras", {"rho": 5.0}),
    guidance=Choice("cfg", {"guidance_scale": 6.5}),
    seed=7,
    variation_seed=3,
    variation_strength=0.25,
    loras=(LoraChoice("pixel", 0.5),),
    batch_size=2,
)


def test_request_survives_json():
    import json

    assert Request.parse(json.loads(json.dumps(REQUEST.to_json()))) == REQUEST
    assert hash(Request.parse(REQUEST.to_json())) == hash(REQUEST)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "  \n"}, "prompt is empty"),
        ({"prompt": "x" * 10_000}, "10000 characters"),
        ({"negative_prompt": "x" * 10_000}, "10000 characters"),
        ({"num_inference_steps": 0}, "from 1 to 200"),
        ({"num_inference_steps": 10**6}, "from 1 to 200"),
        ({"width": 10**5}, "width"),
        ({"height": 7}, "height"),
        ({"width": 2048, "height": 2048, "batch_size": 16}, "smaller size"),
        ({"batch_size": 0}, "batch size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"variation_strength": 1.5}, "variation strength"),
        ({"sampler": Choice("nope")}, "Unknown sampler 'nope'"),
        ({"sampler": Choice("ddim", {"eta": 3})}, "from 0 to 1"),
        ({"loras": (LoraChoice("a"),) * 9}, "LoRAs"),
    ],
)
def test_bad_requests_get_one_clear_sentence(changes, words):
    with pytest.raises(SettingsError, match=words):
        check_request(REQUEST.replace(**changes), Limits())


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": 3},
        {"num_inference_steps": "many"},
        {"num_inference_steps": 2.5},
        {"seed": True},
        {"seed": float("nan")},
        {"sampler": 3},
        {"sampler": {"eta": 1}},
        {"loras": "pixel"},
        {"loras": [{"name": "x", "weight": 99}]},
        {"path": "/etc/passwd"},
        {"seed": float("inf")},
        {"variation_strength": float("nan")},
    ],
)
def test_wrong_types_are_refused(values):
    with pytest.raises(SettingsError):
        Request.parse(values)


def test_a_good_request_passes():
    check_request(REQUEST, Limits())
    check_fit(REQUEST, Traits("sd", "epsilon", "unet"))
