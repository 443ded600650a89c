"""`python -m studio.benchmarks.main`: every figure of the studio in one run, as a table and as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from studio.safety.environment import prepare_environment
from studio.safety.flags import parse_flags
from studio.safety.launch_settings import LaunchSettings

__all__ = ["main"]


def main() -> int:
    """Measure, print, and say by the exit status whether every figure is within what it must reach."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark studio", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="alternating pairs of each ratio")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument(
        "--beside", type=Path, metavar="FOLDER", help="measure starts alone, in turn with this checkout's"
    )
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        settings = parse_flags(
            [part for kind in ("models", "outputs", "temp") for part in (f"--{kind}-folder", str(folder / kind))]
        )
        prepare_environment(settings.temp)
        if flags.beside:
            figures = _measure_starts(folder, flags.beside.resolve(), flags.rounds)
        else:
            figures = _measure_figures(folder, settings, flags.rounds)
    from studio.benchmarks.backend import format_markdown

    print(format_markdown(figures))
    if flags.out:
        flags.out.write_text(
            json.dumps([dataclasses.asdict(figure) for figure in figures], indent=1, ensure_ascii=False)
        )
    return int(any(figure.must is not None and figure.value > figure.must for figure in figures))


def _measure_starts(folder: Path, other: Path, rounds: int) -> list:
    from studio.benchmarks.page import launch_chromium
    from studio.benchmarks.start import measure_beside

    with launch_chromium() as browser:
        return measure_beside(browser, folder, other, rounds)


def _measure_figures(folder: Path, settings: LaunchSettings, rounds: int) -> list:
    # After the environment is prepared: gradio reads it when it is imported.
    from pipelines.requests.limits import Limits
    from studio.backend import Studio, StudioSettings
    from studio.benchmarks.backend import measure_backend, measure_switching
    from studio.benchmarks.page import launch_chromium, measure_page
    from studio.benchmarks.start import measure_start
    from studio.jobs.job import Job
    from studio.page.page import build_page, launch_options
    from studio.server.serve import run_server

    # Without the cache of finished runs: equal requests are timed again and again.
    studio = Studio(
        StudioSettings(
            outputs=settings.outputs, models=settings.models, device="cpu", limits=Limits(max_cached_bytes=0)
        )
    )
    try:
        figures = measure_backend(studio, rounds)
        with (
            run_server(build_page(studio), settings, **launch_options()) as url,
            launch_chromium() as browser,
            studio.model("emoji", Job("text_to_image", None)) as family,
        ):
            figures += measure_page(studio, family, browser, url, settings.temp, rounds)
            figures += measure_start(browser, folder)
    finally:
        studio.close()
    return [*figures, measure_switching(folder / "switching")]


if __name__ == "__main__":
    sys.exit(main())
