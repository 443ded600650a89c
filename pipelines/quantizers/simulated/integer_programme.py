"""The best choice of an option for each layer within a budget: an exact integer programme, by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.core.errors import MethodFitError

__all__ = ["choose_options"]

MOST_STATES = 4_000_000


def choose_options(noise: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int) -> list[int]:
    """Minimize the sum of the layers' noise where the sum of their costs is at most the budget.

    After each layer those pairs of cost and noise are kept that no other is better than in both; the best of the last
    layer's is the optimum.

    Args:
        noise: of each layer and option.
        costs: alike, whole numbers of at least 0.
        budget: of all layers together.

    Returns:
        The option of each layer.

    Source: the multiple-choice knapsack of Zhao et al., MixDQ, arXiv:2405.17873, section 4.3, who give it to a solver.

    Raises:
        MethodFitError: nothing fits the budget, or there are too many different sums of costs.
    """
    least_rest = np.cumsum([0, *(min(one) for one in reversed(costs))])[::-1]
    if least_rest[0] > budget:
        raise MethodFitError(f"The smallest choice takes {least_rest[0]} of a budget of {budget}. Allow more bits.")
    spent, total = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for layer, (noises, prices) in enumerate(zip(noise, costs, strict=True)):
        sums = (spent[None] + np.asarray(prices, np.int64)[:, None]).ravel()
        errors = (total[None] + np.asarray(noises, np.float64)[:, None]).ravel()
        order = np.lexsort((errors, sums))
        order = order[sums[order] + least_rest[layer + 1] <= budget]
        lowest = np.minimum.accumulate(errors[order])
        is_better = np.ones(len(order), bool)
        is_better[1:] = errors[order][1:] < lowest[:-1]
        chosen = order[is_better]
        if len(chosen) > MOST_STATES:
            raise MethodFitError("The model's layers have too many different sizes for an exact choice of bits.")
        steps.append((chosen // len(spent), chosen % len(spent)))
        spent, total = sums[chosen], errors[chosen]
    place, options = len(total) - 1, []
    for option, before in reversed(steps):
        options.append(int(option[place]))
        place = int(before[place])
    return options[::-1]
