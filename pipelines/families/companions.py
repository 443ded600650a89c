"""Several models as one network: each predicts x0 at the same noise level, and the predictions are averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.core.prediction import Conditioning, Prediction
from pipelines.core.schedule import DiscreteSchedule, FlowSchedule, Level, NoiseSchedule
from pipelines.families.base import Family

__all__ = ["EnsembleNetwork", "build_weight_name", "join_conditionings"]

_SHARED = ("guidance",)
"""Inputs of a network that do not come from its text encoders: companions are given the first model's."""


def build_weight_name(key: str) -> str:
    """Name the tensor, (B,), of a companion's share of the average, 0 to 1; without it the companion is not asked."""
    return f"{key}: share"


def join_conditionings(
    own: Mapping[str, Conditioning], others: Mapping[str, Mapping[str, Conditioning]]
) -> dict[str, Conditioning]:
    """Put what each companion's text encoders say beside what the first model's do.

    Args:
        own: of the first model, by name.
        others: of each companion, by its key; of the same names and rows.
    """
    return {
        name: Conditioning(
            {
                **conditioning.tensors,
                **{
                    f"{key}: {one}": tensor
                    for key, conditioning in others.items()
                    for one, tensor in conditioning[name].tensors.items()
                },
            }
        )
        for name, conditioning in own.items()
    }


class EnsembleNetwork:
    """Stands for a model: its prediction is the weighted mean of several models' estimates of x0.

    Each companion sees the latents at the noise level at which the first one sees them: x is scaled from one
    parameterization to the other, and the companion is given the time at which its own schedule has that ratio of
    sigma to alpha. Where its schedule has no such level, the companion is left out. Everything else is the first
    model's own.

    Args:
        family: the first model.
        companions: the others, by key.

    Source: the mean of several models' scores is that of their product of experts to a power, as Liu et al.,
        Compositional visual generation with composable diffusion models, arXiv:2206.01714, equation 8, use it for one
        model with several prompts.
    """

    def __init__(self, family: Family, companions: Mapping[str, Family]):
        self._family, self._companions = family, companions
        self._alike = {key: _is_alike(family, companion) for key, companion in companions.items()}
        self.prediction_type, self.max_rows = family.prediction_type, family.max_rows
        self.rows_together = family.rows_together

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def rows_that_fit(self, row: torch.Tensor) -> int:
        """Find the most rows like this one, (C, h, w), that are known to fit; 0 for no known limit."""
        return self._family.rows_that_fit(row)

    def remember_rows(self, row: torch.Tensor, rows: int) -> None:
        """Remember that more rows like this one, (C, h, w), than so many did not fit."""
        self._family.remember_rows(row, rows)

    def parts(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> int:
        """Count the models that one evaluation of these rows asks."""
        return 1 + sum(build_weight_name(key) in conditioning.tensors for key in self._companions)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Compute the mean of what the models say, (R, C, h, w), in the first one's prediction type."""
        tensors = conditioning.tensors
        own = {name: tensor for name, tensor in tensors.items() if not self._is_companions(name)}
        raw = first = self._family.predict_raw(latents, timesteps, Conditioning(own))
        for key, companion in self._companions.items():
            if build_weight_name(key) not in tensors:
                continue
            share = tensors[build_weight_name(key)].to(latents)[:, None, None, None]
            companion_conditioning = _pick_conditioning(tensors, key)
            if self._alike[key]:
                output = companion.predict_raw(latents, timesteps, companion_conditioning)
            else:
                levels = [self._family.noise_schedule.at(time) for time in timesteps.tolist()]
                output, share = self._translate(companion, latents, levels, companion_conditioning, share, first)
            raw = raw + share * (output - first)
        return raw

    def _is_companions(self, name: str) -> bool:
        return any(name.startswith(f"{key}: ") for key in self._companions)

    def _translate(
        self,
        companion: Family,
        latents: torch.Tensor,
        levels: Sequence[Level],
        conditioning: Conditioning,
        share: torch.Tensor,
        first: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a companion of another parameterization says, in the first model's; and its share of each row."""
        theirs = [_find_level(companion.noise_schedule, level) for level in levels]
        present = share.new_tensor([one is not None for one in theirs])[:, None, None, None]
        if not present.any():
            return first, share * present
        usable = [one or companion.noise_schedule.at_sigma_ve(1.0) for one in theirs]
        pairs = list(zip(usable, levels, strict=True))
        scales = [math.hypot(to.alpha, to.sigma) / math.hypot(level.alpha, level.sigma) for to, level in pairs]
        seen = latents * latents.new_tensor(scales)[:, None, None, None]
        times = latents.new_tensor([one.timestep for one in usable])
        output = companion.predict_raw(seen, times, conditioning)
        rows = zip(output.split(1), seen.split(1), latents.split(1), pairs, strict=True)
        raws = [
            _build_raw(Prediction(one, at, to, companion.prediction_type).denoised, own, level, self.prediction_type)
            for one, at, own, (to, level) in rows
        ]
        return torch.cat(raws), share * present


def _pick_conditioning(tensors: Mapping[str, torch.Tensor], key: str) -> Conditioning:
    prefix, weight = f"{key}: ", build_weight_name(key)
    picked = {name: tensors[name] for name in _SHARED if name in tensors}
    picked |= {
        name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix) and name != weight
    }
    return Conditioning(picked)


def _is_alike(first: Family, second: Family) -> bool:
    """Whether the two say the same of the same latents at the same network time."""
    one, other = first.noise_schedule, second.noise_schedule
    if first.prediction_type != second.prediction_type:
        return False
    if isinstance(one, DiscreteSchedule) and isinstance(other, DiscreteSchedule):
        return np.array_equal(one.alphas_cumprod, other.alphas_cumprod)
    if isinstance(one, FlowSchedule) and isinstance(other, FlowSchedule):
        return one.num_train_timesteps == other.num_train_timesteps
    return False


def _find_level(schedule: NoiseSchedule, level: Level) -> Level | None:
    """The schedule's level of the same noise; None where it has none, rather than the nearest one's."""
    if isinstance(schedule, FlowSchedule):
        return schedule.at_sigma_ve(level.sigma_ve)
    low, high = schedule.at(0).sigma_ve, schedule.at(schedule.num_train_timesteps - 1).sigma_ve
    # A level that was itself written in float32 or interpolated may lie a rounding beyond the last one.
    if not low * (1 - 1e-6) <= level.sigma_ve <= high * (1 + 1e-6):
        return None
    return schedule.at_sigma_ve(level.sigma_ve)


def _build_raw(denoised: torch.Tensor, latents: torch.Tensor, level: Level, prediction_type: str) -> torch.Tensor:
    """The output of a network of this type that means this estimate of x0."""
    if prediction_type == "epsilon":
        return (latents - level.alpha * denoised) / level.sigma
    if prediction_type == "v_prediction":
        return (level.alpha * latents - denoised) / level.sigma
    if prediction_type == "flow":
        return (latents - denoised) / level.sigma
    return denoised
