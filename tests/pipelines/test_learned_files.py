"""Learned schedules as files: which one runs, which is refused, and what a broken one says."""

from __future__ import annotations

import json
import math

import pytest
from tiny_models import tiny_sd

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice
from pipelines.families import family_of
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS
from pipelines.samplers.fitted_factors import FittedFactors
from pipelines.schedules import SCHEDULES, levels_for
from pipelines.schedules.learned import LearnedSchedules, LearnedSettings
from pipelines.schedules.learned_file import LearnedSchedule, find_all, write_learned
from pipelines.weights.network_identity import network_identity
from tests.pipelines.gaussian import CosineSchedule
from tests.pipelines.learned_records import REQUEST, fitted, settle

COSINE = CosineSchedule()


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def levels_of(request, folder):
    return levels_for(request, COSINE, LearnedSchedules((folder,)))


def test_a_bespoke_record_takes_the_samplers_place(folder):
    rows = ((1.0, 0.1), (1.0, 0.1, 0.2), (1.0, 0.1, 0.2, 0.3), (1.0, 0.1, 0.2, 0.3, 0.4))
    record = fitted(method="bespoke", rows=rows, model_times=(999.0, 700.0, 400.0, 90.0))
    write_learned(record, folder)
    levels = levels_of(REQUEST, folder)
    solver = settle(REQUEST, folder).solver(SAMPLERS["unipc"].build())
    assert isinstance(solver, FittedFactors) and solver.rows == rows and solver.nfe(4) == len(levels) - 1
    for wrong in ({"rows": ()}, {"rows": rows[:3]}, {"method": "ld3"}, {"rows": (*rows[:3], (math.inf,) * 5)}):
        with pytest.raises(SettingsError, match="Fit it again"):
            LearnedSchedule.parse({**record.to_json(), **wrong})


def test_a_record_with_single_ends_has_a_file_and_terms_of_its_own(folder):
    rows = ((1.0, 0.1), *((1.0, *[0.1] * count) for count in (3, 5, 6)))
    both = {"method": "bespoke", "branches": ("negative", "positive"), "model_times": (999.0, 700.0, 400.0, 90.0)}
    record = fitted(rows=rows, single=(0, 3), evaluations=3, **both)
    plain = fitted(rows=tuple((1.0, *[0.1] * 2 * (m + 1)) for m in range(4)), **both)
    assert (record.name, plain.name) == ("emoji-unipc-4-bespoke-single", "emoji-unipc-4-bespoke")
    path = write_learned(record, folder)
    assert LearnedSchedule.parse(json.loads(path.read_text())) == record
    solver = settle(REQUEST, folder).solver(SAMPLERS["unipc"].build())
    assert solver.terms.branches == ("negative", "positive") and solver.terms.single == (0, 3)
    for wrong in ({"single": (0,)}, {"single": (0, 0)}, {"single": (0, 4)}, {"single": ("a", 3)}, {"branches": ()}):
        with pytest.raises(SettingsError, match="Fit it again"):
            LearnedSchedule.parse({**record.to_json(), **wrong})
    with pytest.raises(SettingsError, match="Fit it again"):
        LearnedSchedule.parse({**fitted().to_json(), "single": [0]})


def test_a_record_with_emphasis_has_a_file_and_numbers_of_its_own(folder):
    both = {
        "method": "bespoke",
        "branches": ("negative", "positive"),
        "model_times": (999.0, 700.0, 400.0, 90.0),
        "single": (0, 3),
        "evaluations": 3,
        "rows": ((1.0, 0.1), *((1.0, *[0.1] * count) for count in (3, 5, 6))),
    }
    numbers = ((0.1,), (0.2, 0.3), (0.4, -0.5), (0.6,))
    record = fitted(**both, prompt_extrapolation=numbers)
    assert record.name == "emoji-unipc-4-bespoke-single-emphasis" != fitted(**both).name
    path = write_learned(record, folder)
    assert LearnedSchedule.parse(json.loads(path.read_text())) == record
    solver = settle(REQUEST, folder).solver(SAMPLERS["unipc"].build())
    assert [one.numbers for one in solver.prompt_extrapolation] == [
        {"positive": 0.1},
        {"negative": 0.2, "positive": 0.3},
        {"negative": 0.4, "positive": -0.5},
        {"positive": 0.6},
    ]
    for wrong in (
        numbers[:3],
        (*numbers[:3], ()),
        (*numbers[:3], (1.0, 2.0)),
        (*numbers[:3], (math.nan,)),
        "ab",
        (0.1, 0.2),
    ):
        with pytest.raises(SettingsError, match=r"[Ff]it it again"):
            LearnedSchedule.parse({**record.to_json(), "emphasis": wrong})
    with pytest.raises(SettingsError, match="Fit it again"):
        LearnedSchedule.parse({**fitted().to_json(), "emphasis": [[], [], [], []]})


def test_a_written_schedule_is_the_one_that_runs(folder):
    path = write_learned(fitted(), folder)
    assert LearnedSchedule.parse(json.loads(path.read_text())) == fitted()
    levels = levels_of(REQUEST, folder)
    assert [level.timestep for level in levels] == [999, 710, 390, 95, 0]
    assert [level.alpha for level in levels[:-1]] == [COSINE.at(time).alpha for time in (999, 700, 400, 90)]
    by_name = REQUEST.replace(schedule=Choice("learned", {"name": path.stem}))
    assert levels_of(by_name, folder) == levels


def test_the_better_of_two_is_taken_unless_one_is_named(folder):
    write_learned(fitted(), folder)
    evolved = fitted(
        method="auto_diffusion", held_out={"uniform": 0.4, "fitted": 0.1}, model_times=(999.0, 700.0, 400.0, 90.0)
    )
    write_learned(evolved, folder)
    assert levels_of(REQUEST, folder)[1].timestep == 700
    assert levels_of(REQUEST.replace(schedule=Choice("learned", {"method": "ld3"})), folder)[1].timestep == 710


def guided(scale, **settings):
    return Choice("cfg", {"guidance_scale": scale, **settings})


def test_a_fit_at_the_runs_own_guidance_is_taken_before_a_smaller_error_at_another(folder):
    for scale, error, second in ((1.0, 0.01, 701.0), (4.0, 0.3, 704.0), (6.0, 0.2, 706.0)):
        write_learned(
            fitted(
                guidance=guided(scale),
                held_out={"uniform": 0.4, "fitted": error},
                model_times=(999.0, second, 400.0, 90.0),
            ),
            folder,
        )
    rescaled = fitted(
        guidance=guided(4.0, guidance_rescale=0.7),
        held_out={"uniform": 0.4, "fitted": 0.001},
        model_times=(999.0, 777.0, 400.0, 90.0),
    )
    write_learned(rescaled, folder)
    assert len(find_all(folder)) == 4
    taken = {
        scale: levels_of(REQUEST.replace(guidance=guided(scale)), folder)[1].timestep for scale in (1, 2.0, 4, 5.5, 9.0)
    }
    assert taken == {1: 701, 2.0: 701, 4: 704, 5.5: 706, 9.0: 706}
    assert levels_of(REQUEST.replace(guidance=guided(4.0, guidance_rescale=0.7)), folder)[1].timestep == 777


def test_fits_with_other_settings_have_files_of_their_own(folder):
    plain = fitted()
    others = [
        fitted(sampler=Choice("unipc", {"order": 3})),
        fitted(guidance=guided(1.0)),
        fitted(sampler=Choice("unipc", {"order": 3}), guidance=guided(1.0)),
    ]
    names = [write_learned(one, folder).stem for one in (plain, *others)]
    assert names[0] == "emoji-unipc-4-ld3" and len(set(names)) == 4
    assert all(name.startswith("emoji-unipc-4-ld3-") for name in names[1:])
    assert find_all(folder) == dict(zip(names, (plain, *others), strict=True))
    spelled = fitted(sampler=Choice("unipc", {"order": 2.0}), guidance=guided(4, guidance_rescale=0))
    assert spelled.name == plain.name  # defaults, spelled out or not


def test_a_file_under_an_earlier_name_still_serves(folder):
    third = fitted(sampler=Choice("unipc", {"order": 3}))
    write_learned(third, folder).rename(folder / "emoji-unipc-4-ld3.json")
    request = REQUEST.replace(sampler=third.sampler)
    assert levels_of(request, folder)[1].timestep == 710
    named = request.replace(schedule=Choice("learned", {"name": "emoji-unipc-4-ld3"}))
    assert levels_of(named, folder)[1].timestep == 710


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "sd15"}, "4 steps of unipc on the model sd15. Fitted: 4 steps of unipc on emoji"),
        ({"num_inference_steps": 5}, "5 steps of unipc .* or fit one with `python -m studio learn"),
        ({"sampler": Choice("deis")}, "4 steps of deis"),
        ({"sampler": Choice("unipc", {"order": 3})}, "4 steps of unipc"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_another_run_than_the_fitted_one_is_refused(folder, changes, words, named):
    name = write_learned(fitted(), folder).stem
    schedule = Choice("learned", {"name": name} if named else {})
    with pytest.raises(SettingsError, match=words):
        levels_of(REQUEST.replace(schedule=schedule, **changes), folder)


def test_an_unknown_name_and_an_unsettled_schedule_say_so(folder):
    with pytest.raises(UnknownMethodError, match="learned schedule 'nothing'"):
        levels_of(REQUEST.replace(schedule=Choice("learned", {"name": "nothing"})), folder)
    with pytest.raises(SettingsError, match="not settled"):
        SCHEDULES["learned"].build().levels(COSINE, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"times": [999, 700, 700, 90]},
        {"times": [999, 700, 90]},
        {"model_times": [1]},
        {"times": [999, math.nan, 3, 1]},
        {"method": "magic"},
        {"curve": None},
        {"surplus": 1},
        {"model_times": [999, 700, 400, -5]},
        {"held_out": {}},
        {"held_out": {"uniform": 0.4}},
        {"held_out": {"uniform": 0.4, "fitted": math.nan}},
        {"held_out": [1]},
        {"network": None},
        {"held_out": {"uniform": 0.4, "fitted": "low"}},
        {"sampler": {"key": "unipc", "order": 99}},
        {"sampler": "none"},
        {"guidance": "none"},
    ],
)
def test_a_broken_file_is_refused_and_never_listed(folder, wrong):
    plain = {**fitted().to_json(), **wrong}
    (folder / "broken.json").write_text(json.dumps(plain))
    (folder / "half.json").write_text('{"method":')
    with pytest.raises(SettingsError, match="Fit it again"):
        LearnedSchedule.parse(plain)
    assert find_all(folder) == {}
    with pytest.raises(
        SettingsError, match=r"Fitted: none.*'broken' is left out: .* Fit it again.*'half' is left out: It is not JSON"
    ):
        levels_of(REQUEST, folder)
    with pytest.raises(SettingsError, match=r"learned schedule 'half' is broken. It is not JSON"):
        levels_of(REQUEST.replace(schedule=Choice("learned", {"name": "half"})), folder)
    write_learned(fitted(), folder)
    assert levels_of(REQUEST, folder)[1].timestep == 710


def test_a_registry_refuses_what_another_knows(tmp_path):
    name = write_learned(fitted(), tmp_path / "one").stem
    own, foreign = (LearnedSchedules((tmp_path / one,)) for one in ("one", "other"))
    assert own.choose(LearnedSettings(), REQUEST).name == name
    own.require(name)
    for refused in (lambda: foreign.require(name), lambda: foreign.choose(LearnedSettings(name=name), REQUEST)):
        with pytest.raises(UnknownMethodError, match=f"learned schedule '{name}'"):
            refused()
    with pytest.raises(SettingsError, match="No schedule has been fitted"):
        foreign.choose(LearnedSettings(), REQUEST)


def test_a_run_looks_its_learned_schedule_up_once(folder, monkeypatch):
    family = family_of(tiny_sd().components)
    family.learned = LearnedSchedules((folder,))
    write_learned(fitted(network=network_identity(family)), folder)
    lookups, choose = [], LearnedSchedules.choose
    monkeypatch.setattr(LearnedSchedules, "choose", lambda *args: lookups.append(args) or choose(*args))
    list(denoise(build_run(resolve(REQUEST.replace(prompt="a fox", width=32, height=32), family), family)))
    assert len(lookups) == 1


def test_many_broken_files_are_counted(folder):
    for number in range(5):
        (folder / f"broken{number}.json").write_text("[" * 100_000 if number else " " * (2 << 20))
    with pytest.raises(
        SettingsError, match=r"'broken0' is left out: It is larger than 1 MiB.*'broken2'.* So are 2 others"
    ):
        levels_of(REQUEST, folder)


@pytest.mark.parametrize(
    "wrong", [{"times": (5000.0, 700.0, 400.0, 90.0)}, {"model_times": (999.0, 710.0, 1001.0, 95.0)}]
)
def test_a_time_beyond_the_models_last_is_refused(folder, wrong):
    name = write_learned(fitted(**wrong), folder).stem
    with pytest.raises(SettingsError, match=f"{name}' has the time .* up to 1000. Fit it again"):
        levels_of(REQUEST, folder)
