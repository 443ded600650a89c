"""What a network is asked and what it answers: conditioning, query, prediction, and the contract of a guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from pipelines.core.devices import upload
from pipelines.core.schedule import Level

__all__ = [
    "Addition",
    "AskingGuidance",
    "Conditioning",
    "CountedGuidance",
    "Guidance",
    "Network",
    "NetworkInParts",
    "Perturbation",
    "Prediction",
    "Query",
    "RowMemory",
    "ShiftingGuidance",
]


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """Holds what a network takes beside latents and time: named tensors, each (B, ...), one row a sample."""

    tensors: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Join conditionings of equal signatures to one batch of all their rows, in order."""
        names = parts[0].tensors
        return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in names})

    @property
    def signature(self) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
        """Names, shapes of a row and dtypes: equal for conditionings whose rows can stand in one batch."""
        return tuple((name, tuple(tensor.shape[1:]), tensor.dtype) for name, tensor in self.tensors.items())

    def rows(self, start: int, stop: int) -> Conditioning:
        """Take the rows from start to stop, which lets a batch be evaluated in parts."""
        return Conditioning({name: tensor[start:stop] for name, tensor in self.tensors.items()})


class Addition(Protocol):
    """An addition gives the network's evaluations further tensors in some of a run's steps."""

    def at(self, branch: str, step: int, num_steps: int) -> Mapping[str, torch.Tensor]:
        """Return the tensors, each (B, ...), that a branch is given at a step of the run's whole schedule."""


class Network(Protocol):
    """A network is what the denoiser needs of a model family.

    Attributes:
        prediction_type: "epsilon", "v_prediction", "sample" or "flow".
        max_rows: most rows of one evaluation (memory); 0 for no limit.
        rows_together: rows that see each other, such as the frames of a clip: a batch is parted between them only.
    """

    prediction_type: str
    max_rows: int
    rows_together: int

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Evaluate the network once.

        Args:
            latents: (R, C, h, w).
            timesteps: (R,), each row's own time, as the network takes it.
            conditioning: of R rows.

        Returns:
            (R, C, h, w), what `prediction_type` says, in the latents' dtype.
        """


@runtime_checkable
class NetworkInParts(Protocol):
    """A network whose evaluations are made of several: of a picture's parts, or of several models."""

    def parts(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> int:
        """Count the evaluations that one evaluation of these rows, (R, C, h, w), (R,) and R rows, is made of."""


@runtime_checkable
class RowMemory(Protocol):
    """A network that remembers, by the size of a row, how many rows the device's memory held."""

    def rows_that_fit(self, row: torch.Tensor) -> int:
        """Find the most rows like this one, (C, h, w), that are known to fit; 0 for no known limit."""

    def remember_rows(self, row: torch.Tensor, rows: int) -> None:
        """Remember that more rows like this one, (C, h, w), than so many did not fit."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A prediction is the network's answer for one noise level, in whichever form is asked for.

    Attributes:
        raw: (B, C, h, w), the network's output or a guided combination of outputs.
        latents: (B, C, h, w), what it was evaluated on.
        level: the noise level of `latents`.
        prediction_type: what `raw` is.
        branches: of a guided prediction, those that it was combined of, by name; empty where there was one.

    Source: Salimans & Ho, Progressive distillation, arXiv:2202.00512, appendix D for v; Liu et al.,
    arXiv:2209.03003, equation 1 for the flow form v = eps - x0.
    """

    raw: torch.Tensor
    latents: torch.Tensor
    level: Level
    prediction_type: str
    branches: Mapping[str, Prediction] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def denoised(self) -> torch.Tensor:
        """The estimate of x0, (B, C, h, w)."""
        alpha, sigma = self.level.alpha, self.level.sigma
        if self.prediction_type == "epsilon":
            return (self.latents - sigma * self.raw) / alpha
        if self.prediction_type == "v_prediction":
            return alpha * self.latents - sigma * self.raw
        if self.prediction_type == "flow":
            return self.latents - sigma * self.raw
        return self.raw

    @cached_property
    def noise(self) -> torch.Tensor:
        """The estimate of eps, (B, C, h, w)."""
        alpha, sigma = self.level.alpha, self.level.sigma
        if self.prediction_type == "epsilon":
            return self.raw
        if self.prediction_type == "v_prediction":
            return alpha * self.raw + sigma * self.latents
        if self.prediction_type == "flow":
            return self.latents + alpha * self.raw
        return (self.latents - alpha * self.raw) / sigma

    def with_raw(self, raw: torch.Tensor) -> Prediction:
        """Put another output, (B, C, h, w), into the place of this evaluation's own."""
        return Prediction(raw, self.latents, self.level, self.prediction_type)


class Perturbation(Protocol):
    """A perturbation makes a network worse on purpose, so that a guidance can lead away from what it says then.

    Equal perturbations change a network in the same way: their runs share a batch.
    """

    def applied(self, network: Network) -> AbstractContextManager[None]:
        """Change the network while the context lasts; whatever happens, it is as it was afterwards.

        Raises:
            MethodFitError: the network has nothing that could be changed so.
        """

    def __hash__(self) -> int: ...


class Guidance(Protocol):
    """A guidance makes one prediction of the branches of one evaluation.

    A run has a copy of its own, which may remember what that run's predictions were.

    Attributes:
        guidance_scale: how strongly; 1 for none.
    """

    guidance_scale: float

    @property
    def perturbation(self) -> Perturbation | None:
        """What happens to the network in the branch "perturbed"; None of a guidance that plans none."""

    def plan(self, level: Level) -> tuple[str, ...]:
        """Name the conditionings to evaluate at this level, e.g. ("negative", "positive")."""

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        """Make one prediction of those of the planned branches, by name."""


@dataclasses.dataclass(frozen=True)
class Query:
    """A query is a sampler's question: what is the denoised estimate of these latents at this level?

    Attributes:
        latents: (B, C, h, w).
        level: theirs.
        conditioning_levels: B levels whose times the network is given in place of the level's own; None gives it that
            one.
        branches: those of the guidance's branches that are wanted, in the place of its combination: the prediction is
            the last one's, and remembers them all; empty for the guided prediction.
        conditioning: a branch's conditioning in the place of the run's own, of its name and all those of the run; None
            for the run's own. Of the same rows.
        patch: changes the network for the evaluations of this query; None for the network as it is.
        role: what the query is for, where a guidance asks several at a level: caches remember each role by itself.
        is_differentiable: whether the prediction carries gradients to the latents and to the conditioning. Caches rest
            there.
        rows: which of the run's samples the latents are, from the first to before the second; None for all of them.
    """

    latents: torch.Tensor
    level: Level
    conditioning_levels: tuple[Level, ...] | None = None
    branches: tuple[str, ...] = ()
    conditioning: Callable[[str, Mapping[str, Conditioning]], Conditioning] | None = None
    patch: Perturbation | None = None
    role: str = ""
    is_differentiable: bool = False
    rows: tuple[int, int] | None = None

    @property
    def timesteps(self) -> torch.Tensor:
        """The time that the network is given for each row, (B,), in the dtype and on the device of the latents."""
        like = self.latents
        if self.conditioning_levels is not None:
            times = torch.tensor([level.timestep for level in self.conditioning_levels], dtype=torch.float64)
            return upload(times, like.device, like.dtype)
        # Filled in by the device: a copy from the host would wait for what the device still has to do.
        return torch.full((len(like),), float(self.level.timestep), dtype=like.dtype, device=like.device)


@runtime_checkable
class AskingGuidance(Guidance, Protocol):
    """A guidance that asks the network more, or otherwise, than the branches of the query that it is given.

    Attributes:
        patch: changes the network in some of its evaluations, and is tried before a run begins; None for none.
    """

    patch: Perturbation | None

    def ask(self, query: Query) -> Generator[Query, Prediction, Prediction]:
        """Yield queries, be sent their predictions, and return the answer to the query.

        A yielded query without branches of its own is answered by `plan` and `combine`.
        """

    def further_evaluations(self, level: Level) -> int:
        """Count what it evaluates at this level beside the planned branches."""


@runtime_checkable
class CountedGuidance(Guidance, Protocol):
    """A guidance that knows before a run how often it plans which branches, whatever the network says."""

    def plans(self, answers: int) -> Sequence[tuple[str, ...]]:
        """Name the branches that it plans for each of so many answers to the sampler, at most."""


@runtime_checkable
class ShiftingGuidance(Guidance, Protocol):
    """A guidance that moves the latents before a step begins.

    Attributes:
        patch: changes the network in the evaluations for that, and is tried before a run begins; None for none.
    """

    patch: Perturbation | None

    def shift(
        self, latents: torch.Tensor, level: Level, step: int, num_steps: int
    ) -> Generator[Query, Prediction, torch.Tensor]:
        """Yield queries, be sent their predictions, and return the latents that the step begins with.

        Args:
            latents: (B, C, h, w), at the level.
            level: where the step begins.
            step, num_steps: of the run's whole schedule.
        """

    def shift_evaluations(self, num_steps: int) -> int:
        """Count what it evaluates for that in a run, at most."""
