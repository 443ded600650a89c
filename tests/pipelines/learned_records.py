"""What the tests of learned_files share."""

from __future__ import annotations

from pipelines.core.types import Choice, Request
from pipelines.schedules import settle_schedule
from pipelines.schedules.learned import LearnedSchedules
from pipelines.schedules.learned_file import LearnedSchedule


def fitted(**changes):
    """A whole record."""
    return LearnedSchedule(
        **{
            "method": "ld3",
            "model": "emoji",
            "network": "x",
            "sampler": Choice("unipc", {"order": 2}),
            "guidance": Choice("cfg"),
            "num_inference_steps": 4,
            "evaluations": 4,
            "times": (999.0, 700.0, 400.0, 90.0),
            "model_times": (999.0, 710.0, 390.0, 95.0),
            "held_out": {"uniform": 0.4, "fitted": 0.2},
            "curve": ({"round": 0, "loss": 0.4},),
            "fit_details": {},
            **changes,
        }
    )


def settle(request, folder, network=None):
    return settle_schedule(request, LearnedSchedules((folder,)), network)


REQUEST = Request(sampler=Choice("unipc"), schedule=Choice("learned"), num_inference_steps=4)
