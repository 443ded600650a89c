"""From the network's outputs to predictions, and from the predictions of several branches to one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from pipelines.core.prediction import Guidance, Prediction, Query

__all__ = ["build_prediction", "combine_branches"]


def build_prediction(raw: torch.Tensor, query: Query, prediction_type: str) -> Prediction:
    """Build the prediction at the query's level from what the network gave.

    A network that was given other levels answers in the terms of those: what it says of x0 or v becomes eps by their
    alpha and sigma, so that every form of network says the same.

    Args:
        raw: the network's output, in the shape of the query's latents.
        query: what was asked.
        prediction_type: of the network.
    """
    if query.conditioning_levels is None or prediction_type == "epsilon":
        return Prediction(raw, query.latents, query.level, prediction_type)
    rows = zip(torch.split(raw, 1), torch.split(query.latents, 1), query.conditioning_levels, strict=True)
    noise = torch.cat([Prediction(output, latents, level, prediction_type).noise for output, latents, level in rows])
    return Prediction(noise, query.latents, query.level, "epsilon")


def combine_branches(
    guidance: Guidance, branches: Mapping[str, Prediction], branch_names: Sequence[str] = ()
) -> Prediction:
    """Combine the branches of one evaluation.

    Args:
        guidance: of the run.
        branches: name to prediction.
        branch_names: the branches that the query asked for in the place of the combination; empty for none.

    Returns:
        The guidance's prediction, or that of the last branch wanted; it remembers the branches where there are several.
    """
    if branch_names:
        return dataclasses.replace(branches[branch_names[-1]], branches=branches)
    prediction = guidance.combine(branches)
    return dataclasses.replace(prediction, branches=branches) if len(branches) > 1 else prediction
