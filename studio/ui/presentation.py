"""Numbers and states in words, as the page shows them. No HTML here."""

from __future__ import annotations

import math

from pipelines.core.types import Request
from pipelines.models.entry import CatalogEntry
from studio.jobs.job import JobStatus, View

__all__ = [
    "duration",
    "figures",
    "file_size",
    "model_label",
    "model_note",
    "number",
    "plural",
    "program",
    "progress",
    "step_figures",
]


def number(value: float | None) -> str:
    """Three significant digits: 0.0316, 3.16, 316, 31600; "∞" and "–" where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def duration(seconds: float) -> str:
    """0.85 s, 12.3 s, 2 min 5 s, 1 h 2 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, word: str) -> str:
    """1 step, 2 steps."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def file_size(size: int | None) -> str:
    """6.9 GB, 820 MB; empty when unknown."""
    if not size:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def model_label(entry: CatalogEntry) -> str:
    """A model in the list: one that is not on this machine says that it would be downloaded."""
    if entry.local:
        return entry.label
    return f"{entry.label}, download {file_size(entry.size_bytes)}".rstrip()


def model_note(entry: CatalogEntry) -> str:
    """What a person should know about a model, in one line."""
    licence = f"Licence: {entry.licence}." if entry.licence else ""
    return " ".join(part for part in (entry.problem or entry.notes, licence) if part) or " "


def program(source: str) -> str:
    """The name of the program that wrote a picture's settings."""
    names = {
        "stepwise": "Stepwise",
        "a1111": "A1111",
        "forge": "Forge",
        "comfyui": "ComfyUI",
        "invokeai": "InvokeAI",
        "swarmui": "SwarmUI",
    }
    return names.get(source, source)


def progress(view: View) -> list[str]:
    """What is happening, in short parts: the first is the headline."""
    rows = [row for cell in view.cells for row in cell.rows]
    if view.status is JobStatus.QUEUED:
        place = f"{plural(view.position, 'job')} ahead" if view.position else "next in the queue"
        wait = [f"starts in about {duration(view.wait_seconds)}"] if view.wait_seconds else []
        return ["Waiting", place, *wait]
    if view.status is JobStatus.LOADING:
        return [view.message or "Loading the model", duration(view.seconds)]
    if view.status is JobStatus.FAILED:
        return ["Failed", f"after {duration(view.seconds)}"]
    done, total = len(rows), sum(cell.num_steps for cell in view.cells)
    evaluations = (
        [plural(sum(cell.rows[-1].evaluations for cell in view.cells if cell.rows), "evaluation")] if rows else []
    )
    if view.status is JobStatus.CANCELLED:
        return [f"Stopped at step {done} of {total}" if total else "Stopped", *evaluations, duration(view.seconds)]
    if view.status is JobStatus.DONE:
        return [f"Done in {duration(view.seconds)}"]
    left = view.seconds_left
    if done == total and total:
        return ["Decoding the picture", *evaluations, duration(view.seconds)]
    return [f"Step {done} of {total}", *evaluations, *([f"{duration(left)} left"] if left is not None else [])]


def figures(view: View, request: Request, label: str) -> list[tuple[str, str]]:
    """Name and value of what made a finished picture."""
    cell = view.cells[0]
    height, width = cell.images.shape[1:3] if cell.images is not None else (request.height, request.width)
    seeds = (
        str(request.seed) if request.batch_size == 1 else f"{request.seed} to {request.seed + request.batch_size - 1}"
    )
    last = cell.rows[-1] if cell.rows else None
    return [
        ("Steps", str(len(cell.rows) or request.num_inference_steps)),
        ("NFE", str(last.evaluations) if last else "–"),
        ("Sampling", duration(last.seconds if last else view.seconds)),
        *([("Size", f"{width} × {height}")] if width and height else []),  # the model's own, of an old job
        ("Seed", seeds),
        ("Model", label),
    ]


def step_figures(view: View, step: int) -> list[tuple[str, str]]:
    """Name and value of one step of the first cell's trajectory, counted from 1."""
    row = view.cells[0].rows[step - 1]
    return [
        ("σ", number(row.sigma)),
        ("t", number(row.timestep)),
        ("NFE", str(row.evaluations)),
        ("Time", duration(row.seconds)),
    ]
