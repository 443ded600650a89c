"""The metrics of PIE-Bench, as its authors compute them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.benchmarks.pie_bench import Sample
from pipelines.core.errors import ModelFileError, ModelMissingError
from pipelines.core.gradients import no_grad
from pipelines.metrics.lpips import Lpips
from pipelines.metrics.lpips_squeeze import load_squeeze_lpips
from pipelines.metrics.pictures import psnr, ssim
from pipelines.metrics.structure import structure_distance
from pipelines.rewards import REWARDS
from pipelines.rewards.base import RewardSources

__all__ = ["COLUMNS", "PUBLISHED", "Dino", "PieJudges", "PieMetrics", "average", "load_judges", "measure_edit"]

PUBLISHED: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("DDIM + prompt-to-prompt", (69.43, 17.87, 208.80, 219.88, 71.14, 25.01, 22.44)),
    ("Null-text + prompt-to-prompt", (13.44, 27.03, 60.67, 35.86, 84.11, 24.75, 21.86)),
    ("Negative-prompt + prompt-to-prompt", (16.17, 26.21, 69.01, 39.73, 83.40, 24.61, 21.87)),
    ("Direct Inversion + prompt-to-prompt", (11.65, 27.22, 54.55, 32.86, 84.76, 25.02, 22.10)),
    ("CycleDiffusion + prompt-to-prompt", (6.06, 28.25, 43.96, 25.85, 85.61, 23.68, 20.87)),
    ("InfEdit, LCM", (13.78, 28.51, 47.58, 32.09, 85.66, 25.03, 22.22)),
    ("DCI + prompt-to-prompt", (6.07, 29.38, 33.01, 21.28, 87.14, 25.52, math.nan)),
    ("FlowEdit, FLUX", (27.96, 21.92, 112.99, 95.68, 83.35, 25.41, 22.29)),
    ("RF-Inversion, FLUX", (42.00, 20.15, 177.11, 141.22, 70.64, 24.57, 21.75)),
)
"""Published rows, the authors' own figures, in the order of `COLUMNS`; none was measured here."""

COLUMNS = (
    ("structure", "structure × 10³", 1e3),
    ("psnr", "PSNR", 1.0),
    ("lpips", "LPIPS × 10³", 1e3),
    ("mse", "MSE × 10⁴", 1e4),
    ("ssim", "SSIM × 10²", 1e2),
    ("clip_whole", "CLIP whole", 1.0),
    ("clip_edited", "CLIP edited", 1.0),
)
"""Field, heading and scale, as published tables have them."""

_DINO = "metrics/dino-vitb8"
_SIDE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class PieMetrics:
    """Holds the figures of one edit, NaN where one has no value: of an empty region, or without its weights."""

    structure: float
    psnr: float
    lpips: float
    mse: float
    ssim: float
    clip_whole: float
    clip_edited: float


class Dino:
    """Computes keys of the last layer of a vision transformer, from which the structure distance comes.

    Args:
        network: transformers' ViTModel; DINO's ViT-B/8 for figures that compare with published ones.

    Source: Tumanyan et al., arXiv:2201.00424, section 3.1; the pictures are 224 pixels wide and on a scale of 0 to 255
    before they are normalized, which published figures need.
    """

    def __init__(self, network: Any):
        self.network = network.eval().requires_grad_(False)

    @no_grad
    def keys(self, picture: np.ndarray) -> torch.Tensor:
        """Return (T, C) of a picture (H, W, 3) uint8, all heads side by side."""
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
        pixels = F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(one).reshape(3, 1, 1) for one in (_MEAN, _STD))
        found: list[torch.Tensor] = []
        # Newer versions of transformers name them otherwise.
        layer = [part for name, part in self.network.named_modules() if name.endswith(("attention.key", "k_proj"))][-1]
        handle = layer.register_forward_hook(lambda module, inputs, output: found.append(output))
        try:
            self.network((pixels - mean) / std)
        finally:
            handle.remove()
        return found[0][0]


@dataclasses.dataclass(frozen=True)
class PieJudges:
    """Holds the networks that judge; None where the weights are not in the models folder.

    Attributes:
        lpips: by SqueezeNet.
        dino: of the structure distance.
        clip: from a prompt to a function from pictures (1, 3, H, W) to 100 times the cosine.
        missing: sentences on what is not here, and where it belongs.
    """

    lpips: Lpips | None
    dino: Dino | None
    clip: Callable[[str], Callable[[torch.Tensor], torch.Tensor]] | None
    missing: tuple[str, ...] = ()


def load_judges(models: Path, device: str = "cpu") -> PieJudges:
    """Load what is in the models folder."""
    missing = []
    lpips = dino = clip = None
    try:
        lpips = load_squeeze_lpips(models)
    except ModelMissingError as error:
        missing.append(str(error))
    try:
        dino = load_dino(models)
    except ModelMissingError as error:
        missing.append(str(error))
    form, sources = REWARDS["clip"].build(), RewardSources(models=models, device=device)
    try:
        form.check("", sources)
        clip = lambda prompt: form.load(prompt, sources)  # noqa: E731
    except ModelMissingError as error:
        missing.append(str(error))
    return PieJudges(lpips, dino, clip, tuple(missing))


def load_dino(models: Path) -> Dino:
    """Load DINO's ViT-B/8 of the models folder.

    Raises:
        ModelMissingError: it is not there, and where it belongs.
        ModelFileError: it cannot be read.
    """
    from transformers import ViTModel  # late: takes seconds

    folder = models / _DINO
    if not (folder / "config.json").is_file():
        raise ModelMissingError(
            f"The structure distance needs DINO's ViT-B/8 as {_DINO} in the models folder: the files of "
            "facebook/dino-vitb8, as safetensors."
        )
    try:
        return Dino(ViTModel.from_pretrained(folder, use_safetensors=True, local_files_only=True))
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"The weights in {_DINO} cannot be read: {str(error)[:200]}") from error


def measure_edit(picture: np.ndarray, sample: Sample, judges: PieJudges) -> PieMetrics:
    """Measure an edit of a sample.

    What should stay is compared over the whole frame, with 0 where the mask is; what is edited is the picture with 0
    outside the mask. Both texts are the whole target prompt.

    Args:
        picture: (512, 512, 3) uint8, the edit.
        sample: with source and mask.
        judges: what is here of them.

    Source: Ju et al., Direct Inversion, arXiv:2310.01506, section 5 and its evaluation code.
    """
    inside = sample.mask[..., None]
    stays = not sample.mask.all()
    kept, source = (np.where(inside, 0, one).astype(np.uint8) for one in (picture, sample.picture))
    error = float(np.mean((kept / 255.0 - source / 255.0) ** 2))
    score = None if judges.clip is None else judges.clip(sample.target_prompt)
    edited = np.where(inside, picture, 0).astype(np.uint8)
    return PieMetrics(
        math.nan if judges.dino is None else _measure_structure(judges.dino, picture, sample.picture),
        psnr(kept, source) if stays else math.nan,
        judges.lpips.between(kept, source) if judges.lpips is not None and stays else math.nan,
        error if stays else math.nan,
        ssim(kept, source) if stays else math.nan,
        math.nan if score is None else _rate(score, picture),
        math.nan if score is None or not sample.mask.any() else _rate(score, edited),
    )


def _measure_structure(dino: Dino, picture: np.ndarray, source: np.ndarray) -> float:
    return structure_distance(dino.keys(picture), dino.keys(source))


def _rate(score: Callable[[torch.Tensor], torch.Tensor], picture: np.ndarray) -> float:
    images = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    return max(0.0, float(score(images)[0]))


def average(rows: Sequence[PieMetrics]) -> tuple[float, ...]:
    """Compute the mean of each column, scaled as published; what has no value is left out, NaN where none has."""
    means = []
    for name, _, scale in COLUMNS:
        values = [value for row in rows if not math.isnan(value := getattr(row, name))]
        means.append(scale * sum(values) / len(values) if values else math.nan)
    return tuple(means)
