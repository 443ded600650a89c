"""LPIPS by SqueezeNet's features, which published tables of edits use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipelines.core.errors import ModelFileError, ModelMissingError
from pipelines.metrics.lpips import Lpips

__all__ = ["SQUEEZE_FILE", "SqueezeLpips", "load_squeeze_lpips"]

SQUEEZE_FILE = "metrics/lpips-squeeze.safetensors"
"""In the models folder: the state dict of `lpips.LPIPS(net="squeeze")`."""

_CHANNELS = (64, 128, 256, 384, 384, 512, 512)
# SqueezeNet 1.1's fire modules: place in the state dict, channels in, squeezed and out, and whether the picture is
# halved before it.
_FIRES = (
    ("slice2.3", 64, 16, 128, True),
    ("slice2.4", 128, 16, 128, False),
    ("slice3.6", 128, 32, 256, True),
    ("slice3.7", 256, 32, 256, False),
    ("slice4.9", 256, 48, 384, True),
    ("slice5.10", 384, 48, 384, False),
    ("slice6.11", 384, 64, 512, False),
    ("slice7.12", 512, 64, 512, False),
)
_LAST_OF_SLICE = (1, 3, 4, 5, 6, 7)
_PARTS = ("squeeze", "expand1x1", "expand3x3")


class _Fire(nn.Module):
    """Squeezes to a few channels and expands them by kernels of one and of three pixels."""

    def __init__(self, before: int, squeezed: int, after: int):
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, after // 2, 1)
        self.expand3x3 = nn.Conv2d(squeezed, after // 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


class SqueezeLpips(Lpips):
    """Measures the distance as `Lpips` does, by seven layers of SqueezeNet 1.1."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 64, 3, stride=2), *(_Fire(*fire[1:4]) for fire in _FIRES)])
        self.weights = nn.ParameterList(torch.ones(count) for count in _CHANNELS)
        self.eval().requires_grad_(False)

    def features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Return activations after the first convolution and after each slice's last fire module."""
        x = self.convolutions[0]((pictures - self.shift) / self.scale).relu()
        activations = [x]
        for index, (fire, (*_, halved)) in enumerate(zip(self.convolutions[1:], _FIRES, strict=True)):
            x = fire(F.max_pool2d(x, 3, 2, ceil_mode=True) if halved else x)
            if index in _LAST_OF_SLICE:
                activations.append(x)
        return activations


def load_squeeze_lpips(models: Path) -> SqueezeLpips:
    """Load the metric with the weights of the models folder.

    Args:
        models: the folder.

    Raises:
        ModelMissingError: they are not there, and where to get them.
        ModelFileError: the file is broken, or holds something else.
    """
    path = models / SQUEEZE_FILE
    if not path.is_file():
        raise ModelMissingError(
            f"LPIPS by SqueezeNet needs its weights as {SQUEEZE_FILE} in the models folder: the state dict of "
            "lpips.LPIPS(net='squeeze'), as safetensors."
        )
    try:
        return build_squeeze_lpips(load_file(path))
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ModelFileError(f"{SQUEEZE_FILE} is not the state dict of lpips.LPIPS(net='squeeze'): {error}.") from error


def build_squeeze_lpips(state: Mapping[str, torch.Tensor]) -> SqueezeLpips:
    """Build the metric of a state dict of the lpips package.

    Raises:
        KeyError, RuntimeError: it is another one.
    """
    metric = SqueezeLpips()
    names = {"convolutions.0": "slice1.0"}
    for index, (place, *_) in enumerate(_FIRES):
        names |= {f"convolutions.{index + 1}.{part}": f"{place}.{part}" for part in _PARTS}
    renamed = {
        f"{ours}.{kind}": state[f"net.{theirs}.{kind}"].float()
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    renamed |= {f"weights.{i}": state[f"lin{i}.model.1.weight"].float().flatten() for i in range(len(_CHANNELS))}
    metric.load_state_dict(renamed)
    return metric
