"""What the studio can be asked to do: a task reads untrusted values into a request, and runs it in the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext
    from studio.tasks.entry import Command, Endpoint

__all__ = ["Task"]


class Task(Protocol):
    """Declares one line of the task table.

    Its module imports nothing that imports PyTorch: the command line's help needs only the texts. What does the work
    stands in `studio.tasks.runs` and is imported when it is first asked for.

    Attributes:
        key: name in jobs and results.
        endpoint: how programs ask for it; None where they cannot.
        command: how it is asked for at the command line; None where it is not.
    """

    @property
    def key(self) -> str: ...

    @property
    def endpoint(self) -> Endpoint | None: ...

    @property
    def command(self) -> Command | None: ...

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> Any:
        """Parse the request, with everything checked that can be checked without loading a model.

        Raises:
            SettingsError: the first thing that is wrong.
        """

    def work(self, request: Any) -> tuple[float, float]:
        """Estimate a request's work: steps of one picture, and seconds beside them."""

    def run(self, request: Any, job: Job, context: TaskContext) -> None:
        """Do the work in the worker thread, reporting to the job.

        Raises:
            Cancelled: the job was stopped.
            StepwiseError: it failed for a reason the person can act on.
        """
