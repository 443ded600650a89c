"""How models suit a machine: by size, memory, device and disk; and which one is recommended."""

from __future__ import annotations

import pytest

from pipelines.models.entry import CatalogEntry
from pipelines.models.placing import DOES_NOT_FIT
from studio.page.models.machine_fit import Machine, describe_fit, recommend

GB = 10**9
LAPTOP = Machine(memory=8 * GB, has_gpu=False, free_disk=20 * GB)
CARD = Machine(memory=12 * GB, has_gpu=True, free_disk=20 * GB)


def entry(key="one", size=GB // 2, **values):
    return CatalogEntry(key, key.upper(), "sd", size_bytes=size, licence="mit", **values)


@pytest.mark.parametrize(
    ("size", "is_here", "machine", "fit", "words"),
    [
        (GB // 2, True, LAPTOP, "good", "Fits"),
        (2 * GB, False, LAPTOP, "slow", "without a GPU"),
        (9 * GB, False, LAPTOP, "no", "Larger than the 8.0 GB"),
        (2 * GB, False, CARD, "good", "Fits"),
        (10 * GB, True, CARD, "slow", "little room"),
        (16 * GB, True, CARD, "slow", "part by part"),
        (30 * GB, False, CARD, "no", "No room on the disk: 20.0 GB free"),
        (30 * GB, True, CARD, "slow", "part by part"),
        (None, False, CARD, "", ""),
    ],
)
def test_a_models_size_is_told_beside_what_the_machine_has(size, is_here, machine, fit, words):
    found, sentence = describe_fit(entry(size=size), is_here, machine)
    assert found == fit and words in sentence and bool(sentence) == bool(words)


def test_a_model_that_no_plan_fits_is_not_said_to_run_part_by_part():
    words = f"{DOES_NOT_FIT}: its parts take 16.7 GB."
    assert describe_fit(entry(size=16 * GB), True, CARD, words) == ("no", words)


def test_a_model_that_cannot_be_used_is_not_praised():
    assert describe_fit(entry(problem="It lacks a part."), True, CARD) == ("", "")


def test_the_largest_that_fits_well_is_recommended_and_none_that_asks_for_something_first():
    entries = [entry("small"), entry("middle", 3 * GB), entry("gated", 4 * GB, gated=True), entry("large", 11 * GB)]
    entries += [entry("clip", 5 * GB, kind="video")]
    assert recommend([(one, False) for one in entries], CARD) == "middle"
    assert recommend([(one, False) for one in entries], LAPTOP) == "small"
    assert recommend([(entries[3], True)], LAPTOP) == ""
