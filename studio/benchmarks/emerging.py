"""Records a picture emerging from noise as an animated WebP: `python -m studio.benchmarks.emerging`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from PIL import Image

from studio.backend import Studio, StudioSettings
from studio.benchmarks.examples import run_example
from studio.page.text_to_image.examples import EXAMPLES

__all__ = ["main", "record_frames"]

OUT = Path(__file__).resolve().parents[2] / "assets" / "screenshots" / "emerging.webp"
SIDE, QUALITY = 256, 80
STEP_MILLISECONDS, LAST_MILLISECONDS = 140, 2000


def record_frames(studio: Studio) -> list[Image.Image]:
    """Draw the page's first example, and return the estimate of the finished picture at each step, and the picture."""
    job = run_example(studio, EXAMPLES[0].values)
    (cell,) = job.view().cells
    estimates = [studio.decode_frame(job.id, 0, step)[1][0] for step in range(len(cell.frames))]
    with Image.open(studio.store.get(cell.results[0]).path) as picture:
        frames = [*map(Image.fromarray, estimates), picture.convert("RGB")]
    return [frame.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for frame in frames]


def main() -> int:
    """Record the frames and write the file."""
    parser = argparse.ArgumentParser(prog="python -m studio.benchmarks.emerging", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="the .webp file (default: the one in the docs)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        studio = Studio(StudioSettings(outputs=folder / "outputs", models=folder / "models", device="cpu"))
        try:
            first, *others = record_frames(studio)
        finally:
            studio.close()
    durations = [STEP_MILLISECONDS] * len(others) + [LAST_MILLISECONDS]
    first.save(flags.out, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=QUALITY)
    print(f"{flags.out.name}: {len(others) + 1} frames, {flags.out.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
