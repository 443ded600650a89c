"""The benchmark of edits: perfect edits and none, one real pair, and a measurement that was stopped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.benchmarks import edits as benchmark
from pipelines.benchmarks.edit_cases import Combination, Judges, Outcome, can_try, combinations, measure
from pipelines.benchmarks.edit_verdicts import is_right
from pipelines.benchmarks.edits import OutcomeFile, write_table
from pipelines.core.errors import SettingsError
from pipelines.edits import EDITS
from pipelines.emoji.objects import shipped_catalog
from pipelines.inversions import INVERSIONS
from pipelines.metrics.classifier import load_classifier
from pipelines.metrics.detector import load_detector
from pipelines.metrics.structure import structure_distance, structure_distance_between
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped
from pipelines.models.loader import Loader
from pipelines.training.edits import EDIT_KINDS, edit_pairs, render_edit

ROW = Outcome("replace", True, 30.0, 25.0, 0.9, None, 0.002, 28.0, 0.95, 75, 1.5, 10**6)


@pytest.fixture(scope="module")
def family():
    with Loader(ModelCache(2**31, 2**28), Catalog(entries=[shipped()]), device="cpu").model("emoji") as family:
        yield family


@pytest.fixture(scope="module")
def judges():
    return Judges(load_classifier(), load_detector())


def test_every_line_fits_the_shipped_model_and_every_inversion_has_one(family):
    lines = list(combinations([2.0, 4.0], family.traits))
    assert len(set(lines)) == len(lines) and {one.guidance for one in lines} == {2.0, 4.0}
    assert {one.inversion for one in lines if EDITS[one.edit].build().inverts} == {
        key for key in INVERSIONS if INVERSIONS[key].fit(family.traits) is None
    }
    assert all(EDITS[one.edit].fit(family.traits) is None for one in lines)
    assert all(any(can_try(one, kind) for one in lines) for kind in EDIT_KINDS)


def test_the_judges_take_every_true_picture_and_no_source(judges):
    objects = shipped_catalog()
    for pair in edit_pairs(objects, 5 * len(EDIT_KINDS), 47):
        drawn = render_edit(pair, objects)
        verdicts = [
            is_right(judges.classifier, judges.detector, np.asarray(one), pair, drawn)
            for one in (drawn.target, drawn.source)
        ]
        assert verdicts == [True, False], pair.kind


def test_structure_is_what_is_like_what_and_not_how_it_looks(judges):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    # Lengths and directions of the features say nothing; which places are alike does.
    assert structure_distance(features, 3 * features @ rotation) < 1e-28
    assert structure_distance(features, features[torch.arange(8, -1, -1)]) > 0.01
    with pytest.raises(SettingsError, match="aren't comparable"):
        structure_distance(features, features[:4])
    objects = shipped_catalog()
    moved = render_edit(edit_pairs(objects, 1, 3, ("move",))[0], objects)
    source, target = np.asarray(moved.source), np.asarray(moved.target)
    assert structure_distance_between(judges.detector, source, source) == 0
    assert structure_distance_between(judges.detector, source, target) > 0.005


def test_one_pair_is_measured_as_it_ends(family, judges):
    objects = shipped_catalog()
    pair = edit_pairs(objects, 2, 47)[1]
    assert pair.kind == "background"
    pictures = render_edit(pair, objects)
    found = measure(family, judges, pair, pictures, Combination("reprompt", "direct", 4.0), 3)
    assert found.kind == "background" and found.nfe == 3 + 3 * 2 and found.seconds > 0 and found.peak >= 0
    # The source's row is exact, so that only the autoencoder is between it and the source.
    assert 20 < found.reconstruction < 60 and found.truth < found.reconstruction
    assert found.likeness < found.reconstruction_ssim < 1 and found.structure > 0
    inpainted = measure(family, judges, pair, pictures, Combination("inpaint", "direct", 4.0), 3)
    assert inpainted.background == float("inf") and inpainted.reconstruction is None


def test_a_method_that_refuses_the_prompts_counts_as_wrong(family, judges):
    objects = shipped_catalog()
    pair = edit_pairs(objects, 4, 47)[3]
    assert pair.kind == "remove"
    one = Combination("replace", "direct", 4.0)
    assert measure(family, judges, pair, render_edit(pair, objects), one, 3) is None
    line = write_table({one: {0: ROW, 1: None}}, ["replace", "remove"]).splitlines()[2]
    assert line == (
        "| Prompt-to-prompt: replace, Direct Inversion | 4 | 2 | 1.00 | 0.00 | **0.50** "
        "| 30.0 | 25.0 | 0.90 | 2.0 | 28.0 | 0.950 | 75 | 1.50 | 1 |"
    )


def test_a_measurement_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    path, seen = tmp_path / "outcomes.jsonl", []

    def measured(family, judges, pair, pictures, one, steps):
        seen.append(pair.kind)
        return dataclasses.replace(ROW, kind=pair.kind) if pair.kind != "add" else None

    monkeypatch.setattr(benchmark, "measure", measured)
    flags = ["--pairs", "4", "--only", "infedit", "--keep", str(path)]
    assert benchmark.main([*flags, "--cases", "0:2"]) == 0 and seen == ["replace", "background"]
    assert benchmark.main(flags) == 0 and seen[2:] == ["add", "remove"]
    table = capsys.readouterr().out.strip().splitlines()
    assert "| 1.00 | 1.00 | 0.00 | 1.00 | **0.75** |" in table[-1]
    assert benchmark.main(flags) == 0 and len(seen) == 4
    assert OutcomeFile(path).outcomes == OutcomeFile(path).outcomes and len(path.read_text().splitlines()) == 4
    with pytest.raises(SettingsError, match="FROM:TO"):
        benchmark.main([*flags, "--cases", "x"])
