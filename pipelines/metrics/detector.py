"""Reads which objects stand where, how large, and on which background: the judge of the 128 px model.

A dense map of objects over a coarse grid whose peaks are the objects, so that sides, relations, counts and, from
picture to picture of a clip, tracks all follow from one list. Everything up to the scores is differentiable.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.core.errors import ModelFileError, ModelMissingError
from pipelines.core.gradients import no_grad
from pipelines.metrics.network_input import fit_pictures

__all__ = ["Detection", "Detector", "DetectorNetwork", "Scores", "View", "load_detector", "save_detector"]

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "models" / "emoji-128-detector"
PATCH = 4  # pixels to a cell of the first feature map, along each side
THRESHOLD = 0.5  # a peak's probability from which on there is an object


@dataclass(frozen=True)
class Detection:
    """Describes an object: label, center from the left and the top, width in parts of the picture, probability."""

    label: str
    x: float
    y: float
    size: float
    probability: float


@dataclass(frozen=True)
class View:
    """Says what one picture shows: its objects from left to right, and the background."""

    objects: tuple[Detection, ...]
    background: str
    background_probability: float


@dataclass(frozen=True)
class Scores:
    """Describes the network's answers over a grid of G x G cells.

    `presence` (B, G, G) is the logit that an object's center is in the cell, `label` (B, N, G, G) the
    log-probability of each object there, `place` (B, 3, G, G) its offset in cells from the cell's center to the
    right and down, and its width in parts of the picture; `background` (B, K) are log-probabilities.
    """

    presence: torch.Tensor
    label: torch.Tensor
    place: torch.Tensor
    background: torch.Tensor


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int = 1):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class DetectorNetwork(nn.Module):
    """Applies residual convolutions from a grid of patches of 4 px to one of 16 px, and linear heads on its cells.

    Args:
        objects, backgrounds: how many there are to tell apart.
        widths: channels at 4, 8 and 16 px to a cell.
    """

    def __init__(self, objects: int, backgrounds: int, widths: tuple[int, int, int] = (48, 96, 160)):
        super().__init__()
        first, middle, last = widths
        self.widths = widths
        self.body = nn.Sequential(
            nn.Conv2d(3, first, 2 * PATCH, stride=PATCH, padding=PATCH // 2),
            _Residual(first),
            nn.Conv2d(first, middle, 3, stride=2, padding=1),
            _Residual(middle),
            _Residual(middle),
            nn.Conv2d(middle, last, 3, stride=2, padding=1),
            _Residual(last),
            _Residual(last, 2),
            _Residual(last),
        )
        self.norm = nn.GroupNorm(8, last)
        self.heads = nn.Conv2d(last, 4 + objects, 1)
        self.background = nn.Linear(2 * last, backgrounds)

    def forward(self, images: torch.Tensor) -> Scores:
        """Turn pictures (B, 3, H, W) in [0, 1] into scores."""
        features = F.silu(self.norm(self.body(images * 2 - 1)))
        answers = self.heads(features).float()
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return Scores(
            answers[:, 0],
            answers[:, 4:].log_softmax(1),
            answers[:, 1:4],
            self.background(pooled).float().log_softmax(-1),
        )


class Detector:
    """A trained network with the names of what it tells apart.

    Args:
        network: in evaluation mode, its parameters frozen.
        labels, backgrounds: names, in the order of the network's outputs.
        size: the pixels it was trained at; other pictures are resized.
    """

    def __init__(self, network: DetectorNetwork, labels: tuple[str, ...], backgrounds: tuple[str, ...], size: int):
        self.network = network.eval().requires_grad_(False)
        self.labels, self.backgrounds, self.size = labels, backgrounds, size

    def scores(self, images: torch.Tensor) -> Scores:
        """Score everything; differentiable with respect to the pictures.

        Args: images: (B, 3, H, W) in [0, 1], any height and width.
        Raises: SettingsError when the shape is another one.
        """
        return self.network(fit_pictures(images, self.network, self.size, "The detector"))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features under the heads, (B, C, G, G), of pictures (B, 3, H, W) in [0, 1].

        Raises: SettingsError when the shape is another one.
        """
        fitted = fit_pictures(images, self.network, self.size, "The detector")
        features: torch.Tensor = self.network.norm(self.network.body(fitted * 2 - 1))
        return features

    @no_grad
    def read(self, images: torch.Tensor) -> list[View]:
        """List what is in each picture.

        Args: images: (B, 3, H, W) in [0, 1].
        """
        scores = self.scores(images)
        presence = scores.presence.sigmoid()
        # a peak is a cell that no neighbour exceeds
        peaks = (presence >= THRESHOLD) & (presence == F.max_pool2d(presence[:, None], 3, 1, 1)[:, 0])
        return [self._build_view(scores, presence, peaks, index) for index in range(len(images))]

    def _build_view(self, scores: Scores, presence: torch.Tensor, peaks: torch.Tensor, index: int) -> View:
        detections = [
            self._build_detection(scores, presence, index, row, column)
            for row, column in peaks[index].nonzero().tolist()
        ]
        value, place = scores.background[index].max(dim=0)
        objects = tuple(sorted(detections, key=lambda item: item.x))
        return View(objects, self.backgrounds[int(place)], float(value.exp()))

    def _build_detection(self, scores: Scores, presence: torch.Tensor, index: int, row: int, column: int) -> Detection:
        grid = presence.shape[-1]
        value, label = scores.label[index, :, row, column].max(dim=0)
        right, down, width = scores.place[index, :, row, column].tolist()
        return Detection(
            self.labels[int(label)],
            (column + 0.5 + right) / grid,
            (row + 0.5 + down) / grid,
            width,
            float(presence[index, row, column] * value.exp()),
        )


def save_detector(detector: Detector, folder: Path) -> None:
    """Write weights (float16) and names."""
    folder.mkdir(parents=True, exist_ok=True)
    state = detector.network.state_dict()
    save_file({k: v.half().cpu().contiguous() for k, v in state.items()}, folder / "model.safetensors")
    config = {
        "size": detector.size,
        "widths": list(detector.network.widths),
        "labels": list(detector.labels),
        "backgrounds": list(detector.backgrounds),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def load_detector(folder: Path | str = SHIPPED, device: str = "cpu") -> Detector:
    """Load a detector in float32.

    Raises: ModelMissingError when there is none; ModelFileError when a file is broken.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelMissingError(f"There is no detector in {folder.name!r}.")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        labels, backgrounds = tuple(config["labels"]), tuple(config["backgrounds"])
        network = DetectorNetwork(len(labels), len(backgrounds), tuple(config["widths"]))
        state = load_file(folder / "model.safetensors")
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelFileError(f"The detector in {folder.name!r} is broken: {error}") from error
    return Detector(network.to(device), labels, backgrounds, config["size"])
