"""A request's search on a loaded model: the runs it may make, its budget, and the best picture so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

from pipelines.core.branches import BranchPlan
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import Run
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Request, Traits
from pipelines.core.validation import require_one_picture
from pipelines.families.base import Family
from pipelines.requests.costs import count_nfe, evaluations
from pipelines.requests.encoding import encode_request
from pipelines.requests.refusals import require_made_here, require_one_pass, require_unsteered
from pipelines.requests.text_to_image import ResolvedRun, assemble_run, resolve, starting_noise
from pipelines.rewards import REWARDS
from pipelines.rewards.base import RewardSources, Score, refuse_pictures
from pipelines.search import SEARCHES
from pipelines.search.base import Candidate, Problem, Search, Start
from pipelines.search.boundary import BoundaryNoise
from pipelines.search.vendi import Vendi

__all__ = ["Found", "RequestRuns", "check_search", "is_searched", "resolve_search", "run_search"]


def is_searched(request: Request) -> bool:
    """Say whether a request searches for its picture."""
    return request.search.key != Request.search.key


def _build(request: Request) -> Search:
    search = SEARCHES.build(request.search)
    if search is None:
        raise SettingsError("The request names no search.")
    return search


def check_search(request: Request, traits: Traits | None, sources: RewardSources) -> None:
    """Check all of a request's search that can be said before its model is loaded.

    Args:
        request: checked but for this; one without a search passes.
        traits: of the model, where they are known.
        sources: where rewards find their weights.

    Raises:
        SettingsError: the budget does not make a picture, or another choice stands against the search.
        ModelMissingError: the reward's weights are not here.
    """
    if not is_searched(request):
        return
    search, label = _build(request), SEARCHES[request.search.key].label
    require_one_picture(request.batch_size, "A search makes the best of many pictures")
    require_one_pass(request, "A search")
    require_made_here(request, "A search")
    require_unsteered(request, "A search")
    if request.variation_strength and request.search.key == "find":
        raise SettingsError("FIND moves the mean of the noise, which a variation ties to a second one. Set it to 0.")
    search.check(request)
    reward = REWARDS.build(request.reward)
    for prompt in (request.prompt, *(search.prompts if isinstance(search, BoundaryNoise) else ())):
        reward.check(prompt, sources)
    if isinstance(search, Vendi) and search.settings.context.strip():
        sources.find_picture(search.settings.context.strip())
    cost = evaluations(request, traits)
    least = search.least(cost, request.num_inference_steps)
    if search.settings.budget < least:
        raise SettingsError(
            f"{label} makes no picture of {search.settings.budget} evaluations: with these settings it needs at least "
            f"{least:g}, of which one picture takes {cost}. Choose a larger budget, or fewer steps."
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search has found so far.

    Attributes:
        candidates: that were judged since the last time.
        best: of all, finished ones before others.
        spent: evaluations so far.
        judged: candidates so far.
    """

    candidates: list[Candidate]
    best: Candidate
    spent: float
    judged: int


class RequestRuns:
    """Builds a request's runs on a loaded model, and judges their pictures.

    Args:
        resolved: the request without its search, as `resolve` returned it.
        family: the loaded model, its LoRAs already applied.
        load_score: the reward of pictures of a prompt.
        cancelled: polled before every evaluation.
        find_picture: from a result's id to its pixels.
    """

    def __init__(
        self,
        resolved: ResolvedRun,
        family: Family,
        load_score: Callable[[str], Score],
        cancelled: Callable[[], bool],
        find_picture: Callable[[str], np.ndarray] = refuse_pictures,
    ):
        self.resolved, self.family, self._load_score, self._cancelled = resolved, family, load_score, cancelled
        self._score = load_score(resolved.request.prompt)
        self._find_picture = find_picture
        self._encoded: dict[int, tuple[dict[str, Conditioning], BranchPlan]] = {}

    def draw(self, first: int, count: int) -> Start:
        request = self.resolved.request
        varied = request.variation_seed + first if request.variation_strength else request.variation_seed
        request = request.replace(seed=request.seed + first, variation_seed=varied, batch_size=count)
        return starting_noise(dataclasses.replace(self.resolved, request=request), self.family)

    def build(self, start: Start) -> Run:
        rows = len(start[0])
        if rows not in self._encoded:
            self._encoded[rows] = encode_request(self.resolved.request, self.family, rows)
        conditionings, plan = self._encoded[rows]
        return assemble_run(self.resolved, self.family, start, dict(conditionings), self._cancelled, plan)

    def for_prompt(self, prompt: str) -> RequestRuns:
        resolved = resolve(self.resolved.request.replace(prompt=prompt), self.family)
        return RequestRuns(resolved, self.family, self._load_score, self._cancelled, self._find_picture)

    def encode_result(self, name: str) -> torch.Tensor:
        request = self.resolved.request
        picture = Image.fromarray(self._find_picture(name)).resize(
            (request.width, request.height), Image.Resampling.LANCZOS
        )
        images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        return self.family.encode_images(images)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.family.decode(latents)

    def decode_with_gradients(self, latents: torch.Tensor) -> torch.Tensor:
        return self.family.decode_with_gradients(latents)

    def score(self, images: torch.Tensor) -> torch.Tensor:
        return self._score(images)


def resolve_search(
    request: Request, family: Family, sources: RewardSources, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Search, Problem]:
    """Settle a checked request with a search on a loaded model.

    Args:
        request: as `check_search` passed it.
        family: the loaded model, its LoRAs already applied.
        sources: where rewards find their weights.
        cancelled: polled before every evaluation.

    Raises:
        SettingsError, MethodFitError: as `resolve` and `check_search`.
        ModelError: the reward's weights are missing or broken.
    """
    SEARCHES.require(request.search, family.traits)
    check_search(request, family.traits, sources)
    resolved = resolve(request.replace(search=Request.search), family)
    _, branches = count_nfe(request, family.traits)
    cost = float(evaluations(request, family.traits, family.learned))
    search, reward = _build(request), REWARDS.build(request.reward)
    runs = RequestRuns(resolved, family, lambda prompt: reward.load(prompt, sources), cancelled, sources.find_picture)
    problem = Problem(runs, resolved.request, resolved.levels, search.settings.budget, cost, branches)
    return search, problem


def run_search(search: Search, problem: Problem) -> Iterator[Found]:
    """Yield what a search has found, each time it has judged more.

    One that ends after `stopped_after` candidates has found what the one did that was stopped there.

    Raises:
        Cancelled: it was stopped; what was yielded last is what it found.
        MethodFitError: the reward is not a number.
    """
    best: Candidate | None = None
    judged, limit = 0, search.settings.stopped_after
    for candidates in search.search(problem):
        if not all(np.isfinite(candidate.reward) for candidate in candidates):
            raise MethodFitError("The reward of a picture is not a number. Choose another reward.")
        judged += len(candidates)
        for candidate in candidates:
            if best is None or (candidate.finished, candidate.reward) > (best.finished, best.reward):
                best = candidate
        if best is not None:
            yield Found(candidates, best, problem.spent, judged)
        if limit and judged >= limit:
            return
