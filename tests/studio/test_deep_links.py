"""Links that open a tab with settings: what they carry, and what they are not believed."""

from __future__ import annotations

from types import SimpleNamespace
from urllib.parse import parse_qsl

import pytest

from pipelines.limits import Limits
from pipelines.types import Request, Traits
from studio.deep_links import LONGEST, link, opened

TABS = ("text_to_image", "compare", "edit", "gallery")


@pytest.fixture
def studio():
    return SimpleNamespace(
        limits=Limits(max_steps=100, max_side=512), traits=lambda model: Traits("sd", "epsilon", "unet")
    )


def followed(studio, query: str):
    return opened(dict(parse_qsl(query.lstrip("?"))), studio, TABS, "emoji")


def test_a_link_brings_back_what_it_was_made_from(studio):
    values = {
        "prompt": "a fox & a <b>cat</b>, 100 % ünï",
        "num_inference_steps": 7,
        "seed": 2**60 + 1,
        "width": 64,
        "height": 128,
        "sampler": {"key": "ddim", "eta": 0.5},
        "guidance": {"key": "cfg", "guidance_scale": 5.5},
        "variation_strength": 0.25,
    }
    query = link("compare", {**Request().to_json(), **values})
    assert query.startswith("?tab=compare&") and "schedule" not in query  # what is as by default is left out
    found = followed(studio, query)
    assert (found.tab, found.values, found.notes) == ("compare", values, ())


def test_a_link_without_settings_only_opens_its_tab(studio):
    assert followed(studio, "?tab=gallery") == opened({"tab": "gallery"}, studio, TABS, "emoji")
    assert followed(studio, "?tab=gallery").values == {}
    for query in ("", "?tab=../../etc", "?tab=", "?prompt=a+fox", "?__theme=dark"):
        assert followed(studio, query) is None


@pytest.mark.parametrize(
    ("query", "values", "words"),
    [
        ("num_inference_steps=100000", {"num_inference_steps": 100}, "moved to 100"),
        ("width=99999", {"width": 512}, "moved to 512"),
        ("batch_size=0", {"batch_size": 1}, "moved to 1"),
        ("seed=-1", {}, "a seed lies between"),
        ("seed=x", {}, "not a whole number"),
        ("sampler=hune", {}, "Unknown sampler"),
        ("sampler=ddim,eta", {}, "has no value"),
        ("sampler=ddim,eta=99", {}, "sampler was not taken over"),
        ("sampler=flow_euler", {}, "does not fit"),
        ('sampler=ddim,eta={"a":1}', {}, "not plain values"),
        ("model=http://127.0.0.1/x.safetensors", {}, "choose it yourself"),
        ("model=../../etc/passwd", {}, "choose it yourself"),
        (f"prompt={'x' * (LONGEST + 1)}", {}, "None were taken over"),
    ],
)
def test_a_link_is_not_believed(studio, query, values, words):
    found = followed(studio, f"?tab=text_to_image&{query}")
    assert found.values == values
    assert words in " ".join(found.notes)


def test_what_no_link_carries_is_ignored(studio):
    found = followed(studio, "?tab=edit&prompt=a+fox&loras=x&picture=/etc/passwd&mask=x&nonsense=1&__theme=dark")
    assert found.values == {"prompt": "a fox"} and found.notes == ()
    assert "model" not in followed(studio, "?tab=edit&prompt=a&model=sd15").values


def test_control_characters_do_not_get_through(studio):
    found = followed(studio, "?tab=edit&prompt=a%00b%1bc")
    assert found.values == {"prompt": "abc"}
