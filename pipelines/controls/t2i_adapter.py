"""T2I-Adapter: a small network reads lines, depth, a pose or a mask once, and adds to the UNet's encoder in each step.

What there is of it for the families is in `pipelines.weights.t2i_adapter_levels`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from pipelines.controls.pictures import MAPS, MapSettings, make_map, to_tensor
from pipelines.controls.window import StepWindow, WindowedTensors
from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.families.base import Family
from pipelines.families.latent_model import LatentModel
from pipelines.weights.libraries import find_execution_device
from pipelines.weights.t2i_adapter_levels import ADAPTERS, FEATURE, AdaptedFamily, Levels, list_adapter_levels

if TYPE_CHECKING:
    from pipelines.families.pretrained import PretrainedModule

__all__ = ["T2iAdapter", "T2iAdapterSettings"]


@dataclasses.dataclass(frozen=True)
class T2iAdapterSettings(MapSettings):
    """Settings of one or two T2I-Adapters; which, and of what."""

    model: str = setting("", "A T2I-Adapter that fits the model.", label="T2I-Adapter")
    picture: str = setting("", "The picture that steers.", label="Adapter picture")
    strength: float = setting(1.0, "Factor on what the adapter adds; 0 adds nothing.", low=0, high=2, step=0.05)
    second: str = setting("", "A second T2I-Adapter, or none.", label="Second T2I-Adapter")
    second_picture: str = setting("", "The picture of the second one.", label="Second adapter picture")
    second_map: str = setting("given", "As of the first picture.", choices=MAPS, label="Second map")
    second_strength: float = setting(1.0, "Factor on what the second one adds.", low=0, high=2, step=0.05)


class T2iAdapter:
    """Steers a run by one picture, or by two, each read by an adapter of its own.

    What an adapter says does not depend on the step: it is computed once for a run and added in each of its steps, so
    that a step costs what it costs without. Two adapters' words are added with their strengths.

    Source: Mou et al., T2I-Adapter: learning adapters to dig out more controllable ability for text-to-image
        diffusion models, arXiv:2302.08453, section 3.3, and 3.5 for several at once.
    Differs: it can begin and end within a run; diffusers' pipelines end it, for SDXL, and begin with the first step.
    """

    def __init__(self, settings: T2iAdapterSettings = T2iAdapterSettings()):
        self.settings = settings

    @property
    def models(self) -> tuple[str, ...]:
        """Return the keys of the adapters."""
        return tuple(key for key in (self.settings.model, self.settings.second) if key)

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is added."""
        return self.settings.strength == 0 and (self.settings.second_strength == 0 or not self.settings.second)

    def make_map(self, pixels: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
        """Make what an adapter reads, (H, W, 3), uint8, of a picture at a size (width, height) by a key of MAPS."""
        return make_map(pixels, size, self.settings.fit, kind, (self.settings.low, self.settings.high))

    def build(
        self,
        family: Family | LatentModel,
        pictures: Sequence[np.ndarray],
        size: tuple[int, int],
        shares: Sequence[float],
    ) -> WindowedTensors | None:
        """Compute what the evaluations of a run are given; None for a neutral one.

        Args:
            family: with the components ADAPTERS, as many as there are adapters.
            pictures: as many, each (H, W, 3), uint8.
            size: (width, height) of the run.
            shares: of the strengths, for each sample of the run.

        Raises:
            SettingsError: an adapter is made for another network or for sizes of another step.
        """
        if self.is_neutral or not isinstance(family, AdaptedFamily):
            return None
        total: dict[str, torch.Tensor] = {}
        for name, pixels, kind, strength in self._list_readings(pictures):
            if strength == 0:
                continue
            adapter = family.components[name]
            _require_fit(adapter.config, family.adapter_levels, size)
            scale = strength * torch.tensor(shares, device=family.device)[:, None, None, None]
            for place, feature in enumerate(_read_map(adapter, self.make_map(pixels, size, kind))):
                key = f"{FEATURE}{place}"
                said = scale * feature.to(family.device, torch.float32)
                total[key] = total[key] + said if key in total else said
        window = StepWindow(self.settings.begin, self.settings.end)
        return WindowedTensors({"positive": total, "negative": total}, window)

    def _list_readings(self, pictures: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray, str, float]]:
        own = self.settings
        settings = ((own.map, own.strength), (own.second_map, own.second_strength))
        for name, pixels, (kind, strength) in zip(ADAPTERS, pictures, settings, strict=False):
            yield name, pixels, kind, strength


def _read_map(adapter: PretrainedModule, pixels: np.ndarray) -> list[torch.Tensor]:
    """What an adapter says of a map (H, W, 3), uint8: (1, C, h, w) of each level."""
    if adapter.config.in_channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    given = to_tensor(pixels).to(find_execution_device(adapter), adapter.dtype)
    with torch.no_grad():
        said: list[torch.Tensor] = adapter(given)
    return said


def _require_fit(config: Mapping[str, object], own: Levels, size: tuple[int, int]) -> None:
    levels = list_adapter_levels(config)
    if not levels or own[: len(levels)] != levels:
        raise SettingsError("The T2I-Adapter is made for another kind of model. Choose one for this model.")
    factor = levels[0][1]
    if any(side % factor for side in size):
        raise SettingsError(
            f"The T2I-Adapter reads pictures whose sides are multiples of {factor}, and the run has {size[0]} × "
            f"{size[1]} pixels. Choose another size."
        )
