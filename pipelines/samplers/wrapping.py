"""A sampler around another: it changes the questions or the answers of a solver that does not know of it.

A solver is a generator of queries, so what stands between it and the network can be a generator too. The
methods that use this work over every solver without a line in any of them, keep its evaluations, and with
neutral settings hand its very tensors through, which makes them equal to it bit for bit.
"""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeVar

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.samplers.solvers import SOLVER_METHODS

__all__ = ["SOLVERS", "Wrapper", "with_noise"]

Memory = TypeVar("Memory")
"""What a wrapper carries from evaluation to evaluation."""

_DIFFUSION = Traits("sd", "epsilon", "unet")

SOLVERS = {method.key: method.build for method in SOLVER_METHODS if not method.fit(_DIFFUSION)}
"""The solvers that can be wrapped, under their keys in the table, with their default settings: all of diffusion
models."""


class Wrapper(Generic[Memory]):
    """A wrapper runs a solver's step and lets `modify_query` and `modify_prediction` change what passes.

    The state's memory is this method's own value and the solver's memory, in a pair.

    Args:
        base: a key of `SOLVERS`.

    Attributes:
        empty: its own value before the first evaluation.
    """

    empty: Memory

    def __init__(self, base: str):
        self.base: Sampler = SOLVERS[base]()

    def modify_query(self, memory: Memory, query: Query, context: StepContext) -> tuple[Memory, Query]:
        """Change a query on its way to the network; returns this method's own value and the query."""
        return memory, query

    def modify_prediction(
        self, memory: Memory, prediction: Prediction, context: StepContext
    ) -> tuple[Memory, Prediction]:
        """Change a prediction on its way to the solver; returns this method's own value and the prediction."""
        return memory, prediction

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        memory, solver_memory = state.memory or (self.empty, ())
        asking = self.base.step(dataclasses.replace(state, memory=solver_memory), level, next_level, context)
        query = next(asking)
        while True:
            memory, query = self.modify_query(memory, query, context)
            prediction = yield query
            memory, prediction = self.modify_prediction(memory, prediction, context)
            try:
                query = asking.send(prediction)
            except StopIteration as done:
                end: State = done.value
                return dataclasses.replace(end, memory=(memory, end.memory))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.base.nfe(num_steps, ends_clean)


def with_noise(prediction: Prediction, noise: torch.Tensor) -> Prediction:
    """Put another estimate of eps, (B, C, h, w), into the place of an evaluation's own."""
    return Prediction(noise, prediction.latents, prediction.level, "epsilon")
