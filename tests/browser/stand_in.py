"""A studio without models: jobs of random frames that turn into a shipped emoji, for tests of the page alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from pipelines.core.errors import SettingsError
from pipelines.core.types import Request, Traits
from pipelines.models.catalog import Catalog, shipped
from pipelines.models.entry import CatalogEntry
from pipelines.models.steering_entry import SteeringEntry
from pipelines.models.vaes import VaeEntry
from pipelines.requests.limits import Limits, check_request
from studio import infotext
from studio.jobs.job import Cell, Frame, Job, JobStatus, StepRow
from studio.results.given import GivenPictures
from studio.safety.people import People, Person

EMOJI = Path(__file__).resolve().parents[2] / "assets" / "data" / "emoji" / "1f98a.webp"
FLOW = CatalogEntry(
    "tiny_flow",
    "Tiny flow",
    "sd3",
    path=EMOJI.parent,
    defaults={"num_inference_steps": 9, "width": 32, "height": 32, "sampler": "flow_euler"},
)


class StandIn:
    """As much of `studio.backend.Studio` as the page asks for.

    Args:
        folder: for the finished pictures.
        step_seconds: of each step.
    """

    def __init__(self, folder: Path, step_seconds: float = 0.0):
        self.folder, self.step_seconds = folder, step_seconds
        self.limits, self.loader, self.store = (
            Limits(),
            SimpleNamespace(device="cpu", cache=SimpleNamespace(limit=1 << 30), host=None),
            SimpleNamespace(get=self._record),
        )
        self.loaders = [self.loader]
        self.release = SimpleNamespace(describe=list)  # nothing is checked or marked
        self.people = People()
        self.model_list = None  # the tab "Models" is built and not used
        self.given = GivenPictures(folder / "given")
        self.jobs: dict[str, Job] = {}

    def models(self) -> list[CatalogEntry]:
        return [shipped(), FLOW]

    def load_default(self, key: str) -> None:
        """There is no model to load."""

    def traits(self, model: str) -> Traits | None:
        return Traits("sd3", "flow", "transformer") if model == FLOW.key else Traits("sd", "epsilon", "unet")

    def loras(self, model: str) -> list[str]:
        return [] if model == FLOW.key else ["sketch", "neon"]

    def vaes(self, model: str) -> list[VaeEntry]:
        return []

    def companions(self, model: str) -> list[CatalogEntry]:
        return []

    def directions(self, model: str) -> list[str]:
        return []

    def steering(self, model: str, what: str) -> list[SteeringEntry]:
        return []

    @property
    def catalog(self) -> Catalog:
        """Without a models folder of its own: the shipped files."""
        return Catalog(self.folder / "models")

    def wildcards(self) -> Mapping[str, list[str]]:
        return {"animal": ["a fox", "a cat"]}

    def read_picture(self, path: str) -> infotext.Restored | None:
        return infotext.read(path)

    def submit(self, task: str, values: Mapping[str, Any], owner: str = "") -> Job:
        request = Request.parse(values)
        check_request(request, self.limits)
        job = Job(task, request, owner)
        self.jobs[job.id] = job
        threading.Thread(target=self._work, args=(job,), daemon=True).start()
        return job

    def results(self, person: Person) -> SimpleNamespace:
        """Everybody sees everything."""
        return self.store

    def job(self, job_id: str, person: Person | None = None) -> Job:
        if job_id not in self.jobs:
            raise SettingsError("This job is no longer in memory.")
        return self.jobs[job_id]

    def cancel(self, job_id: str, person: Person | None = None) -> None:
        self.job(job_id).cancel()

    def decode_frame(self, job_id: str, cell: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        frame = self.job(job_id).view().cells[cell].frames[step]
        return frame.noisy, frame.denoised

    def _record(self, result: str) -> SimpleNamespace:
        return SimpleNamespace(path=self.folder / f"{result}.png", trashed=None)

    def _work(self, job: Job) -> None:
        request, generator = job.request, np.random.default_rng(job.request.seed)
        clean = np.asarray(Image.open(EMOJI).convert("RGB").resize((64, 64)), np.float64)
        clean = np.repeat(clean[None], request.batch_size, 0)
        total = request.num_inference_steps
        job.set_status(JobStatus.RUNNING)
        job.set_cells([Cell(num_steps=total)])
        for index in range(total):
            time.sleep(self.step_seconds)
            if job.cancelled():
                return job.set_status(JobStatus.CANCELLED)
            share = 1 - (index + 1) / total
            noise = generator.normal(128, 80, clean.shape)
            noisy, estimate = (_uint8(clean * (1 - part) + noise * part) for part in (share, share**3))
            job.add_step(
                0,
                StepRow(index, 14 * share**2, 999 * share, 2 * (index + 1), self.step_seconds * index),
                Frame(noisy, estimate),
            )
        results = tuple(f"{job.id}-{place}" for place in range(request.batch_size))
        for result, picture in zip(results, clean, strict=True):
            Image.fromarray(_uint8(picture)).save(self.folder / f"{result}.png")
        job.update_cell(0, images=_uint8(clean), results=results)
        job.set_status(JobStatus.DONE)
        return None


def _uint8(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).astype(np.uint8)


def main() -> None:
    """`python -m tests.browser.stand_in FOLDER PORT SECONDS`: the page on the stand-in, for work on its looks."""
    import sys

    from studio.page.page import build_page, launch_options

    folder, port, seconds = sys.argv[1:]
    demo = build_page(StandIn(Path(folder), float(seconds)))
    demo.launch(server_port=int(port), run_history=False, ssr_mode=False, allowed_paths=[folder], **launch_options())


if __name__ == "__main__":
    main()
