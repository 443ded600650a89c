"""Waiting for a job."""

from __future__ import annotations

import time

from studio.jobs.job import Job, View

LONGEST = 240.0
"""Seconds after which a job is taken to hang."""


def ended(job: Job) -> View:
    """The job's last view."""
    view, until = job.view(), time.monotonic() + LONGEST
    while not view.status.final:
        assert time.monotonic() < until, f"not ended after {LONGEST:g} s: {view.status}, {view.message}"
        view = job.wait(view.version, 5)
    return view
