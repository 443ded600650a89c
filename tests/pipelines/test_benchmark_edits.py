"""The benchmark of edits: on a perfect edit, a picture left alone, and one real pair."""

from __future__ import annotations

import pytest

from pipelines.benchmarks.edits import Combination, Outcome, combinations, measure, write_table
from pipelines.edits import EDITS
from pipelines.emoji.objects import shipped_catalog
from pipelines.inversions import INVERSIONS
from pipelines.metrics.classifier import load_classifier
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped
from pipelines.models.loader import Loader
from pipelines.training.edits import EDIT_KINDS, edit_pairs, render_edit


@pytest.fixture(scope="module")
def family():
    with Loader(ModelCache(2**31, 2**28), Catalog(entries=[shipped()]), device="cpu").model("emoji") as family:
        yield family


def test_every_line_fits_the_shipped_model_and_every_inversion_has_one(family):
    lines = list(combinations([2.0, 4.0]))
    assert len(set(lines)) == len(lines) and {one.guidance for one in lines} == {2.0, 4.0}
    assert {one.inversion for one in lines if EDITS[one.edit].build().inverts} == set(INVERSIONS)
    assert all(EDITS[one.edit].fit(family.traits) is None for one in lines)


def test_one_pair_is_measured_as_it_ends(family):
    objects, classifier = shipped_catalog(), load_classifier()
    pair = edit_pairs(objects, 2, 47)[1]
    assert pair.kind == "background"
    pictures = render_edit(pair, objects)
    found = measure(family, classifier, pair, pictures, Combination("reprompt", "direct", 4.0), 3)
    assert found.kind == "background" and found.nfe == 3 + 3 * 2 and found.seconds > 0
    # The source's row is exact, so that only the autoencoder is between it and the source.
    assert 20 < found.reconstruction < 60 and found.truth < found.reconstruction
    inpainted = measure(family, classifier, pair, pictures, Combination("inpaint", "direct", 4.0), 3)
    assert inpainted.background == float("inf") and inpainted.reconstruction is None


def test_a_method_that_refuses_the_prompts_counts_as_wrong(family):
    objects, classifier = shipped_catalog(), load_classifier()
    pair = edit_pairs(objects, 4, 47)[3]
    assert pair.kind == "remove"
    one = Combination("replace", "direct", 4.0)
    assert measure(family, classifier, pair, render_edit(pair, objects), one, 3) is None
    outcome = Outcome("replace", True, 30.0, 25.0, 28.0, 75, 1.5)
    counts = dict.fromkeys(EDIT_KINDS, 2)
    line = write_table({one: [outcome], Combination("infedit", "direct", 4.0): []}, counts).splitlines()[2]
    assert line.startswith(
        "| Prompt-to-prompt: replace, Direct Inversion | 4 | 0.50 | 0.00 | 0.00 | 0.00 | 0.00 | **0.10**"
    )
    assert line.endswith("| 30.0 | 25.0 | 28.0 | 75 | 1.50 |")
