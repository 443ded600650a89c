"""The one contract in the middle: from noisy latents and a noise level to the denoised estimate.

Prediction type, guidance, counting of evaluations and canceling live here, so a sampler sees none of them.
Runs that share a network are evaluated in one batch, each row at its own noise level.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import torch

from pipelines.core.schedule import Level

__all__ = [
    "Cancelled",
    "Conditioning",
    "Denoiser",
    "Guidance",
    "Network",
    "Prediction",
    "Query",
    "guided",
    "predict_together",
]


class Cancelled(Exception):
    """The person stopped the run: a result, not an error."""


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """What a network takes beside latents and time: named tensors, each (B, ...), one row a sample."""

    tensors: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """One batch of all rows, in order."""
        names = parts[0].tensors
        return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in names})

    @property
    def signature(self) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
        """Equal for conditionings whose rows can stand in one batch."""
        return tuple((name, tuple(tensor.shape[1:]), tensor.dtype) for name, tensor in self.tensors.items())

    def rows(self, start: int, stop: int) -> Conditioning:
        """Rows start to stop, which lets a batch be evaluated in parts."""
        return Conditioning({name: tensor[start:stop] for name, tensor in self.tensors.items()})


class Network(Protocol):
    """What the denoiser needs of a model family.

    Attributes:
        prediction_type: "epsilon", "v_prediction", "sample" or "flow".
        max_rows: most rows of one evaluation (memory); 0 for no limit.
        rows_together: rows that see each other, such as the frames of a clip: a batch is parted between them only.
    """

    prediction_type: str
    max_rows: int
    rows_together: int

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The network's own output for (R, C, h, w) latents at (R,) times, in the latents' dtype."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The network's answer for one noise level, in whichever form is asked for.

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
        """The estimate of x0."""
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
        """The estimate of eps."""
        alpha, sigma = self.level.alpha, self.level.sigma
        if self.prediction_type == "epsilon":
            return self.raw
        if self.prediction_type == "v_prediction":
            return alpha * self.raw + sigma * self.latents
        if self.prediction_type == "flow":
            return self.latents + alpha * self.raw
        return (self.latents - alpha * self.raw) / sigma

    def with_raw(self, raw: torch.Tensor) -> Prediction:
        """The same evaluation with another output."""
        return Prediction(raw, self.latents, self.level, self.prediction_type)


class Guidance(Protocol):
    """How the branches of one evaluation become one prediction.

    Attributes:
        guidance_scale: how strongly; 1 for none.
    """

    guidance_scale: float

    def plan(self, level: Level) -> tuple[str, ...]:
        """Names of the conditionings to evaluate at this level, e.g. ("negative", "positive")."""

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        """One prediction from those of the planned branches."""


@dataclasses.dataclass(frozen=True)
class Query:
    """A sampler's question: what is the denoised estimate of these latents at this level?

    Attributes:
        latents: (B, C, h, w).
        level: theirs.
        conditioning_levels: B levels whose times the network is told in place of the level's own; None tells it that one.
        branches: those of the guidance's branches that are wanted, in the place of its combination: the prediction is the
            last one's, and remembers them all; empty for the guided prediction.
        conditioning: a branch's conditioning in the place of the run's own, of its name and all those of the run; None for
            the run's own. Of the same rows.
    """

    latents: torch.Tensor
    level: Level
    conditioning_levels: tuple[Level, ...] | None = None
    branches: tuple[str, ...] = ()
    conditioning: Callable[[str, Mapping[str, Conditioning]], Conditioning] | None = None

    @property
    def told(self) -> torch.Tensor:
        """(B,), float64: the time that the network is told for each row."""
        if self.conditioning_levels is not None:
            return torch.tensor([level.timestep for level in self.conditioning_levels], dtype=torch.float64)
        return torch.full((len(self.latents),), float(self.level.timestep), dtype=torch.float64)


class Denoiser:
    """One run's view of a network: its prompt, its guidance, its count of evaluations.

    Args:
        network: the model family, shared between runs.
        guidance: combines the branches.
        conditionings: branch name to conditioning, each of as many rows as the run has samples.
        cancelled: polled before every evaluation.
    """

    def __init__(
        self,
        network: Network,
        guidance: Guidance,
        conditionings: Mapping[str, Conditioning],
        cancelled: Callable[[], bool] = lambda: False,
    ):
        self.network = network
        self.guidance = guidance
        self.conditionings = conditionings
        self.cancelled = cancelled
        self.evaluations = 0
        self.seconds = 0.0

    def predict(self, latents: torch.Tensor, level: Level) -> Prediction:
        """The guided prediction for (B, C, h, w) latents at one level.

        Raises:
            Cancelled: the run was stopped.
        """
        return self.answer(Query(latents, level))

    def answer(self, query: Query) -> Prediction:
        """The prediction that was asked for.

        Raises:
            Cancelled: the run was stopped.
        """
        return predict_together([(self, query)])[0]


@dataclasses.dataclass(frozen=True)
class _Branch:
    owner: int
    name: str
    query: Query
    conditioning: Conditioning
    network: Network

    @property
    def group(self) -> Hashable:
        latents = self.query.latents
        return (id(self.network), tuple(latents.shape[1:]), latents.dtype, self.conditioning.signature)


def predict_together(asked: Sequence[tuple[Denoiser, Query]]) -> list[Prediction]:
    """Answer several runs' queries, in one batch wherever network and shapes are the same.

    Args:
        asked: a denoiser and its query for each run; the levels may differ.

    Returns:
        The guided predictions, in order. A run's `seconds` grow by its rows' share of each batch's time.

    Raises:
        Cancelled: one of the runs was stopped.
    """

    def stopped() -> bool:
        return any(denoiser.cancelled() for denoiser, _ in asked)

    groups: dict[Hashable, list[_Branch]] = {}
    for owner, (denoiser, query) in enumerate(asked):
        for name in query.branches or denoiser.guidance.plan(query.level):
            own = (
                query.conditioning(name, denoiser.conditionings) if query.conditioning else denoiser.conditionings[name]
            )
            branch = _Branch(owner, name, query, own, denoiser.network)
            groups.setdefault(branch.group, []).append(branch)
    answers: list[dict[str, Prediction]] = [{} for _ in asked]
    for branches in groups.values():
        began = time.perf_counter()
        raws = _evaluate(branches, stopped)
        spent = (time.perf_counter() - began) / sum(len(raw) for raw in raws)
        for branch, raw in zip(branches, raws, strict=True):
            denoiser = asked[branch.owner][0]
            denoiser.evaluations += 1
            denoiser.seconds += spent * len(raw)
            answers[branch.owner][branch.name] = _answer(raw, branch.query, branch.network.prediction_type)
    return [
        guided(denoiser.guidance, answer, query.branches)
        for (denoiser, query), answer in zip(asked, answers, strict=True)
    ]


def _answer(raw: torch.Tensor, query: Query, prediction_type: str) -> Prediction:
    """The prediction at the query's level. A network that was told other levels answers in the terms of those: what it
    says of x0 or v becomes eps by their alpha and sigma, so that every form of network says the same."""
    if query.conditioning_levels is None or prediction_type == "epsilon":
        return Prediction(raw, query.latents, query.level, prediction_type)
    rows = zip(torch.split(raw, 1), torch.split(query.latents, 1), query.conditioning_levels, strict=True)
    noise = torch.cat([Prediction(one, latents, level, prediction_type).noise for one, latents, level in rows])
    return Prediction(noise, query.latents, query.level, "epsilon")


def guided(guidance: Guidance, branches: Mapping[str, Prediction], wanted: Sequence[str] = ()) -> Prediction:
    """The guidance's prediction, which remembers the branches where there are several; where some were wanted, the last of those."""
    if wanted:
        return dataclasses.replace(branches[wanted[-1]], branches=branches)
    prediction = guidance.combine(branches)
    return dataclasses.replace(prediction, branches=branches) if len(branches) > 1 else prediction


def _evaluate(branches: Sequence[_Branch], stopped: Callable[[], bool]) -> list[torch.Tensor]:
    """The raw outputs of branches that share a batch, evaluated at most `max_rows` rows at a time.

    Where the device's memory does not hold so many, they are halved, and `max_rows` remembers how many it held.

    Raises:
        Cancelled: `stopped`, which is asked before every evaluation.
        torch.OutOfMemoryError: not even the fewest rows fit.
    """
    network = branches[0].network
    latents = torch.cat([branch.query.latents for branch in branches])
    counts = [len(branch.query.latents) for branch in branches]
    timesteps = torch.cat([branch.query.told for branch in branches]).to(latents)
    conditioning = Conditioning.cat([branch.conditioning for branch in branches])
    rows = network.max_rows or len(latents)
    # Saves a few per cent on a small network; the copy of the outputs is an ordinary tensor again.
    with torch.inference_mode(not torch.is_grad_enabled()):
        parts, start = [], 0
        while start < len(latents):
            if stopped():
                raise Cancelled
            part = slice(start, start + rows)
            try:
                parts.append(
                    network.predict_raw(latents[part], timesteps[part], conditioning.rows(start, start + rows))
                )
                start += rows
                continue
            except torch.OutOfMemoryError:
                if not (fewer := _fewer(network, min(rows, len(latents) - start))):
                    raise
            # Outside the handler, whose traceback keeps the tensors of the failed evaluation.
            rows = network.max_rows = fewer
            torch.cuda.empty_cache()
    return list(torch.split(torch.cat(parts), counts))


def _fewer(network: Network, rows: int) -> int:
    """Half of the rows, none parted from those it must be evaluated with; 0 if they cannot be fewer."""
    together = network.rows_together
    return rows // 2 // together * together or (together if together < rows else 0)
