"""What starts need of a model's data, fitted once and kept in files: where it lies, and how it is read."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
from safetensors import SafetensorError

from pipelines.core.errors import ModelFileError, ModelMissingError, SettingsError
from pipelines.initializations.base import StartContext

__all__ = [
    "DENOISING_GAIN",
    "NOISE_LEVEL",
    "STATISTICS",
    "TRANSPORT",
    "DenoisingGain",
    "Statistics",
    "Transport",
    "find_fitted",
    "fitted_file",
    "fitted_folder",
    "load_denoising_gain",
    "load_statistics",
    "load_transport",
    "require_shape",
    "save_denoising_gain",
    "save_statistics",
    "save_transport",
]

STATISTICS, TRANSPORT, NOISE_LEVEL = "statistics.safetensors", "transport.safetensors", "noise_level.safetensors"
DENOISING_GAIN = "denoising_gain.safetensors"
_SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "models" / "emoji-starts"
_FIT = "python -m pipelines.training.data_statistics --model {} --pictures FOLDER"
_TRAIN = "python -m pipelines.training.noise_level --model {} --pictures FOLDER --run-dir FOLDER"
_MEASURE = "python -m pipelines.training.denoising_gain --model {} --pictures FOLDER"
_HOW = {
    STATISTICS: ("The mean and covariance of its data", _FIT),
    TRANSPORT: ("A transport map to its data", _FIT),
    NOISE_LEVEL: ("A classifier of its noise levels", _TRAIN),
    DENOISING_GAIN: ("A measurement of its estimates", _MEASURE),
}


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Describes mean and covariance of a model's scaled latents.

    Attributes:
        mean: (C, h, w), float64.
        directions: (C * h * w, R), float64, orthonormal columns: the directions of largest variance.
        variances: (R,), float64, along these.
        rest: the variance along every other direction.
    """

    mean: torch.Tensor
    directions: torch.Tensor
    variances: torch.Tensor
    rest: float

    @classmethod
    def of(cls, latents: torch.Tensor, rank: int | None = None) -> Statistics:
        """Compute statistics fitted to latents (N, C, h, w), with the `rank` largest variances apart; all that there
        are by default."""
        flat = latents.double().flatten(1)
        mean = flat.mean(0)
        _, singular, directions = torch.linalg.svd(flat - mean, full_matrices=False)
        variances = singular**2 / max(1, len(flat) - 1)
        count = min(rank or len(variances), len(variances))
        complement = flat.shape[1] - count
        rest = float(variances[count:].sum() / complement) if complement else 0.0
        return cls(mean.reshape(latents.shape[1:]), directions[:count].T.contiguous(), variances[:count], rest)


@dataclasses.dataclass(frozen=True)
class DenoisingGain:
    """Says by how much a model's estimates of x0 are better than those of a Gaussian of its data's moments.

    Attributes:
        log_snr: (K,), float64, ascending: the logarithm of alpha^2 / sigma^2.
        gain: (K,), float64: mean squared error of the Gaussian's less that of the model's, summed over a picture.
    """

    log_snr: torch.Tensor
    gain: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Transport:
    """Describes a semi-discrete transport map from the unit normal to points of a model's data.

    Attributes:
        points: (N, C, h, w), float32, scaled latents.
        heights: (N,), float32: noise z goes to the point of the largest <z, y> + height.
    """

    points: torch.Tensor
    heights: torch.Tensor


def fitted_folder(model: str, models_folder: Path) -> Path:
    """Find where the fitted files of a model lie: the shipped model's beside it, others in the models folder."""
    return _SHIPPED if model == "emoji" else models_folder / "starts" / model.replace("/", "--")


def fitted_file(context: StartContext, name: str) -> Path:
    """Return the file of this name that was fitted for the run's model.

    Raises:
        ModelMissingError: there is none, with the command that makes it.
    """
    return find_fitted(name, context.model, context.folder)


def find_fitted(name: str, model: str, folder: Path | None) -> Path:
    """Find a fitted file.

    Args:
        name: of the file.
        model: key of the catalog, for the message.
        folder: of this model's files (`fitted_folder`); None where nothing can be.

    Raises:
        ModelMissingError: there is none, with the command that makes it.
    """
    path = folder and folder / name
    if path is None or not path.is_file():
        what, command = _HOW[name]
        raise ModelMissingError(
            f"{what} is needed for this initialization, and there is none for the model {model!r}. "
            f"Fit it: {command.format(model)}"
        )
    return path


def require_shape(context: StartContext, fitted: torch.Size | tuple, latents: torch.Tensor) -> None:
    """Raise SettingsError if latents (B, C, h, w) are of another shape than what was fitted."""
    if tuple(fitted) != tuple(latents.shape[1:]):
        shapes = " and ".join(" × ".join(map(str, shape)) for shape in (fitted, latents.shape[1:]))
        raise SettingsError(
            f"This initialization was fitted for the model {context.model!r} at another size (latents of {shapes}). "
            "Choose the model's own size, or plain noise."
        )


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write the directions in float16, the rest in float32."""
    from safetensors.torch import save_file  # late: PyTorch is imported with it

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "mean": statistics.mean.float().contiguous(),
            "directions": statistics.directions.half().contiguous(),
            "variances": statistics.variances.float().contiguous(),
            "rest": torch.tensor([statistics.rest]),
        },
        path,
    )


def load_statistics(path: Path) -> Statistics:
    """Load statistics in float64, their directions made orthonormal again.

    Raises:
        ModelFileError: the file is broken.
    """
    return _read_statistics(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_statistics(path: Path, modified_ns: int) -> Statistics:
    tensors = _load_tensors(path, ("mean", "directions", "variances", "rest"))
    directions, signs = torch.linalg.qr(tensors["directions"].double())
    directions = directions * torch.sign(torch.diagonal(signs))
    return Statistics(tensors["mean"].double(), directions, tensors["variances"].double(), float(tensors["rest"]))


def save_denoising_gain(gain: DenoisingGain, path: Path) -> None:
    """Write both columns in float32."""
    from safetensors.torch import save_file  # late: PyTorch is imported with it

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"log_snr": gain.log_snr.float().contiguous(), "gain": gain.gain.float().contiguous()}, path)


def load_denoising_gain(path: Path) -> DenoisingGain:
    """Load a measurement in float64.

    Raises:
        ModelFileError: the file is broken.
    """
    tensors = _load_tensors(path, ("log_snr", "gain"))
    log_snr, gain = tensors["log_snr"].double(), tensors["gain"].double()
    if log_snr.ndim != 1 or log_snr.shape != gain.shape or len(gain) < 2 or not bool((log_snr.diff() > 0).all()):
        raise ModelFileError(f"The fitted file {path.name!r} is broken: it is no ascending table. Measure it again.")
    return DenoisingGain(log_snr, gain)


def save_transport(transport: Transport, path: Path) -> None:
    """Write the points in float16, the heights in float32."""
    from safetensors.torch import save_file  # late: PyTorch is imported with it

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"points": transport.points.half().contiguous(), "heights": transport.heights.float().contiguous()}, path)


def load_transport(path: Path) -> Transport:
    """Load a transport map in float32.

    Raises:
        ModelFileError: the file is broken.
    """
    return _read_transport(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_transport(path: Path, modified_ns: int) -> Transport:
    tensors = _load_tensors(path, ("points", "heights"))
    return Transport(tensors["points"].float(), tensors["heights"].float())


def _load_tensors(path: Path, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file  # late: PyTorch is imported with it

    try:
        tensors = load_file(path)
        return {name: tensors[name] for name in names}
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ModelFileError(f"The fitted file {path.name!r} is broken: {str(error)[:300]}. Fit it again.") from error
