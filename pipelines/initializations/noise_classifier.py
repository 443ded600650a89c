"""Reads how much noise is in latents: the classifier of Denoising MCMC."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pipelines.core.errors import ModelFileError
from pipelines.core.gradients import no_grad

__all__ = ["NoiseClassifier", "NoiseLevelNetwork", "load_noise_classifier", "save_noise_classifier"]


class NoiseLevelNetwork(nn.Module):
    """Applies convolutions over latents of unit root mean square, and the logarithm of what was divided out.

    Its scores are those of a bell over the levels, whose middle and width it finds: neighbors are alike, and it need
    not learn that level by level.

    Args:
        channels: of the latents.
        levels: how many noise levels it tells apart.
        widths: channels; each but the first halves the resolution.
    """

    def __init__(self, channels: int, levels: int, widths: tuple[int, ...] = (32, 64, 96)):
        super().__init__()
        pairs = zip((channels, *widths[:-1]), widths, strict=True)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=1 + (index > 0), padding=1)
            for index, (before, after) in enumerate(pairs)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:])
        self.levels = levels
        self.direct = nn.Linear(2 * sum(widths) + 2 * channels + 1, 2)
        self.hidden = nn.Linear(2 * sum(widths) + 2 * channels + 1, 128)
        self.head = nn.Linear(128, 2)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return scores (B, levels) of latents (B, C, h, w) = x0 + sigma * eps."""
        rms = latents.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
        features = latents / rms
        pooled = [rms.log().flatten(1)]
        pooled += [(features.diff(dim=axis).square().mean(dim=(2, 3)) + 1e-6).log() for axis in (2, 3)]
        for index, convolution in enumerate(self.convolutions):
            features = convolution(features)
            # Noise shows in the sums of squares, which normalizing would take away.
            pooled += [features.mean(dim=(2, 3)), (features.square().mean(dim=(2, 3)) + 1e-6).log()]
            if index:
                features = self.norms[index - 1](features)
            features = F.silu(features)
        pooled_features = torch.cat(pooled, dim=1)
        middle, width = (self.direct(pooled_features) + self.head(F.silu(self.hidden(pooled_features)))).unbind(1)
        width = F.softplus(width) + 0.3
        places = torch.arange(self.levels, device=pooled_features.device, dtype=pooled_features.dtype)
        apart = (places - self.levels / 2 - 10 * middle[:, None]) / width[:, None]
        return -apart.square() / 2 - width.log()[:, None]


class NoiseClassifier:
    """A trained network with the noise levels that it tells apart.

    Args:
        network: in evaluation mode, its parameters frozen.
        lowest, highest: sigma / alpha of the first and the last level; the others are even in the logarithm.
        shape: (C, h, w) of the latents it was trained on; other heights and widths are read as well.
    """

    def __init__(self, network: NoiseLevelNetwork, lowest: float, highest: float, shape: tuple[int, int, int]):
        self.network = network.eval().requires_grad_(False)
        self.lowest, self.highest, self.shape = lowest, highest, shape
        count = network.levels
        self.sigmas = torch.linspace(math.log(lowest), math.log(highest), count, dtype=torch.float64).exp()

    @no_grad
    def sigma(self, latents: torch.Tensor) -> torch.Tensor:
        """Return (B,), float64: the likeliest sigma / alpha of latents (B, C, h, w) = x0 + sigma * eps."""
        weight = next(self.network.parameters())
        return self.sigmas[self.network(latents.to(weight.device, weight.dtype)).argmax(dim=1).cpu()]

    def nearest(self, sigmas: torch.Tensor) -> torch.Tensor:
        """Return (B,), int64: the levels nearest in the logarithm to these sigmas."""
        width = math.log(self.highest / self.lowest) / (len(self.sigmas) - 1)
        return ((sigmas.double().log() - math.log(self.lowest)) / width).round().long().clamp(0, len(self.sigmas) - 1)


def save_noise_classifier(classifier: NoiseClassifier, path: Path) -> None:
    """Write weights (float16), with the levels and the shape in the file's header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    network = classifier.network
    facts = {
        "widths": [one.out_channels for one in network.convolutions],
        "levels": len(classifier.sigmas),
        "lowest": classifier.lowest,
        "highest": classifier.highest,
        "shape": list(classifier.shape),
    }
    state = {name: value.half().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, path, {"noise_level": json.dumps(facts)})


def load_noise_classifier(path: Path) -> NoiseClassifier:
    """Load a classifier in float32.

    Raises:
        ModelFileError: the file is broken.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["noise_level"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
        network = NoiseLevelNetwork(facts["shape"][0], facts["levels"], tuple(facts["widths"]))
        network.load_state_dict(state)
        return NoiseClassifier(network, facts["lowest"], facts["highest"], tuple(facts["shape"]))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelFileError(f"The noise-level classifier {path.name!r} is broken: {str(error)[:300]}") from error
