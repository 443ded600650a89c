"""Numbers and states in words, as the page shows them. No HTML here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipelines.core.types import Request
from pipelines.models.entry import CatalogEntry
from studio.jobs.job import JobStatus, Population, StepRow, View

__all__ = [
    "EVALUATIONS",
    "NFE_TOOLTIP",
    "TOOLTIPS",
    "format_count",
    "format_duration",
    "format_evaluations",
    "format_file_size",
    "format_licence",
    "format_model_label",
    "format_model_note",
    "format_number",
    "get_program_name",
    "list_figures",
    "list_progress_parts",
    "step_figures",
]

EVALUATIONS = "Evaluations (NFE)"
NFE_TOOLTIP = "How often the network ran. Classifier-free guidance runs it for the prompt and for the negative prompt."
SKIPPED = "Skipped by the cache"
TOOLTIPS = {
    EVALUATIONS: NFE_TOOLTIP,
    "NFE": f"Number of function evaluations. {NFE_TOOLTIP}",
    "Noise level σ": "Noise to signal in the latents after this step: sigma / alpha, the sigma of k-diffusion.",
    SKIPPED: "Share of the network's multiply-adds that were taken from earlier steps. Evaluations count what was run.",
    "σ": "Sigma: the share of noise. A run goes from much noise to none; α, alpha, is the share of the picture.",
    "Preview x̂₀": "What the network takes for the finished picture at this step: its denoised estimate, x0.",
    "Noisy latents": "What the sampler works on: the picture in the model's own small format, and the noise in it.",
    "Timestep": "The time that the network was given, usually from 999 down to 0.",
}
"""Name of a figure, or a term, to what the page says of it under the pointer, the finger or the keyboard."""


def format_number(value: float | None) -> str:
    """Write a number with three significant digits: 0.0316, 3.16, 316, 31600; "∞" and "–" where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def format_duration(seconds: float) -> str:
    """Write a duration as 0.85 s, 12.3 s, 2 min 5 s, 1 h 2 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, remaining = divmod(round(seconds), 60)
    return f"{minutes} min {remaining} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_count(count: int, word: str) -> str:
    """1 step, 2 steps."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def format_evaluations(count: float) -> str:
    """Write a number of evaluations: 50, or 17.3 where a cache ran some of them in part."""
    return f"{round(count, 1):g}"


def _format_evaluation_count(count: float) -> str:
    return f"{format_evaluations(count)} evaluation" + "s" * (count != 1)


def format_file_size(size: int | None) -> str:
    """Write a file's size as 6.9 GB, 820 MB, 34 kB; empty when unknown."""
    if not size:
        return ""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{round(size / 1e6)} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


_LICENCES = {
    "apache-2.0": "Apache 2.0",
    "cc-by-4.0": "CC BY 4.0",
    "cc-by-nc-4.0": "CC BY-NC 4.0",
    "cc-by-sa-4.0": "CC BY-SA 4.0",
    "cc0-1.0": "CC0 1.0",
    "creativeml-openrail-m": "CreativeML OpenRAIL-M",
    "flux-1-dev-non-commercial-license": "FLUX.1 [dev] Non-Commercial",
    "flux-2-dev-non-commercial-license": "FLUX.2 [dev] Non-Commercial",
    "mit": "MIT",
    "openrail++": "CreativeML OpenRAIL++-M",
    "sai-nc-community": "Stability AI Non-Commercial Community",
    "stabilityai-ai-community": "Stability AI Community",
    "stable-video-diffusion-community": "Stable Video Diffusion Community",
    "tencent-hunyuan-community": "Tencent Hunyuan Community",
}
"""The Hub's identifiers of licenses and their names."""


def format_model_label(entry: CatalogEntry) -> str:
    """Write a model's label in the list: one that is not on this machine says that it would be downloaded."""
    if entry.local:
        return entry.label
    return f"{entry.label}, download {format_file_size(entry.size_bytes)}".rstrip()


def format_licence(identifier: str) -> str:
    """Write a license as people do, from the Hub's identifier; one that is not known stays as it is."""
    return _LICENCES.get(identifier, identifier)


def format_model_note(entry: CatalogEntry) -> str:
    """Say what a person should know about a model, in one line."""
    licence = f"License: {format_licence(entry.licence)}." if entry.licence else ""
    return " ".join(part for part in (entry.problem or entry.notes, licence) if part) or " "


def get_program_name(source: str) -> str:
    """Return the name of the program that wrote a picture's settings."""
    names = {
        "stepwise": "Stepwise",
        "a1111": "A1111",
        "forge": "Forge",
        "comfyui": "ComfyUI",
        "invokeai": "InvokeAI",
        "swarmui": "SwarmUI",
        "sdnext": "SD.Next",
        "fooocus": "Fooocus",
        "novelai": "NovelAI",
        "drawthings": "Draw Things",
        "diffusionbee": "DiffusionBee",
        "easydiffusion": "Easy Diffusion",
    }
    return names.get(source, source)


def list_progress_parts(view: View) -> list[str]:
    """List what is happening, in short parts: the first is the headline."""
    rows = [row for cell in view.cells for row in cell.rows]
    if view.status is JobStatus.QUEUED:
        place = f"{format_count(view.position, 'job')} ahead" if view.position else "next in the queue"
        wait = [f"starts in about {format_duration(view.wait_seconds)}"] if view.wait_seconds else []
        return ["Waiting", place, *wait]
    if view.status is JobStatus.LOADING:
        return [view.message or "Loading the model", format_duration(view.seconds)]
    if view.status is JobStatus.FAILED:
        return ["Failed", f"after {format_duration(view.seconds)}"]
    if view.population is not None:
        return _list_search_parts(view, view.population)
    done, total = len(rows), sum(cell.num_steps for cell in view.cells)
    spent = sum(cell.rows[-1].evaluations for cell in view.cells if cell.rows)
    evaluations = [_format_evaluation_count(spent)] if spent else []  # some work has no evaluations of its own
    if view.status is JobStatus.CANCELLED:
        return [
            f"Stopped at step {done} of {total}" if total else "Stopped",
            *evaluations,
            format_duration(view.seconds),
        ]
    if view.status is JobStatus.DONE:
        return [f"Done in {format_duration(view.seconds)}"]
    seconds_left = view.seconds_left
    if done == total and total:
        return ["Decoding the picture", *evaluations, format_duration(view.seconds)]
    if not total:
        return [view.message or "Preparing", format_duration(view.seconds)]
    return [
        view.message or f"Step {done} of {total}",
        *evaluations,
        *([f"{format_duration(seconds_left)} left"] if seconds_left is not None else []),
    ]


def _list_search_parts(view: View, population: Population) -> list[str]:
    """How far a search is, in short parts."""
    evaluations = f"{format_evaluations(population.spent)} of {population.budget} evaluations"
    parts = [evaluations, f"best {format_number(population.best.reward)} of {population.judged}"]
    if view.status is JobStatus.DONE:
        return [f"Done in {format_duration(view.seconds)}", *parts]
    if view.status is JobStatus.CANCELLED:
        return ["Stopped, the best is kept", *parts, format_duration(view.seconds)]
    left = view.seconds_left
    return ["Searching", *parts, *([f"at most {format_duration(left)} left"] if left is not None else [])]


def list_figures(view: View, request: Request, label: str) -> list[tuple[str, str]]:
    """Name and value of what made a finished picture."""
    cell = view.cells[0]
    height, width = cell.images.shape[1:3] if cell.images is not None else (request.height, request.width)
    seeds = (
        str(request.seed) if request.batch_size == 1 else f"{request.seed} to {request.seed + request.batch_size - 1}"
    )
    last = cell.rows[-1] if cell.rows else None
    if cell.population is not None:
        return [
            ("Reward", format_number(cell.population.best.reward)),
            ("Judged", str(cell.population.judged)),
            (EVALUATIONS, f"{format_evaluations(cell.population.spent)} of {cell.population.budget}"),
            ("Searching", format_duration(view.seconds)),
            *([("Size", f"{width} × {height}")] if width and height else []),
            _name_searched_seed(cell.population, seeds),
            ("Model", label),
        ]
    return [
        ("Steps", str(len(cell.rows) or request.num_inference_steps)),
        (EVALUATIONS, format_evaluations(last.evaluations) if last else "–"),
        *_list_skipped(cell.rows, cell.rows),
        ("Sampling", format_duration(last.seconds if last else view.seconds)),
        *([("Size", f"{width} × {height}")] if width and height else []),  # the model's own, of an old job
        ("Seed", seeds),
        ("Model", label),
    ]


def _name_searched_seed(population: Population, seeds: str) -> tuple[str, str]:
    """The seed that makes the best picture alone, or else the one that the search began with."""
    return ("Search began with seed", seeds) if population.best.seed is None else ("Seed", str(population.best.seed))


def step_figures(view: View, step: int) -> list[tuple[str, str]]:
    """Name and value of one step of the first cell's trajectory, counted from 1."""
    row, total = view.cells[0].rows[step - 1], view.cells[0].num_steps or len(view.cells[0].rows)
    return [
        ("Step", f"{step} of {total}"),
        ("Noise level σ", format_number(row.sigma)),
        ("Timestep", f"{row.timestep:.0f}" if float(row.timestep).is_integer() else format_number(row.timestep)),
        (EVALUATIONS, format_evaluations(row.evaluations)),
        *_list_skipped([row], view.cells[0].rows),
        ("Time", format_duration(row.seconds)),
    ]


def _list_skipped(steps: Sequence[StepRow], run: Sequence[StepRow]) -> list[tuple[str, str]]:
    """What a cache left out of the network in these steps of a run; nothing for a run without a cache."""
    if not any(row.skipped for row in run):
        return []
    return [(SKIPPED, f"{100 * sum(row.skipped for row in steps) / len(steps):.0f} %")]
