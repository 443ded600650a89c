"""What a denoiser's weights have seen: whether the held-out pairs were held out from the beginning."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import TrainingError
from pipelines.training.exchange import HISTORY, fingerprint

__all__ = ["FRESH", "UNKNOWN", "History", "begin_run", "continued", "history_of", "write_history"]


@dataclass(frozen=True)
class History:
    """Says how many samples were drawn from every pair before pairs were held out; None: nobody knows.

    `samples` is how many there were in all, where that is known.
    """

    every_pair: int | None
    samples: int | None = None


FRESH, UNKNOWN = History(0), History(None)
WEIGHTS = ("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors")
# weights that shipped before histories were written, by the fingerprint of WEIGHTS
RECORDED = {"656d39d4e2f614bcd2db8b557a1f60431940b61630f98f8d63dbff8ec680ff58": History(92_000, 300_000)}


def history_of(folder: Path) -> History:
    """Return the history of a stock folder's UNet and text encoder; UNKNOWN where none is recorded.

    Raises: TrainingError when the file is there and cannot be read.
    """
    path = folder / HISTORY
    if path.is_file():
        return _read_history(path)
    if all((folder / name).is_file() for name in WEIGHTS):
        return RECORDED.get(fingerprint(folder, WEIGHTS), UNKNOWN)
    return UNKNOWN


def write_history(folder: Path, history: History) -> None:
    """Write the history beside the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HISTORY).write_text(json.dumps(dataclasses.asdict(history), indent=1) + "\n", "utf-8")


def continued(start: History) -> History:
    """Return the history of weights that go on from others: what was seen stays seen."""
    return History(start.every_pair)


def begin_run(folder: Path, history: History) -> History:
    """Note what a run's first weights have seen, or read it when the run goes on.

    Args:
        folder: the run's own; with a checkpoint in it the run goes on from that.
        history: of the weights that the command would begin with.
    Raises: TrainingError when the run was begun with weights of another history.
    """
    if not any((folder / name).exists() for name in ("checkpoint", "checkpoint.old")):
        write_history(folder, history)
        return history
    if not (folder / HISTORY).is_file():
        return UNKNOWN  # begun before histories were written
    recorded = _read_history(folder / HISTORY)
    if recorded != history:
        raise TrainingError(
            f"The run in {str(folder)!r} was begun otherwise ({recorded}, now {history}): give the same --fresh or "
            "--start as then, or another --run-dir."
        )
    return recorded


def _read_history(path: Path) -> History:
    try:
        history = History(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{HISTORY} in {str(path.parent)!r} cannot be read: {error}.") from error
    for count in dataclasses.astuple(history):
        if count is not None and (not isinstance(count, int) or count < 0):
            raise TrainingError(
                f"{HISTORY} in {str(path.parent)!r} cannot be read: {count!r} is not a number of samples."
            )
    return history
