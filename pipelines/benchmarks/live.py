"""`python -m pipelines.benchmark live`: frames a second of live mode beside one-at-a-time few-step image to image.

Every picture differs from the one before, so that nothing is skipped. Times are ratios of processor time on one thread;
what is compared takes turns. A call encodes its prompt and its picture, denoises and decodes; the LoRA stays applied.
Live mode encodes the prompt once, has the steps of several frames in one batch, and its VAE computes in bfloat16 where
the processor does; frames with the VAE in float32 stand beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pipelines.benchmarks.speed_runs import time_in_turns
from pipelines.core.loop import Run, denoise
from pipelines.core.stream_batch import StreamBatch
from pipelines.core.types import Choice, LoraChoice, Request
from pipelines.families.base import Family
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped_128
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import ResolvedRun, resolve
from pipelines.workflows.live.autoencoder import quick_autoencoder
from pipelines.workflows.live.request import LiveRequest, LiveSettings
from pipelines.workflows.live.stream import LiveStream

__all__ = ["main"]

LORA = Path(__file__).resolve().parents[2] / "assets" / "loras" / "emoji-128-four-steps.safetensors"
_MEMORY = 4 * 2**30


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark live", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="the least time of so many counts")
    parser.add_argument("--pictures", type=int, default=12, help="of a round")
    parser.add_argument("--strengths", type=float, nargs="*", default=[1.0, 0.75, 0.5], help="that are measured")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entry = shipped_128()
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[entry]), device=options.device)
    with loader.model(entry.key) as family:
        for line in _compare(family, Request.parse(entry.defaults), options):
            print(line, flush=True)
    return 0


def _compare(family: Family, defaults: Request, options: argparse.Namespace) -> Iterator[str]:
    base = defaults.replace(
        model="emoji-128",
        prompt="a red fox on a blue background",
        num_inference_steps=4,
        sampler=Choice("ddim"),
        guidance=Choice("cfg", {"guidance_scale": 1.0}),
        loras=(LoraChoice("emoji-128-four-steps"),),
    )
    pictures = [_draw_disc(number / options.pictures, family.default_size[0]) for number in range(options.pictures)]
    yield "| strength | steps | denoising alone | frames, VAE in float32 | frames | calls a second | frames a second |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for strength in options.strengths:
        request = LiveRequest(base, LiveSettings(strength=strength))
        resolved = resolve(base, family)
        with family.loras([(LORA, 1.0)]):
            runs = _Runs(family, request, resolved, pictures)
            alone, batch, calls, exact, live = time_in_turns(
                [runs.denoise_alone, runs.denoise_batched, runs.call_each, runs.run_stream, runs.run_live],
                options.rounds,
            )
        count = len(pictures)
        yield (
            f"| {strength:g} | {runs.steps} | {alone.seconds / batch.seconds:.2f} × "
            f"| {calls.seconds / exact.seconds:.2f} × | {calls.seconds / live.seconds:.2f} × "
            f"| {count / calls.seconds:.1f} | {count / live.seconds:.1f} |"
        )


class _Runs:
    """Gives the same pictures four ways; each returns its evaluations."""

    def __init__(self, family: Family, request: LiveRequest, resolved: ResolvedRun, pictures: Sequence[np.ndarray]):
        self._settled = family, request, resolved
        self._pictures, self._stream = pictures, LiveStream(*self._settled)
        # DDIM draws no noise on its way, so that a run may be walked again.
        self._prepared: list[Run] = [self._stream.build_run(picture) for picture in pictures]
        self.steps = len(self._prepared[0].levels) - 1
        self._batch: StreamBatch[int] = StreamBatch()
        for number in range(self.steps - 1):  # full before anything is timed
            self._batch.begin(number, self._prepared[0])
            self._batch.tick()
            self._stream.begin(pictures[0])
            self._stream.tick()

    @property
    def _evaluations(self) -> float:
        return float(len(self._pictures) * self.steps)

    def denoise_alone(self) -> float:
        """Run the steps of one picture after the other, without encoder and decoder."""
        for run in self._prepared:
            *_, _ = denoise(run)
        return self._evaluations

    def denoise_batched(self) -> float:
        """Run the same in a stream batch."""
        for number, run in enumerate(self._prepared):
            self._batch.begin(number, run)
            self._batch.tick()
        return self._evaluations

    def call_each(self) -> float:
        """Call few-step image to image for each picture."""
        for picture in self._pictures:
            LiveStream(*self._settled).draw(picture)
        return self._evaluations

    def run_live(self) -> float:
        """Run live mode on the pictures, as its job does."""
        with quick_autoencoder(self._settled[0]):
            return self.run_stream()

    def run_stream(self) -> float:
        """Run the stream on the pictures, the VAE as it is in a call."""
        for picture in self._pictures:
            self._stream.begin(picture)
            self._stream.tick()
        return self._evaluations


def _draw_disc(share: float, side: int) -> np.ndarray:
    """A red disc (side, side, 3), uint8, on its way over a blue ground."""
    rows, columns = np.mgrid[:side, :side]
    inside = np.hypot(rows - side / 2, columns - side * (0.2 + 0.6 * share)) < side / 4
    return np.where(inside[..., None], (210, 40, 40), (120, 180, 240)).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
