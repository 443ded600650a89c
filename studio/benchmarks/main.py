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

__all__ = ["main"]


def main() -> int:
    """Measure, print, and say by the exit status whether every figure is within what it must reach."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark studio", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="alternating pairs of each ratio")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        settings = parse_flags(
            [part for kind in ("models", "outputs", "temp") for part in (f"--{kind}-folder", str(folder / kind))]
        )
        prepare_environment(settings.temp)
        figures = _figures(folder, settings, flags.rounds)
    from studio.benchmarks.backend import markdown

    print(markdown(figures))
    if flags.out:
        flags.out.write_text(
            json.dumps([dataclasses.asdict(figure) for figure in figures], indent=1, ensure_ascii=False)
        )
    return int(any(figure.must is not None and figure.value > figure.must for figure in figures))


def _figures(folder: Path, settings: object, rounds: int) -> list:
    # After the environment is prepared: gradio reads it when it is imported.
    from studio.backend import Studio, StudioSettings
    from studio.benchmarks.backend import backend_figures, switching
    from studio.benchmarks.page import chromium, page_figures, start_figures
    from studio.jobs.job import Job
    from studio.page.page import build_page, launch_options
    from studio.server.serve import running

    studio = Studio(StudioSettings(outputs=settings.outputs, models=settings.models, device="cpu"))
    try:
        figures = backend_figures(studio, rounds)
        with (
            running(build_page(studio), settings, **launch_options()) as url,
            chromium() as browser,
            studio.model("emoji", Job("text_to_image", None)) as family,
        ):
            figures += page_figures(studio, family, browser, url, settings.temp, rounds)
            figures += start_figures(browser, folder)
    finally:
        studio.close()
    return [*figures, switching(folder / "switching")]


if __name__ == "__main__":
    sys.exit(main())
