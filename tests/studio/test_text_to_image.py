"""The task of the first tab: its example, which the tests of all tasks run, gives a picture of the prompt."""

from __future__ import annotations

from studio.jobs.job import JobStatus
from tests.studio.task_examples import FOX, Example
from tests.studio.waiting import ended

EXAMPLE = Example(FOX, {"batch_size": 16, "num_inference_steps": 9})


def test_a_batch_gives_as_many_results_with_seeds_that_count_up(studio):
    view = ended(studio.submit("text_to_image", {**FOX, "batch_size": 2}))
    assert view.status is JobStatus.DONE, view.message
    results = view.cells[0].results
    assert [studio.store.get(one).metadata["request"]["seed"] for one in results] == [5, 6]
