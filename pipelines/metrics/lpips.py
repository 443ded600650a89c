"""LPIPS: how unlike two pictures are to the eye, by a classifier's features.

The weights are not shipped: they are read from the models folder, if they are there, and are never fetched.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipelines.core.errors import ModelFileError, ModelMissingError, SettingsError

__all__ = ["FILE", "LEAST_SIDE", "Lpips", "load_lpips"]

FILE = "metrics/lpips-alex.safetensors"
"""In the models folder: the state dict of `lpips.LPIPS(net="alex")`."""

LEAST_SIDE = 32
"""Pixels; the features of a smaller picture vanish."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_CHANNELS = (64, 192, 384, 256, 256)
# AlexNet's convolutions: name in the state dict, kernel, stride, padding, and whether the picture is halved before it.
_LAYERS = (
    ("slice1.0", 11, 4, 2, False),
    ("slice2.3", 5, 1, 2, True),
    ("slice3.6", 3, 1, 1, True),
    ("slice4.8", 3, 1, 1, False),
    ("slice5.10", 3, 1, 1, False),
)
_TINY = 1e-10
_MISSING = (
    "LPIPS needs its weights, which are not here. Where the lpips package is installed, make them with: "
    'python -c "import lpips; from safetensors.torch import save_file; '
    "save_file({k: v.clone() for k, v in lpips.LPIPS(net='alex').state_dict().items()}, "
    f"'lpips-alex.safetensors')\", and put the file into the models folder as {FILE}."
)


class Lpips(nn.Module):
    """Measures the distance, for pictures in [-1, 1].

    Args:
        channels: of the five layers' features; other numbers than AlexNet's make a small one for tests.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, channels: Sequence[int] = _CHANNELS):
        super().__init__()
        sizes = zip((3, *channels[:-1]), channels, _LAYERS, strict=True)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride=stride, padding=padding)
            for before, after, (_, kernel, stride, padding, _) in sizes
        )
        self.weights = nn.ParameterList(torch.ones(count) for count in channels)
        self.register_buffer("shift", torch.tensor(_SHIFT).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).reshape(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Return activations after each of the five convolutions, pictures (B, 3, H, W) in [-1, 1]."""
        activations, x = [], (pictures - self.shift) / self.scale
        for convolution, (*_, halved) in zip(self.convolutions, _LAYERS, strict=True):
            x = convolution(F.max_pool2d(x, 3, 2) if halved else x).relu()
            activations.append(x)
        return activations

    def forward(self, pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Measure the distance of each pair: (B,), 0 for equal pictures, some 0.7 for unrelated ones.

        Args:
            pictures, references: (B, 3, H, W) in [-1, 1].

        Source: Zhang, Isola, Efros, Shechtman, Wang, The unreasonable effectiveness of deep features as a perceptual
        metric, arXiv:1801.03924, equation 1; version 0.1 of its weights.
        Differs: as the authors' code, features are divided by their norm plus 1e-10, and the paper's w² is kept as w.
        """
        total = pictures.new_zeros(len(pictures))
        pairs = zip(self.features(pictures), self.features(references), self.weights, strict=True)
        for first, second, weight in pairs:
            difference = (_normalize(first) - _normalize(second)) ** 2
            total = total + (difference * weight[:, None, None]).sum(1).mean((1, 2))
        return total

    def between(self, picture: np.ndarray, reference: np.ndarray) -> float:
        """Measure the distance of two pictures (H, W, 3), uint8, of one size.

        Raises:
            SettingsError: the sizes differ, or a side is too short.
        """
        if picture.shape != reference.shape:
            raise SettingsError(
                f"Pictures of the shapes {picture.shape} and {reference.shape} cannot be compared: "
                "they must be of one size."
            )
        if min(picture.shape[:2]) < LEAST_SIDE:
            raise SettingsError(
                f"LPIPS needs {LEAST_SIDE} pixels a side; the picture has {picture.shape[1]} × {picture.shape[0]}."
            )
        pair = torch.stack(
            [torch.from_numpy(one.copy()).permute(2, 0, 1).float() / 127.5 - 1 for one in (picture, reference)]
        )
        with torch.no_grad():
            return float(self(pair[:1], pair[1:])[0])


def _normalize(features: torch.Tensor) -> torch.Tensor:
    return features / (features.pow(2).sum(1, keepdim=True).sqrt() + _TINY)


def load_lpips(models: Path) -> Lpips:
    """Load the metric with the weights of the models folder; kept in memory once read.

    Args:
        models: the folder.

    Raises:
        ModelMissingError: they are not there, and where to get them.
        ModelFileError: the file is broken, or holds something else.
    """
    path = models / FILE
    if not path.is_file():
        raise ModelMissingError(_MISSING)
    return _load(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _load(path: Path, modified_ns: int) -> Lpips:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(
            f"{FILE} cannot be read: {error}. Make it again as docs/models-and-files.md says, or remove it."
        ) from error
    return _build_metric(state)


def _build_metric(state: Mapping[str, torch.Tensor]) -> Lpips:
    try:
        metric = Lpips([len(state[f"net.{name}.weight"]) for name, *_ in _LAYERS])
        renamed: dict[str, torch.Tensor] = {}
        for i, (name, *_) in enumerate(_LAYERS):
            renamed |= {f"convolutions.{i}.{part}": state[f"net.{name}.{part}"].float() for part in ("weight", "bias")}
            renamed[f"weights.{i}"] = state[f"lin{i}.model.1.weight"].float().flatten()
        metric.load_state_dict(renamed)
    except (KeyError, RuntimeError) as error:
        raise ModelFileError(
            f"{FILE} is not the state dict of lpips.LPIPS(net='alex'): {error}. Put the right one there."
        ) from error
    return metric
