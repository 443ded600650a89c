"""The page builds, and what it says and sends is right; a browser's part is in tests/browser."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import io
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from studio import api
from studio.jobs.job import Cell, Frame, Job, JobStatus, StepRow, View
from studio.jobs.stream import follow, watch
from studio.media import live_image
from studio.media.live_image import build_contact_sheet, encode_jpeg
from studio.page.page import build_page, launch_options
from studio.page.text_to_image.examples import EXAMPLES
from studio.server import serve as serving
from studio.ui import markup, presentation
from studio.ui.settings_panel import describe_settings
from studio.ui.viewer import ViewerRenderer
from tests.browser.stand_in import StandIn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def studio(tmp_path):
    return StandIn(tmp_path)


def public(config):
    return {event["api_name"] for event in config["dependencies"] if event["api_visibility"] == "public"}


def test_the_components_are_described_once_and_an_event_marks_nothing(studio):
    page = build_page(studio)
    first, second = page.get_config_file(), page.get_config_file()
    assert first is not second and first["components"] is second["components"]
    assert len(first["components"]) == len(page.blocks) and len(first["dependencies"]) == len(page.fns)
    hidden = [event for event in first["dependencies"] if event["show_progress"] == "hidden"]
    assert hidden and not any(event["show_progress_on"] for event in hidden)


def test_a_method_more_is_no_component_more(studio):
    """Each component costs the start, the page and every answer; those of all settings were three of four."""
    page = build_page(studio)
    assert 500 < len(page.blocks) < 1_050
    drawn = {panel.component.elem_id for panel in page.panels}
    ids = {getattr(block, "elem_id", None) for block in page.blocks.values()}
    assert drawn < ids and not ids & {"t2i-sampler-ddim-eta", "edit-edit-inpaint-padding", "cmp-learn-fitted"}


def test_every_setting_slides_over_round_numbers_and_over_its_default(studio):
    for panel in build_page(studio).panels:
        for key, settings in panel.described.items():
            for one in describe_settings(settings):
                if not one.get("slides"):
                    continue
                name, step, start = f"{panel.kind} {key} {one['name']}", one["step"], one["from"]
                assert start <= one["low"] < start + step, name
                assert is_multiple(one["value"] - start, step), f"{name}: {one['value']} is not among its values"
                assert is_multiple(start, step) or one["whole"], f"{name} counts from {start} by {step}"
                digits = f"{step:e}".partition("e")[0].rstrip("0").rstrip(".")
                assert one["whole"] or digits in ("1", "2", "2.5", "5"), f"{name} steps by {step}"


def is_multiple(number, step):
    return abs(number / step - round(number / step)) < 1e-6


def view_of(status, cells=(), **changes):
    values = {
        "version": 1,
        "message": "",
        "position": 0,
        "wait_seconds": None,
        "seconds": 2.0,
        "running_seconds": 2.0,
        "outcome": {},
        **changes,
    }
    return View(status=status, cells=tuple(cells), **values)


def running_cell(done, total, size=4):
    frame = Frame(*np.zeros((2, 1, size, size, 3), np.uint8))
    rows = [StepRow(i, float(total - 1 - i), 10.0 * (total - i), 2 * (i + 1), 0.1 * (i + 1)) for i in range(done)]
    return Cell(num_steps=total, rows=rows, frames=[frame] * done)


# The page as a whole.


def test_the_page_builds_without_two_equal_ids_and_without_public_plumbing(studio):
    config = build_page(studio).get_config_file()
    ids = [part["props"]["elem_id"] for part in config["components"] if part["props"].get("elem_id")]
    assert len(ids) == len(set(ids)) > 40
    with gr.Blocks() as bare:
        api.attach(studio)
    assert public(config) == public(bare.get_config_file())
    held = [
        part["props"] for part in config["components"] if part["type"] not in {"html", "row", "column", "form", "tabs"}
    ]
    unlabeled = [props for props in held if "label" in props and not props["label"]]
    assert unlabeled == []


def test_the_model_that_the_page_opens_on_is_loaded_in_the_background(studio, monkeypatch):
    (first, *others), asked = studio.models(), []
    entries = [first, dataclasses.replace(first, key=EXAMPLES[0].values["model"]), *others]
    monkeypatch.setattr(studio, "models", lambda: entries)
    monkeypatch.setattr(studio, "load_default", asked.append)
    monkeypatch.setattr(studio, "model_list", SimpleNamespace(get_transfer=lambda key: None))
    monkeypatch.setattr(serving, "_PAGE_SECONDS", 0)
    monkeypatch.setattr(serving, "set_start_aside", lambda: asked.append("and the start is set aside"))
    demo = build_page(studio)
    serving._get_ready(studio, demo.opens_on)
    (model,) = [part for part in demo.blocks.values() if getattr(part, "elem_id", "") == "t2i-model"]
    assert asked == [model.value, "and the start is set aside"] and model.value != first.key


def test_no_event_without_progress_marks_its_outputs_as_waiting(studio):
    """Gradio's script searches the whole page for each component that an event marks, which takes seconds."""
    events = build_page(studio).get_config_file()["dependencies"]
    assert all(event["show_progress_on"] == [] for event in events if event["show_progress"] == "hidden")
    marking = {event["api_name"] for event in events if event["show_progress"] != "hidden"}
    assert marking <= public(build_page(studio).get_config_file()), (
        "only the endpoints, which have no outputs on the page"
    )


def test_the_arguments_of_each_kind_of_component_are_read_once(studio):
    kinds = {type(block) for block in build_page(studio).blocks.values()}
    assert all(inspect.signature(kind.__init__) is inspect.signature(kind.__init__) for kind in kinds)


def test_nothing_on_the_page_moves_by_itself_while_a_model_runs():
    """A browser without a GPU draws it on the cores that the model runs on: a pulsing dot and a moving bar cost 5 %."""
    sheet = (ROOT / "assets/css/stepwise.css").read_text("utf-8")
    rules = [rule for rule in sheet.split("}") if "running" in rule or ".sw-bar i" in rule]
    assert len(rules) >= 3
    moving = [rule for rule in rules if re.search(r"transition|animation", rule.partition("{")[2])]
    assert [re.findall(r'data-status="(\w+)"', rule) for rule in moving] == [["queued", "loading"]], moving


def test_no_event_listens_to_the_changes_of_a_whole_form(studio):
    """Gradio searches the whole page for each listener while it loads: of 850 that took two thirds of the time."""
    events = build_page(studio).get_config_file()["dependencies"]
    assert max(len(event["targets"]) for event in events) <= 10
    assert sum(len(event["targets"]) for event in events) < 2 * len(events)


def test_the_page_needs_no_other_host():
    options = launch_options()
    theme = options["theme"]
    assert not theme._stylesheets
    assert all("Google" not in type(font).__name__ for font in (*theme._font, *theme._font_mono))
    text = options["head"] + "".join(path.read_text() for path in options["css_paths"])
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert options["favicon_path"].is_file()


# The stage.


def finished(studio, **values):
    job = studio.submit("text_to_image", {"prompt": "a fox", "num_inference_steps": 4, **values})
    list(follow(job))
    return job


@pytest.mark.parametrize("sharp", [False, True])
def test_the_scrubber_shows_the_estimate_and_at_the_end_the_picture(studio, sharp):
    stage = ViewerRenderer(studio, "t", finished(studio))
    early, late = stage.at_step(1, sharp), stage.at_step(99, sharp)
    assert early["t-hero"]["src"] == early["t-denoised-image"]["src"] != late["t-denoised-image"]["src"]
    assert re.fullmatch(r"stepwise/results/[\w-]+-0", late["t-hero"]["file"])
    assert late["t-download"] == {"file": late["t-hero"]["file"], "download": ""}
    assert late["t-hero"]["data-seed"] == "0" and early["t-hero"]["data-result"] is None
    assert early["t-download"]["src"].startswith("data:image/png;base64,")
    assert early["t-download"]["download"].endswith("-step-1.png") and early["t-tools"] == {"hidden": None}
    assert "step 1 is marked" in early["t-caption"]["html"]


def test_a_finished_batch_shows_its_files_and_opens_the_scrubber(studio):
    job = finished(studio, batch_size=2)
    parts = ViewerRenderer(studio, "t", job)(job.view())
    first, second = job.view().cells[0].results
    file = f"stepwise/results/{first}"
    assert parts["t-hero"] == {"file": file, "data-result": first, "data-seed": "0"}
    assert parts["t-download"] == {"file": file, "download": ""}
    marked = r'aria-pressed="(\w+)" title="Seed (\d+)"'  # each picture of a batch has its own seed
    assert re.findall(marked, parts["t-batch"]["html"]) == [("true", "0"), ("false", "1")]
    assert f'data-file="stepwise/results/{second}"' in parts["t-batch"]["html"]
    assert str(studio.folder) not in str(parts)
    assert parts["t-scrubber-range"] == {"max": 4, "disabled": None, "value": 4}
    assert parts["t-batch"]["html"].count("data-file=") == 2 and parts["t-batch"]["hidden"] is None
    assert parts["t-tools"] == {"hidden": None}


def test_what_a_stopped_run_reached_can_be_taken_away_and_enlarged(studio):
    job = finished(studio)
    stopped = dataclasses.replace(job.view().cells[0], images=None, results=())
    parts = ViewerRenderer(studio, "t", job)(view_of(JobStatus.CANCELLED, [stopped]))
    assert parts["t-tools"] == {"hidden": None}
    assert parts["t-download"]["src"].startswith("data:image/png;base64,")
    assert parts["t-download"]["download"].endswith("-step-4.png")


def test_a_job_without_a_step_leaves_the_trajectory_and_the_last_picture_alone(studio):
    stage = ViewerRenderer(studio, "t", Job("text_to_image", SimpleNamespace()))
    assert stage.at_step(1, False) == {}
    assert set(stage(view_of(JobStatus.QUEUED))) == {"t-progress", "t-figures", "t-batch"}


def test_every_part_names_an_element_of_the_page_and_keeps_its_keys(studio):
    """The page keeps the last part of each element for one that appears later, so a part must be whole."""
    page = build_page(studio)
    html = "".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
    job = finished(studio, batch_size=2)
    views = [view_of(JobStatus.RUNNING, [running_cell(2, 4)]), job.view()]
    seen = {}
    for view in views:
        for name, part in ViewerRenderer(studio, "t2i", job)(view).items():
            assert f'id="{name}"' in html
            if name not in ("t2i-hero", "t2i-download"):
                assert seen.setdefault(name, part.keys()) == part.keys()


# Live pictures.


def test_importing_the_page_writes_no_file():
    """Gradio writes a .pyi file beside every subclass of a component that is made in the plain way."""
    assert list(Path(live_image.__file__).parent.rglob("*.pyi")) == []


def test_the_page_starts_without_diffusers():
    """Importing it imports PyTorch's compiler: 1.7 of the 8 seconds that the studio took to start."""
    code = (
        "import sys, studio.backend, studio.page.page; "
        "print([one for one in ('diffusers', 'transformers') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("shape", "size"), [((16, 16), (192, 192)), ((1024, 512), (256, 512)), ((300, 400), (400, 300))]
)
def test_previews_have_a_sensible_size(shape, size):
    assert Image.open(io.BytesIO(encode_jpeg(np.zeros((*shape, 3), np.uint8)))).size == size


def test_a_batch_becomes_one_sheet():
    batch = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = build_contact_sheet(batch)
    assert sheet.shape == (4, 6, 3)
    assert [sheet[0, 0, 0], sheet[0, 3, 0], sheet[2, 0, 0], sheet[2, 3, 0]] == [10, 20, 30, 0]


# Words and HTML.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0316, "0.0316"),
        (3.1623, "3.16"),
        (31.62, "31.6"),
        (316.2, "316"),
        (0.0, "0"),
        (float("inf"), "∞"),
        (None, "–"),
    ],
)
def test_numbers(value, text):
    assert presentation.format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.854, "0.85 s"), (12.34, "12.3 s"), (125, "2 min 5 s"), (3725, "1 h 2 min")]
)
def test_durations(seconds, text):
    assert presentation.format_duration(seconds) == text


def test_progress_says_what_happens():
    assert presentation.list_progress_parts(view_of(JobStatus.QUEUED, position=2, wait_seconds=8))[1:] == [
        "2 jobs ahead",
        "starts in about 8.00 s",
    ]
    parts = presentation.list_progress_parts(view_of(JobStatus.RUNNING, [running_cell(4, 8)]))
    assert parts == ["Step 4 of 8", "8 evaluations", "2.00 s left"]
    assert (
        presentation.list_progress_parts(view_of(JobStatus.CANCELLED, [running_cell(4, 8)]))[0]
        == "Stopped at step 4 of 8"
    )
    assert presentation.list_progress_parts(view_of(JobStatus.DONE, [running_cell(8, 8)])) == ["Done in 2.00 s"]
    begun = view_of(JobStatus.RUNNING, [running_cell(0, 0)])  # how many steps there will be is not known yet
    assert presentation.list_progress_parts(begun) == ["Preparing", "2.00 s"]
    fit = view_of(JobStatus.RUNNING, [running_cell(4, 8)], message="LD3: round 4 of 7")
    assert presentation.list_progress_parts(fit)[0] == "LD3: round 4 of 7"


def test_nothing_of_a_persons_words_becomes_markup():
    evil = "<img src=x onerror=alert(1)> ${alert(1)} {{x}} `"
    for made in (
        markup.notice(evil, notes=[evil]),
        markup.progress(JobStatus.LOADING, [evil]),
        markup.figures([(evil, evil)]),
        markup.header(evil, evil, [evil]),
        markup.prompt_hint([evil]),
    ):
        assert "<img" not in made and "${" not in made and "{{" not in made and "`" not in made


def test_the_noise_curve_stands_also_with_infinite_and_zero_levels():
    rows = [StepRow(0, float("inf"), 999, 2, 0), StepRow(1, 3.0, 500, 4, 0), StepRow(2, 0.0, 1, 6, 0)]
    drawn = markup.noise_curve(rows, 2, 3)
    assert "nan" not in drawn and "inf" not in drawn and "step 2 is marked" in drawn
    assert markup.noise_curve([], 1, 3) == ""


# Following a job.


def test_watching_gives_what_following_gives_without_a_thread():
    job = Job("text_to_image", SimpleNamespace())
    job.set_cells([Cell(num_steps=50)])

    async def read():
        seen = []
        async for view in watch(job):
            seen.append(view)
            if len(seen) == 1:
                worker.start()
        return seen

    def work():
        for index in range(50):
            job.add_step(0, StepRow(index, 1.0, 1.0, 1, 0.0), Frame(*np.zeros((2, 1, 2, 2, 3), np.uint8)))
        job.set_status(JobStatus.DONE)

    worker = threading.Thread(target=work)
    views = asyncio.run(read())
    worker.join()
    assert views[0].status is JobStatus.QUEUED and views[-1].status is JobStatus.DONE
    assert len(views[-1].cells[0].rows) == 50 and len(views) <= 4
    assert job._listeners == []


def test_following_ends_with_the_final_view_and_skips_what_nobody_saw():
    job = Job("text_to_image", SimpleNamespace())
    job.set_cells([Cell(num_steps=50)])
    views = follow(job)
    assert next(views).status is JobStatus.QUEUED
    for index in range(50):
        job.add_step(0, StepRow(index, 1.0, 1.0, 1, 0.0), Frame(*np.zeros((2, 1, 2, 2, 3), np.uint8)))
    job.set_status(JobStatus.DONE)
    rest = list(views)
    assert len(rest) == 1
    assert rest[0].status is JobStatus.DONE and len(rest[0].cells[0].rows) == 50


def test_a_finished_job_gives_one_view():
    job = Job("text_to_image", SimpleNamespace())
    job.set_status(JobStatus.FAILED, "No.")
    assert [view.message for view in follow(job)] == ["No."]


def test_a_running_cell_shows_its_last_sharp_estimate_while_it_is_young():
    def frame(value, sharp):
        return Frame(*(np.full((1, 2, 2, 3), value, np.uint8) for _ in range(2)), sharp=sharp)

    cell = Cell(frames=[frame(0, False), frame(1, True), frame(2, False)])
    assert cell.preview[0, 0, 0, 0] == 1
    cell.frames += [frame(3, False)] * 4
    assert cell.preview[0, 0, 0, 0] == 3


def test_no_two_scripts_give_the_page_a_function_of_one_name():
    offered = [
        name.partition(":")[0].strip()
        for script in sorted((ROOT / "assets" / "js").glob("*.js"))
        for block in re.findall(r"window\.stepwise = \{ \.\.\.window\.stepwise,([^}]*)\}", script.read_text())
        for name in block.split(",")
        if name.strip()
    ]
    assert len(offered) > 10 and len(offered) == len(set(offered))
