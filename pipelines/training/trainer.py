"""The one training loop: every network that ships is trained, checkpointed and shown by it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from pipelines.core.gradients import no_grad
from pipelines.training.checkpoint import load_checkpoint, save_checkpoint

__all__ = [
    "Settings",
    "Task",
    "Trainer",
    "add_arguments",
    "generator_for",
    "pick_device",
    "picture_sheet",
    "settings_from",
    "train",
    "use_threads",
]


class Task(Protocol):
    """Says what the loop trains. Everything random in `loss` comes from the seed and the step alone, so that a resumed
    run draws what an unbroken one would have drawn."""

    @property
    def networks(self) -> torch.nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    @property
    def batch(self) -> int: ...

    def loss(self, step: int) -> torch.Tensor: ...

    def learning_rate(self, step: int) -> float: ...

    def export(self, folder: Path) -> None: ...

    def sheet(self, path: Path) -> None: ...


@dataclass(frozen=True)
class Settings:
    """Says how long and how a run goes; `minutes` ends this session, not the run."""

    steps: int
    ema: float = 0.999
    clip: float = 1.0
    bf16: bool = False
    minutes: float | None = None
    save_every: int = 250
    sheet_every: int = 1_000
    log_every: int = 25


class Trainer:
    """Trains a task in a folder: `checkpoint/`, `export/`, `sheets/`. Goes on where it stopped.

    Args:
        task: what is trained.
        folder: the run's own folder, outside the source tree.
        settings: see `Settings`.
    Raises: TrainingError when the folder holds a checkpoint of other networks.
    """

    def __init__(self, task: Task, folder: Path, settings: Settings):
        self.task, self.folder, self.settings = task, folder, settings
        self.averaged = {k: v.detach().clone() for k, v in task.networks.state_dict().items()}
        self.device = next(task.networks.parameters()).device
        facts = load_checkpoint(folder / "checkpoint", task.networks, self.averaged, task.optimizer)
        self.step = facts["step"] if facts else 0
        self._stopping = False

    def stop(self, *_: object) -> None:
        """End the session after the current step; the checkpoint is written. A signal handler."""
        self._stopping = True

    def run(self) -> int:
        """Train until the last step or until the time is up; returns the step reached."""
        settings = self.settings
        start_time = last_report = time.monotonic()
        losses: list[float] = []
        while self.step < settings.steps:
            losses.append(self._run_step())
            self.step += 1
            now = time.monotonic()
            if self.step % settings.log_every == 0:
                self._report(losses, now - last_report)
                losses, last_report = [], now
            if self.step % settings.save_every == 0:
                self.save()
            if self.step % settings.sheet_every == 0:
                self.show()
            if settings.minutes is not None and now - start_time > settings.minutes * 60:
                self._stopping = True
            if self._stopping:
                break
        if losses:  # else the end of a session, or all of a short one, would pass in silence
            self._report(losses, time.monotonic() - last_report)
        self.save()
        if self.step >= settings.steps:
            self.show()
        return self.step

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(
            self.folder / "checkpoint",
            self.task.networks,
            self.averaged,
            self.task.optimizer,
            {"step": self.step, "steps": self.settings.steps, "batch": self.task.batch},
        )

    def show(self) -> None:
        """Export the averaged weights and draw a sheet of pictures with them."""
        sheets = self.folder / "sheets"
        sheets.mkdir(parents=True, exist_ok=True)
        with self._use_averaged_weights():
            self.task.export(self.folder / "export")
            self.task.sheet(sheets / f"{self.step:07d}.png")

    def _run_step(self) -> float:
        task = self.task
        for group in task.optimizer.param_groups:
            group["lr"] = task.learning_rate(self.step)
        task.networks.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            loss = task.loss(self.step)
        task.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.networks.parameters(), self.settings.clip)
        task.optimizer.step()
        self._average()
        return float(loss.detach())

    @no_grad
    def _average(self) -> None:
        # the first steps weigh more, or the average would long remember the first weights
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.task.networks.state_dict().items():
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1 - decay)
            else:
                self.averaged[name].copy_(value)

    @contextlib.contextmanager
    def _use_averaged_weights(self) -> Iterator[None]:
        networks = self.task.networks
        original = {k: v.detach().clone() for k, v in networks.state_dict().items()}
        try:
            networks.load_state_dict(self.averaged)
            networks.eval()
            with torch.no_grad():
                yield
        finally:
            networks.load_state_dict(original)

    def _report(self, losses: list[float], seconds: float) -> None:
        rate = len(losses) * self.task.batch / seconds
        now, lr = time.strftime("%H:%M:%S"), self.task.learning_rate(self.step - 1)
        print(
            f"{now} step {self.step}/{self.settings.steps}  loss {np.mean(losses):.4f}  "
            f"{rate:.1f} samples/s  lr {lr:.1e}",
            flush=True,
        )


def train(task: Task, folder: Path, settings: Settings) -> int:
    """Train from the command line: the first interrupt or SIGTERM ends it with a checkpoint."""
    trainer = Trainer(task, folder, settings)
    before = {kind: signal.signal(kind, trainer.stop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        return trainer.run()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def generator_for(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """Return a generator that depends on the seed and the step alone."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(mixed)


def picture_sheet(images: torch.Tensor, columns: int = 12) -> Image.Image:
    """Lay (B, 3, H, W) in [0, 1] out in rows of `columns` pictures."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for index, picture in enumerate(pixels):
        y, x = index // columns * height, index % columns * width
        sheet[y : y + height, x : x + width] = picture
    return Image.fromarray(sheet)


def pick_device() -> torch.device:
    """Return CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every training command has."""
    parser.add_argument("--recipe", default="cpu", help="cpu or gpu (default: cpu)")
    parser.add_argument("--run-dir", type=Path, required=True, help="checkpoints and sheets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="length of the run (default: the recipe's)")
    parser.add_argument("--minutes", type=float, help="stop after this time; run again to go on")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 on the CPU too")
    parser.add_argument("--sheet-every", type=int, default=1_000)


def settings_from(arguments: argparse.Namespace, steps: int, ema: float) -> Settings:
    """Read settings from the command line and, where it is silent, the recipe."""
    return Settings(
        steps=arguments.steps or steps,
        ema=ema,
        minutes=arguments.minutes,
        bf16=arguments.bf16 or pick_device().type == "cuda",
        sheet_every=arguments.sheet_every,
    )


def use_threads(count: int | None) -> None:
    """Use this many CPU threads; None or 0 leaves it to the environment."""
    threads = count or int(os.environ.get("OMP_NUM_THREADS", 0))
    if threads:
        torch.set_num_threads(threads)
