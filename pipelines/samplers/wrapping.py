"""A sampler around another: it changes the questions or the answers of a solver that does not know of it.

A solver is a generator of queries, so what stands between it and the network can be a generator too. The
methods that use this work over every solver without a line in any of them, keep its evaluations, and with
neutral settings hand its very tensors through, which makes them equal to it bit for bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pipelines.core.denoiser import Prediction, Query
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.samplers.solvers import SOLVER_METHODS

__all__ = ["SOLVERS", "Wrapper", "with_noise"]

_DIFFUSION = Traits("sd", "epsilon", "unet")

SOLVERS = {method.key: method.build for method in SOLVER_METHODS if not method.fit(_DIFFUSION)}
"""The solvers that can be wrapped, under their keys in the table, with their default settings: all of diffusion models."""


class Wrapper:
    """Runs a solver's step and lets `asked` and `answered` change what passes.

    The state's memory is this method's own value and the solver's memory, in a pair.

    Args:
        base: a key of `SOLVERS`.
    """

    empty: Any = None
    """Its own value before the first evaluation."""

    def __init__(self, base: str):
        self.base: Sampler = SOLVERS[base]()

    def asked(self, own: Any, query: Query, context: StepContext) -> tuple[Any, Query]:
        """Its own value and the query that goes to the network."""
        return own, query

    def answered(self, own: Any, prediction: Prediction, context: StepContext) -> tuple[Any, Prediction]:
        """Its own value and the prediction that goes to the solver."""
        return own, prediction

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        own, memory = state.memory or (self.empty, ())
        asking = self.base.step(dataclasses.replace(state, memory=memory), level, next_level, context)
        query = next(asking)
        while True:
            own, query = self.asked(own, query, context)
            prediction = yield query
            own, prediction = self.answered(own, prediction, context)
            try:
                query = asking.send(prediction)
            except StopIteration as done:
                return dataclasses.replace(done.value, memory=(own, done.value.memory))

    def nfe(self, num_steps: int) -> int:
        return self.base.nfe(num_steps)


def with_noise(prediction: Prediction, noise: Any) -> Prediction:
    """The same evaluation with another estimate of eps."""
    return Prediction(noise, prediction.latents, prediction.level, "epsilon")
