"""What programs and the command line say: random seeds, names as people write them, files and progress."""

from __future__ import annotations

import io
import time

import pytest

from pipelines.core.choice_text import parse_axis, parse_cell
from pipelines.core.errors import SettingsError
from studio.cli import requests
from studio.exports.pictures import require_writable
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.runs.text_to_image import parse_request


def parse(studio, **values):
    return parse_request({"prompt": "a fox", **values}, studio)


@pytest.mark.parametrize("seed", [-1, None, -1.0])
def test_a_seed_of_minus_one_or_none_is_random(studio, seed):
    drawn = {parse(studio, seed=seed).seed for _ in range(5)}
    assert len(drawn) > 1 and all(0 <= one < 2**32 for one in drawn)
    assert parse(studio, seed=2**63 - 1).seed == 2**63 - 1 and parse(studio).seed == 0
    with pytest.raises(SettingsError):
        parse(studio, seed=-2)


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("dpm++ 2m", "dpmpp_2m", "uniform"),
        ("Euler a", "euler_a", "uniform"),
        ("euler_ancestral", "euler_a", "uniform"),
        ("euler_a", "euler_a", "uniform"),
        ({"key": "DPM++ 3M SDE Exponential"}, "dpmpp_3m_sde", "exponential"),
    ],
)
def test_samplers_are_named_as_people_write_them(studio, name, sampler, schedule):
    request = parse(studio, sampler=name)
    assert (request.sampler.key, request.schedule.key) == (sampler, schedule)


def test_a_named_schedule_wins_and_an_unknown_name_is_refused_by_name(studio):
    assert parse(studio, sampler="DPM++ 2M Karras", schedule="exponential").schedule.key == "exponential"
    assert parse(studio, schedule="Karras").schedule.key == "karras"
    with pytest.raises(SettingsError, match="No Such Sampler"):
        parse(studio, sampler="No Such Sampler")


def test_a_file_that_cannot_be_written_is_told_before_the_run(tmp_path):
    require_writable(tmp_path / "fox.png")
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "gone" / "fox.png", "is not there")):
        with pytest.raises(SettingsError, match=words):
            require_writable(path)


def test_text_on_an_axis_and_in_a_cell_stays_text():
    assert parse_axis("prompt=1984|true|null", lambda text: text.split("|"))["values"] == ["1984", "true", "null"]
    assert parse_cell("negative_prompt=1984;seed=9223372036854775807") == {"negative_prompt": "1984", "seed": 2**63 - 1}
    assert parse_axis("seed=7|9223372036854775807", lambda text: text.split("|"))["values"] == [7, 2**63 - 1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "marks"), [(Terminal(), "\r"), (io.StringIO(), "\n")])
def test_progress_is_one_line_on_a_terminal_and_a_line_now_and_then_elsewhere(monkeypatch, stream, marks):
    import threading

    monkeypatch.setattr(requests, "_LINE_SECONDS", 0.2)
    job = Job("text_to_image", None)
    job.set_cells([Cell(num_steps=4)])

    def work():
        for _ in range(10):
            job.touch()
            time.sleep(0.05)
        job.set_status(JobStatus.DONE)

    threading.Thread(target=work, daemon=True).start()
    requests.follow(job, stream)
    text = stream.getvalue()
    assert "step 0 of 4" in text and text.count(marks) >= 2
    assert ("\r" in text) == (marks == "\r")
    if marks == "\n":
        assert text.count("\n") <= 6
