"""LEDITS++: concepts added to or taken from a picture, each with a scale, a sign and a threshold of its own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Sequence

import torch
import torch.nn.functional as F

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.local_blend import LocalBlend
from pipelines.inversions.base import TARGET

__all__ = ["Concept", "Semantic", "SemanticSettings", "SemanticallyGuided", "fits_semantic", "read_concepts"]

_BRANCH = "concept {}"


@dataclasses.dataclass(frozen=True)
class SemanticSettings:
    """The settings of LEDITS++'s guidance."""

    concepts: str = setting(
        "",
        "What is added, and with a minus taken away, each with =SCALE and @THRESHOLD if you like: fox=6@0.8, -cat=4. "
        "Several are set apart by commas.",
        label="Concepts",
    )
    scale: float = setting(5.0, "How strongly a concept without a scale of its own acts.", low=0, high=30, step=0.5)
    threshold: float = setting(
        0.8,
        "Share of the picture that a concept leaves alone: where it changes the noise estimate least.",
        low=0,
        high=0.99,
        step=0.01,
    )
    start: float = setting(
        0.0, "Share of the steps, from the first, before the concepts act.", low=0, high=0.9, step=0.05
    )


@dataclasses.dataclass(frozen=True)
class Concept:
    """Describes a text, how strongly it acts (below 0 away from it), and the share of the picture left alone."""

    text: str
    scale: float
    threshold: float


def fits_semantic(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if traits.guidance != "cfg":
        return "it evaluates no negative prompt, which concepts are compared with"
    return "it runs through its own pipeline only" if traits.backbone == "pipeline" else None


def read_concepts(text: str, scale: float, threshold: float) -> tuple[Concept, ...]:
    """Read "fox=6@0.8, -cat" as concepts.

    Raises:
        SettingsError: a scale or a threshold is no number in its range.
    """
    concepts = []
    for part in text.replace(";", ",").split(","):
        if not part.strip():
            continue
        rest, _, own_threshold = part.strip().partition("@")
        name, _, own_scale = rest.partition("=")
        sign = -1 if name.strip().startswith("-") else 1
        name = name.strip().lstrip("+-").strip()
        try:
            size = float(own_scale) if own_scale.strip() else scale
            share = float(own_threshold) if own_threshold.strip() else threshold
        except ValueError:
            size, share = float("nan"), float("nan")
        if not name or not 0 <= size <= 30 or not 0 <= share <= 0.99:
            raise SettingsError(
                f"The concept {part.strip()[:60]!r} cannot be read. Write e.g. fox=6@0.8 or -cat=4: a scale from 0 to "
                "30 and a threshold from 0 to 0.99."
            )
        concepts.append(Concept(name, sign * size, share))
    return tuple(concepts)


def mask_strongest(direction: torch.Tensor, threshold: float) -> torch.Tensor:
    """Find where a concept changes the estimate most: (1, h, w) of 0 and 1, a share of 1 - threshold of all places.

    Args:
        direction: (C, h, w).

    Source: Brack et al., LEDITS++, arXiv:2311.16711, equation 11; the sizes are smoothed as in section 3.3.
    """
    sizes = direction.abs().sum(dim=0, keepdim=True)[None]
    sizes = F.avg_pool2d(F.pad(sizes, (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
    limit = torch.quantile(sizes.flatten(), threshold)
    return (sizes >= limit).to(direction)


class SemanticallyGuided:
    """Adds concepts to the edit's row: eps + sum of s * M * (eps_concept - eps_empty).

    Both rows are otherwise the source's own, so that without concepts the edit is the source.

    Args:
        inner: the sampler of an inversion.
        concepts: their branches are named in order.
        start: share of the steps before they act.

    Source: Brack et al., LEDITS++: Limitless image editing using text-to-image models, arXiv:2311.16711, equations 7 to
    9 and 11.
    Differs: the mask is that of the strongest changes alone; the one of cross-attention is left out, so that
    transformers are taken too. The edit keeps the source prompt's guidance, which diffusers' pipeline drops: there the
    picture changes without any concept.
    """

    def __init__(self, inner: Sampler, concepts: Sequence[Concept], start: float):
        self.inner, self.concepts, self.start = inner, concepts, start

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        inner = self.inner.step(state, level, next_level, context)
        active = bool(self.concepts) and context.index >= self.start * context.num_steps
        try:
            query = next(inner)
            while True:
                guides = active and len(query.latents) > 1 and not query.branches
                prediction = yield from self._guide(query) if guides else _pass_on(query)
                query = inner.send(prediction)
        except StopIteration as finished:
            result: State = finished.value
        return result

    def _guide(self, query: Query) -> Generator[Query, Prediction, Prediction]:
        base = yield query
        names = tuple(_BRANCH.format(index) for index in range(len(self.concepts)))
        asked = names if "negative" in base.branches else ("negative", *names)
        answer = yield dataclasses.replace(query, branches=asked)
        branches = {**base.branches, **answer.branches}
        raw, empty = base.raw.clone(), branches["negative"].raw[TARGET]
        for name, concept in zip(names, self.concepts, strict=True):
            direction = branches[name].raw[TARGET] - empty
            raw[TARGET] += concept.scale * mask_strongest(direction, concept.threshold) * direction
        return base.with_raw(raw)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


def _pass_on(query: Query) -> Generator[Query, Prediction, Prediction]:
    return (yield query)


class Semantic(UnpatchedEdit):
    """Adds and takes away concepts, wherever the network says that they are.

    The prompt isn't used: what the source shows is its source prompt, and what changes the concepts say.

    Source: as `SemanticallyGuided`; scale 5 and threshold 0.9 are the authors'.
    """

    inverts = True
    keeps_prompt = True

    def __init__(self, settings: SemanticSettings = SemanticSettings()):
        self.concepts = read_concepts(settings.concepts, settings.scale, settings.threshold)
        self.begins = settings.start

    @property
    def texts(self) -> dict[str, str]:
        """The concepts' texts by the name of their branch."""
        return {_BRANCH.format(index): concept.text for index, concept in enumerate(self.concepts)}

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        sampler: Sampler = SemanticallyGuided(context.sampler, self.concepts, self.begins)
        yield sampler if context.mask is None else LocalBlend(sampler, context.mask)
