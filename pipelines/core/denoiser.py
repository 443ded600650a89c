"""The one contract in the middle: from noisy latents and a noise level to the denoised estimate.

Prediction type, guidance, counting of evaluations and canceling live here, so a sampler sees none of them.
Runs that share a network are evaluated in one batch, each row at its own noise level.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence

import torch

from pipelines.core.batch import Branch, Remembered, evaluate_branches
from pipelines.core.branches import ONE_TEXT, PERTURBED, BranchPlan, Terms, conditioning_name
from pipelines.core.caching import BranchMemory, Cache, ForeseeingCache
from pipelines.core.combining import build_prediction, combine_branches
from pipelines.core.devices import Timer, mark_time
from pipelines.core.prediction import (
    Addition,
    AskingGuidance,
    Conditioning,
    Guidance,
    Network,
    Prediction,
    Query,
)
from pipelines.core.schedule import Level

__all__ = ["Denoiser", "predict_together"]


class Denoiser:
    """A denoiser is one run's view of a network: its prompt, its guidance, its count of evaluations and its time.

    Args:
        network: the model family, shared between runs.
        guidance: combines the branches.
        conditionings: branch name to conditioning, each of as many rows as the run has samples.
        cancelled: polled before every evaluation.
        plan: what the branches are made of where prompts switch or compose.
        cache: leaves parts of evaluations out; None for none. It rests where gradients are wanted.
        additions: further tensors that evaluations are given in some of the steps.

    Attributes:
        evaluations: of the network so far, every branch counted; one that a cache shortened counts as the share of its
            multiply-adds that were run.
        moved: what of that was run in earlier steps than the one it is for; 0 at the end if all of it was wanted.
        calls: of the network so far, shortened or not.
        timer: of the network's time so far; of a batch that runs share, each has its rows' share.
        step: of the run's whole schedule, from 0; set by the loop as a step begins.
        num_steps: of that schedule; set by the loop.
        coming: the levels at which its present and next steps begin; set by the loop.
    """

    def __init__(
        self,
        network: Network,
        guidance: Guidance,
        conditionings: Mapping[str, Conditioning],
        cancelled: Callable[[], bool] = lambda: False,
        plan: BranchPlan = ONE_TEXT,
        cache: Cache | None = None,
        additions: Sequence[Addition] = (),
    ):
        self.network = network
        self.guidance = copy.copy(guidance)  # it may remember what this run's predictions were
        self.conditionings = conditionings
        self.cancelled = cancelled
        self.plan = plan
        self.cache = cache
        self.additions = additions
        self.step = 0
        self.num_steps = 1
        self.coming: Sequence[Level] = ()
        self.evaluations: float = 0
        self.moved = 0.0
        self.calls = 0
        self._memories: dict[str, BranchMemory] = {}
        self.timer = Timer()

    @property
    def seconds(self) -> float:
        """Seconds in the network so far; waits for the device."""
        return self.timer.seconds

    def terms(self, branch: str) -> Terms:
        """What a branch is made of at the present step: names of conditionings and their factors."""
        return self.plan.terms(self.step, branch)

    def conditioning(self, name: str, branch: str, query: Query) -> Conditioning:
        """A term's conditioning, as the query wants it of the branch that it belongs to, with the additions."""
        branch = "positive" if branch == PERTURBED else branch
        plain = self._find_conditioning(conditioning_name(name), branch, query)
        if not (added := self._add(branch, self.step)):
            return plain
        further = Conditioning(added)
        if query.rows is not None:
            further = further.rows(*query.rows)
        return Conditioning({**plain.tensors, **further.tensors})

    def _add(self, branch: str, step: int) -> dict[str, torch.Tensor]:
        """The tensors that the additions give a branch at a step."""
        return {
            key: tensor
            for addition in self.additions
            for key, tensor in addition.at(branch, step, self.num_steps).items()
        }

    def _find_conditioning(self, name: str, branch: str, query: Query) -> Conditioning:
        if query.conditioning is None:
            return self.conditionings[name]
        conditionings = {other: self.conditionings[self.terms(other)[0][0]] for other in self.conditionings}
        return query.conditioning(branch, {**conditionings, branch: self.conditionings[name]})

    def remember(self, name: str, query: Query) -> Remembered | None:
        """What the cache remembers of a term, and will do in its next evaluation; None without a cache."""
        if self.cache is None or torch.is_grad_enabled() or query.is_differentiable:
            return None
        role = f"{query.role} {name}" if query.role else name
        memory = self._memories.get(role)
        if memory is None or len(memory.rows) != len(query.latents):
            memory = self._memories[role] = BranchMemory(len(query.latents))
        memory.begin(self.step, self.num_steps, query.level, self._find_coming(name, query))
        return Remembered(self.cache, self.cache.plan(memory.rows), memory.rows)

    def _find_coming(self, name: str, query: Query) -> tuple[Level, ...] | None:
        """The levels of the next steps at which a term will be asked for as it is now, as many as the cache wants; none
        where no step begins at this query's, and None where the query is of another kind."""
        is_special = query.role or query.branches or query.patch is not None or query.rows is not None
        if is_special or query.conditioning is not None or query.conditioning_levels is not None:
            return None
        cache, coming = self.cache, list[Level]()
        if not isinstance(cache, ForeseeingCache) or query.level not in self.coming:
            return ()
        place = self.coming.index(query.level)
        step = self.step + place
        ahead = cache.steps_ahead(step, self.num_steps)
        for number, level in enumerate(self.coming[place + 1 : place + 1 + ahead], step + 1):
            if not self._asks_alike(name, level, number):
                break
            coming.append(level)
        return tuple(coming)

    def _asks_alike(self, name: str, level: Level, step: int) -> bool:
        """Whether a term will be evaluated at a later step, with what is added to it now."""
        branches = [
            branch
            for branch in self.guidance.plan(level)
            if any(term == name for term, _ in self.plan.terms(step, branch))
        ]
        now, then = ([self._add(branch, one) for branch in branches] for one in (self.step, step))
        return bool(branches) and all(
            first.keys() == second.keys() and all(first[key] is second[key] for key in first)
            for first, second in zip(now, then, strict=True)
        )

    def predict(self, latents: torch.Tensor, level: Level) -> Prediction:
        """Predict for (B, C, h, w) latents at one level, guided.

        Raises:
            Cancelled: the run was stopped.
        """
        return self.answer(Query(latents, level))

    def answer(self, query: Query) -> Prediction:
        """Answer a query of this run alone.

        Raises:
            Cancelled: the run was stopped.
        """
        return predict_together([(self, query)])[0]


def predict_together(queries: Sequence[tuple[Denoiser, Query]]) -> list[Prediction]:
    """Answer several runs' queries, in one batch wherever network and shapes are the same.

    Args:
        queries: a denoiser and its query for each run; the levels may differ.

    Returns:
        The guided predictions, in order. A run's `seconds` grow by its rows' share of each batch's time.

    Raises:
        Cancelled: one of the runs was stopped.
    """

    exchanges = [_Exchange(denoiser, query) for denoiser, query in queries]
    while asking := [one for one in exchanges if one.query is not None]:
        predictions = _answer_together([(one.denoiser, one.query) for one in asking if one.query is not None])
        for exchange, prediction in zip(asking, predictions, strict=True):
            exchange.answer(prediction)
    return [exchange.prediction for exchange in exchanges]


class _Exchange:
    """What a run's guidance asks the network for one query of its sampler: the query itself, or several in turn.

    Attributes:
        query: that waits for an answer; None at the end.
        prediction: the last one; at the end, the answer.
    """

    prediction: Prediction

    def __init__(self, denoiser: Denoiser, query: Query):
        self.denoiser = denoiser
        self.query: Query | None = query
        self._asking: Generator[Query, Prediction, Prediction] | None = None
        # A query for single branches is not for the guidance to change.
        if not query.branches and isinstance(denoiser.guidance, AskingGuidance):
            self._asking = denoiser.guidance.ask(query)
            self.query = next(self._asking)

    def answer(self, prediction: Prediction) -> None:
        """Take the prediction of the present query, and go on to the next."""
        self.query, self.prediction = None, prediction
        if self._asking is not None:
            try:
                self.query = self._asking.send(prediction)
            except StopIteration as end:
                self.prediction = end.value


def _answer_together(queries: Sequence[tuple[Denoiser, Query]]) -> list[Prediction]:
    """Answer queries as they are."""

    def is_cancelled() -> bool:
        return any(denoiser.cancelled() for denoiser, _ in queries)

    groups: dict[Hashable, list[Branch]] = {}
    branch_names = [tuple(query.branches) or denoiser.guidance.plan(query.level) for denoiser, query in queries]
    for owner, (denoiser, query) in enumerate(queries):
        for name, conditioning in _collect_conditionings(denoiser, query, branch_names[owner]).items():
            perturbation = denoiser.guidance.perturbation if name != conditioning_name(name) else query.patch
            remembered = denoiser.remember(name, query)
            branch = Branch(owner, name, query, conditioning, denoiser.network, perturbation, remembered)
            groups.setdefault(branch.group, []).append(branch)
    answers: list[dict[str, Prediction]] = [{} for _ in queries]
    for branches in groups.values():
        start = mark_time(branches[0].query.latents.device)
        raws = evaluate_branches(branches, is_cancelled)
        end, rows = mark_time(raws[0].device), sum(len(raw) for raw in raws)
        for branch, raw in zip(branches, raws, strict=True):
            denoiser = queries[branch.owner][0]
            denoiser.calls += 1
            denoiser.evaluations += branch.evaluations
            denoiser.moved += branch.remembered.moved if branch.remembered else 0.0
            denoiser.timer.add(start, end, len(raw) / rows)
            answers[branch.owner][branch.name] = build_prediction(raw, branch.query, branch.network.prediction_type)
    return [
        combine_branches(denoiser.guidance, _compose_branches(denoiser, branches, answer), query.branches)
        for (denoiser, query), branches, answer in zip(queries, branch_names, answers, strict=True)
    ]


def _collect_conditionings(denoiser: Denoiser, query: Query, branches: Sequence[str]) -> dict[str, Conditioning]:
    """What is to be evaluated, each conditioning once though several branches may share it."""
    conditionings: dict[str, Conditioning] = {}
    for branch in branches:
        for name, _ in denoiser.terms(branch):
            if name not in conditionings:
                # Composition takes the negative prompt as its base: that term is the other branch's.
                owner = "negative" if conditioning_name(name).startswith("negative") else branch
                conditionings[name] = denoiser.conditioning(name, owner, query)
    return conditionings


def _compose_branches(
    denoiser: Denoiser, branches: Sequence[str], answers: Mapping[str, Prediction]
) -> dict[str, Prediction]:
    """The predictions of the wanted branches, each the sum of its terms'."""
    composed = {}
    for branch in branches:
        terms = denoiser.terms(branch)
        if len(terms) == 1:
            composed[branch] = answers[terms[0][0]]
            continue
        raw = torch.stack([factor * answers[name].raw for name, factor in terms]).sum(dim=0)
        composed[branch] = answers[terms[0][0]].with_raw(raw)
    return composed
