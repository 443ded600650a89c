"""The networks of upscaler files: the compact layout here, others through spandrel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from pipelines.core.errors import ModelFileError
from pipelines.weights.files import PICKLE_SUFFIXES, read_full_header

__all__ = ["DEFAULT_UPSCALER", "LANCZOS", "Upscaler", "load_upscaler"]

DEFAULT_UPSCALER, LANCZOS = "emoji-2x", "lanczos"
"""The shipped network that is taken where none is named, and the name of plain resampling."""


class Upscaler(Protocol):
    """A network that enlarges pictures by a whole factor."""

    @property
    def scale(self) -> int: ...

    @property
    def reach(self) -> int: ...

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...


def load_upscaler(path: Path, device: str | torch.device = "cpu") -> Upscaler:
    """Load a network from a safetensors file: the compact layout here, others through spandrel where it is installed.

    Raises: ModelFileError when it is a pickle, broken, or of a network that is not known.
    """
    from safetensors.torch import load_file  # late: PyTorch is imported with it

    from pipelines.upscaling.compact import compact_from  # late: likewise

    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelFileError(
            f"{path.name!r} is a pickle, which can run code when it is read. Convert it to safetensors, or get it so."
        )
    read_full_header(path)  # says what is wrong with a broken file before any of it is loaded
    tensors = load_file(path)
    if "body.0.weight" in tensors and "body.1.weight" in tensors:
        return compact_from(tensors).to(device)
    return _through_spandrel(path, tensors, device)


@dataclass(frozen=True)
class _Described:
    """A network of spandrel's with the numbers that are needed here."""

    network: Callable[[torch.Tensor], torch.Tensor]
    scale: int
    reach: int = 16

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


def _through_spandrel(path: Path, tensors: Mapping[str, torch.Tensor], device: str | torch.device) -> Upscaler:
    try:
        import spandrel
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises the second
        raise ModelFileError(
            f"{path.name!r} is of a layout that needs spandrel, which cannot be used here ({str(error)[:80]}). "
            "Install it: pip install -r requirements-upscalers.txt"
        ) from None
    try:
        described = spandrel.ModelLoader(device).load_from_state_dict(dict(tensors))
    except spandrel.UnsupportedModelError:
        raise ModelFileError(f"{path.name!r} is not an upscaler that Stepwise or spandrel knows.") from None
    if not isinstance(described, spandrel.ImageModelDescriptor) or described.input_channels != 3:
        raise ModelFileError(f"{path.name!r} does not enlarge color pictures.")
    return _Described(described, described.scale)
