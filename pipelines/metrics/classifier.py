"""Reads which objects, on which side, on which background are in a picture.

The studio's offline stand-in for CLIP: a judge of how well a picture follows its caption, and,
since everything up to the scores is differentiable, a reward for search.
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

from pipelines.core.errors import ModelFileError, ModelMissingError, SettingsError
from pipelines.core.gradients import no_grad
from pipelines.emoji.captions import parse
from pipelines.emoji.objects import Catalog, shipped_catalog
from pipelines.metrics.network_input import fit_pictures

__all__ = [
    "Classifier",
    "ClassifierNetwork",
    "Reading",
    "Scores",
    "Seen",
    "load_classifier",
    "save_classifier",
]

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "models" / "emoji-classifier"


@dataclass(frozen=True)
class Seen:
    """An object in a picture; `side` is None when it is alone."""

    label: str
    side: str | None
    probability: float


@dataclass(frozen=True)
class Reading:
    """Says what one picture shows: one object, or two from left to right, and the background."""

    objects: tuple[Seen, ...]
    background: str
    background_probability: float

    @property
    def labels(self) -> tuple[str, ...]:
        """The objects' labels from left to right."""
        return tuple(seen.label for seen in self.objects)


@dataclass(frozen=True)
class Scores:
    """Describes log-probabilities. `alone`, `left`, `right`: (B, N + 1), the last column is "nothing there";
    `background`: (B, K)."""

    alone: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    background: torch.Tensor


class _Block(nn.Module):
    """Halve the resolution, then one residual pair of convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, outputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class ClassifierNetwork(nn.Module):
    """Applies convolutions, then the same object head on the left half and on the right half.

    Args:
        objects, backgrounds: how many there are to tell apart.
        widths: channels; each halves the resolution.
    """

    def __init__(self, objects: int, backgrounds: int, widths: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True)))
        self.norm = nn.GroupNorm(8, widths[-1])
        self.alone = nn.Linear(2 * widths[-1], objects + 1)
        self.side = nn.Linear(2 * widths[-1], objects + 1)
        self.background = nn.Linear(2 * widths[-1], backgrounds)

    def forward(self, images: torch.Tensor) -> Scores:
        """Turn pictures (B, 3, H, W) in [0, 1] into scores."""
        features = F.silu(self.norm(self.blocks(images * 2 - 1)))
        half = features.shape[-1] // 2
        whole = _pool(features)
        return Scores(
            self.alone(whole).log_softmax(-1),
            self.side(_pool(features[..., :half])).log_softmax(-1),
            self.side(_pool(features[..., half:])).log_softmax(-1),
            self.background(whole).log_softmax(-1),
        )


def _pool(features: torch.Tensor) -> torch.Tensor:
    return torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)


class Classifier:
    """A trained network with the names of what it tells apart.

    Args:
        network: in evaluation mode, its parameters frozen.
        labels, backgrounds: names, in the order of the network's outputs.
        size: the pixels it was trained at; other pictures are resized.
    """

    def __init__(
        self,
        network: ClassifierNetwork,
        labels: tuple[str, ...],
        backgrounds: tuple[str, ...],
        size: int,
    ):
        self.network = network.eval().requires_grad_(False)
        self.labels, self.backgrounds, self.size = labels, backgrounds, size

    def scores(self, images: torch.Tensor) -> Scores:
        """Compute the log-probabilities of everything; differentiable with respect to the pictures.

        Args: images: (B, 3, H, W) in [0, 1], any height and width.
        Raises: SettingsError when the shape is another one.
        """
        return self.network(fit_pictures(images, self.network, self.size, "The classifier"))

    @no_grad
    def read(self, images: torch.Tensor) -> list[Reading]:
        """Name what is in each picture: the likelier of one object and two.

        Args: images: (B, 3, H, W) in [0, 1].
        """
        scores = self.scores(images)
        return [self._read_scores(scores, index) for index in range(len(images))]

    def adherence(self, images: torch.Tensor, caption: str, catalog: Catalog | None = None) -> torch.Tensor:
        """Estimate the probability that each picture shows what the caption says.

        Args:
            images: (B, 3, H, W) in [0, 1].
            caption: in the grammar of `pipelines.emoji.captions`.
            catalog: the objects' names; by default the shipped ones.
        Returns: (B,), in [0, 1]: objects, sides and, if it is named, background, all right.
        Raises: TrainingError when the caption is not of the grammar; SettingsError when it names
            something that the network does not know.
        """
        truth = parse(caption, catalog or shipped_catalog())
        return self.truth_probability(images, truth.labels, truth.background)

    def truth_probability(self, images: torch.Tensor, labels: tuple[str, ...], background: str | None) -> torch.Tensor:
        """Estimate as `adherence` does, for labels from left to right and a background or None."""
        scores, nothing = self.scores(images), len(self.labels)
        indices = [self._find_index(label, self.labels) for label in labels]
        if len(indices) == 1:
            total = scores.alone[:, indices[0]]
        else:
            total = scores.left[:, indices[0]] + scores.right[:, indices[1]]
            total = total + scores.alone[:, nothing]
        if background is not None:
            total = total + scores.background[:, self._find_index(background, self.backgrounds)]
        return total.exp()

    def _read_scores(self, scores: Scores, index: int) -> Reading:
        nothing = len(self.labels)
        two = scores.alone[index].argmax() == nothing
        heads = (("left", scores.left), ("right", scores.right)) if two else ((None, scores.alone),)
        objects = []
        for side, head in heads:
            value, place = head[index, :nothing].max(dim=0)
            objects.append(Seen(self.labels[int(place)], side, float(value.exp())))
        value, place = scores.background[index].max(dim=0)
        return Reading(tuple(objects), self.backgrounds[int(place)], float(value.exp()))

    @staticmethod
    def _find_index(name: str, choices: tuple[str, ...]) -> int:
        if name not in choices:
            raise SettingsError(f"The classifier does not know {name!r}. It knows: {', '.join(choices)}.")
        return choices.index(name)


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write weights (float16) and names."""
    folder.mkdir(parents=True, exist_ok=True)
    state = classifier.network.state_dict()
    save_file({k: v.half().cpu().contiguous() for k, v in state.items()}, folder / "model.safetensors")
    widths = [state[f"blocks.{number}.conv1.weight"].shape[0] for number in range(len(classifier.network.blocks))]
    config = {
        "size": classifier.size,
        "widths": widths,
        "labels": list(classifier.labels),
        "backgrounds": list(classifier.backgrounds),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def load_classifier(folder: Path | str = SHIPPED, device: str = "cpu") -> Classifier:
    """Load a classifier in float32.

    Raises: ModelMissingError when there is none; ModelFileError when a file is broken.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelMissingError(f"There is no classifier in {folder.name!r}.")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        labels, backgrounds = tuple(config["labels"]), tuple(config["backgrounds"])
        network = ClassifierNetwork(len(labels), len(backgrounds), tuple(config["widths"]))
        state = load_file(folder / "model.safetensors")
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelFileError(f"The classifier in {folder.name!r} is broken: {error}") from error
    return Classifier(network.to(device), labels, backgrounds, config["size"])
