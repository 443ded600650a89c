"""A sampler around another: it changes the questions or the answers of a solver that does not know of it.

A solver is a generator of queries, so what stands between it and the network can be a generator too. The
methods that use this work over every solver without a line in any of them, keep its evaluations, and with
neutral settings hand its very tensors through, which makes them equal to it bit for bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pipelines.denoiser import Prediction, Query
from pipelines.samplers.base import Sampler, State, StepContext, Stepping
from pipelines.samplers.ddim import Ddim, DdimSettings
from pipelines.samplers.ddpm import Ddpm
from pipelines.samplers.deis import Deis
from pipelines.samplers.dpm2 import Dpm2
from pipelines.samplers.dpmpp import DpmSolver2M, DpmSolver2S
from pipelines.samplers.dpmpp_3m import DpmSolver3M
from pipelines.samplers.dpmpp_sde import DpmSolver2MSde
from pipelines.samplers.heun import Heun
from pipelines.samplers.ipndm import Ipndm
from pipelines.samplers.lms import Lms
from pipelines.samplers.pndm import Pndm
from pipelines.samplers.unipc import UniPc
from pipelines.schedule import Level

__all__ = ["SOLVERS", "Wrapper", "diffusion_models_only", "with_noise"]

SOLVERS = {
    "ddim": lambda: Ddim(DdimSettings()), "ddpm": Ddpm, "pndm": Pndm, "ipndm": Ipndm, "lms": Lms, "heun": Heun,
    "dpm2": Dpm2, "deis": Deis, "dpmpp_2m": DpmSolver2M, "dpmpp_2s": DpmSolver2S, "dpmpp_3m": DpmSolver3M,
    "dpmpp_2m_sde": DpmSolver2MSde, "unipc": UniPc,
}
"""The solvers that can be wrapped, under their keys in the table, with their default settings."""


def diffusion_models_only(traits: Any) -> str | None:
    """The reason why a method on the noise estimate of diffusion models does not fit a flow model."""
    return "it changes the noise estimate, which a flow model does not make" if traits.flow else None


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

    def calls(self, num_steps: int) -> int:
        return self.base.calls(num_steps)


def with_noise(prediction: Prediction, noise: Any) -> Prediction:
    """The same evaluation with another estimate of eps."""
    return Prediction(noise, prediction.latents, prediction.level, "epsilon")
