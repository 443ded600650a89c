"""The table of tasks: what a job can do."""

from __future__ import annotations

from collections.abc import Mapping

from studio.tasks.animate import Animate
from studio.tasks.base import Task
from studio.tasks.compare import Compare
from studio.tasks.compare_edits import CompareEdits
from studio.tasks.convergence import Convergence
from studio.tasks.edit import Edit
from studio.tasks.inspect import Inspect
from studio.tasks.keep import Keep
from studio.tasks.learn import Learn
from studio.tasks.live import Live
from studio.tasks.quantize import Quantize
from studio.tasks.text_to_image import TextToImage
from studio.tasks.upscale import Upscale

__all__ = ["TASKS"]

TASKS: Mapping[str, Task] = {
    task.key: task
    for task in (
        TextToImage(),
        Compare(),
        Edit(),
        CompareEdits(),
        Upscale(),
        Animate(),
        Quantize(),
        Convergence(),
        Learn(),
        Inspect(),
        Live(),
        Keep(),
    )
}
