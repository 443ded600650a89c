"""What the studio can be asked to do: a task reads untrusted values into a request, and runs it in the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Task"]


class Task(Protocol):
    """One line of the task table.

    Attributes:
        key: name in jobs, endpoints and the command line.
    """

    key: str

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> Any:
        """The request, with everything checked that can be checked without loading a model.

        Raises:
            SettingsError: the first thing that is wrong.
        """

    def run(self, request: Any, job: Job, context: TaskContext) -> None:
        """Do the work in the worker thread, reporting to the job.

        Raises:
            Cancelled: the job was stopped.
            StepwiseError: it failed for a reason the person can act on.
        """
