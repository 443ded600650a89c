"""TIME: what the model assumes of a thing, changed in closed form while one picture is drawn."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping

import torch

from pipelines.core.errors import PromptError
from pipelines.core.prediction import Conditioning, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.local_blend import LocalBlend
from pipelines.edits.words import Words, align
from pipelines.inversions.base import TARGET

__all__ = [
    "ChangedAssumption",
    "TimeConcept",
    "TimeConceptSettings",
    "align_tokens",
    "fits_time",
    "solve_transform",
]

_WORD = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_")
_BEGINNINGS = ("", "A photo of ", "An image of ", "A picture of ")
_EMBEDS = "prompt_embeds"


@dataclasses.dataclass(frozen=True)
class TimeConceptSettings:
    """The settings of TIME."""

    concept: str = setting("", "What the model draws in its own way, e.g. a rose.", label="Concept")
    destination: str = setting(
        "", "The same words, and with them what it should assume, e.g. a blue rose.", label="What to assume"
    )
    regularization: float = setting(
        0.1,
        "How much of all else the model keeps: less changes more, also of what is only akin.",
        low=0.001,
        high=1000,
        label="lambda",
    )


def fits_time(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if traits.backbone != "unet" or traits.family not in ("sd", "sdxl"):
        return "it changes what cross-attention reads of a prompt, and this model has none"
    return None


def solve_transform(old: torch.Tensor, new: torch.Tensor, regularization: float) -> torch.Tensor:
    """Solve for T with W' = W T, where W' minimizes sum |W' old - W new|^2 + lambda |W' - W|^2, whatever W is.

    T = (lambda I + sum new old^T)(lambda I + sum old old^T)^-1.

    Args:
        old, new: (N, D) embeddings of tokens, those of the concept and those that they shall stand for.
        regularization: lambda.

    Returns:
        (D, D), float64, on the CPU.

    Source: Orgad et al., Editing implicit assumptions in text-to-image diffusion models (TIME), arXiv:2303.08084,
    equation 3, with W factored out.
    """
    old, new = old.detach().cpu().double(), new.detach().cpu().double()
    eye = regularization * torch.eye(old.shape[1], dtype=torch.float64)
    gram, cross = eye + old.T @ old, eye + new.T @ old
    return torch.linalg.solve(gram, cross.T).T  # the gram matrix is its own transpose


def align_tokens(concept: Words, destination: Words) -> torch.Tensor:
    """Return (L,) positions in the destination, one for each position of the concept: its words, marks and padding.

    Raises:
        PromptError: the destination lacks a word of the concept.
    """
    places, has_counterpart = align(destination, concept)
    if not has_counterpart.all():
        raise _build_refusal(" ".join(concept.words), " ".join(destination.words))
    return places


def _build_refusal(concept: str, destination: str) -> PromptError:
    return PromptError(
        f"What to assume must hold all words of the concept, in their order: {concept[:60]!r} is not in "
        f"{destination[:60]!r}. Write e.g. a rose, and a blue rose."
    )


def _holds_words(destination: str, concept: str) -> bool:
    """Whether all of the concept's words are there, in their order, as a tokenizer takes words apart."""
    words, own = (iter(_WORD.findall(text.lower())) for text in (destination, concept))
    return all(word in words for word in own)  # each `in` goes on behind the last word that was found


class ChangedAssumption:
    """Wraps a sampler and has the edit's row read every prompt as the changed model would.

    Keys and values of cross-attention are W h, and W' h = W (T h): what W' does, T does to the text's embeddings.

    Args:
        inner: the sampler of an inversion.
        transform: T, (D, D).
    """

    def __init__(self, inner: Sampler, transform: torch.Tensor):
        self.inner, self.transform = inner, transform

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        inner = self.inner.step(state, level, next_level, context)
        try:
            query = next(inner)
            while True:
                query = inner.send((yield self._change(query)))
        except StopIteration as finished:
            result: State = finished.value
        return result

    def _change(self, query: Query) -> Query:
        is_edit_alone = query.rows == (TARGET, TARGET + 1)
        if len(query.latents) == 1 and not is_edit_alone:  # an inversion's own question about the source
            return query
        read = query.conditioning or (lambda branch, conditionings: conditionings[branch])

        def read_changed(branch: str, conditionings: Mapping[str, Conditioning]) -> Conditioning:
            plain = read(branch, conditionings)
            embeds = plain.tensors[_EMBEDS]
            changed = embeds @ self.transform.T.to(embeds)
            if not is_edit_alone:
                changed = torch.cat([embeds[:-1], changed[-1:]])
            return Conditioning({**plain.tensors, _EMBEDS: changed})

        return dataclasses.replace(query, conditioning=read_changed)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


class TimeConcept(UnpatchedEdit):
    """Draws the prompt with a model that assumes something else of a concept.

    The model itself never changes, so that there is nothing to undo and nothing to store: the next run has it as it
    was.

    Source: Orgad et al., TIME, arXiv:2303.08084, section 3; lambda 0.1 and the three further texts ("A photo of ...")
    are those of their code.
    Differs: the closed form acts on the text's embeddings in the place of the weights, which is the same function of
    the prompt; the edit's row alone is drawn so, and the picture's inversion by the model as it is.
    """

    inverts = True
    looks_at_source = False

    def __init__(self, settings: TimeConceptSettings = TimeConceptSettings()):
        self.settings = settings

    def require_settings(self) -> None:
        concept, destination = self.settings.concept.strip(), self.settings.destination.strip()
        if not concept or not destination:
            raise PromptError(
                "TIME has nothing to change. Write a concept, e.g. a rose, and what to assume: a blue rose."
            )
        if not _holds_words(destination, concept):
            raise _build_refusal(concept, destination)

    def build_transform(self, context: EditContext) -> torch.Tensor:
        """Solve for what the prompt's embeddings are multiplied with, (D, D), float64.

        Raises:
            PromptError: the words do not correspond.
        """
        concept, destination = self.settings.concept.strip(), self.settings.destination.strip()
        old, new = [], []
        for beginning in _BEGINNINGS:
            texts = beginning + concept, beginning + destination
            places = align_tokens(*(context.read_words(text) for text in texts))
            embeds = [context.encode(text).tensors[_EMBEDS][0] for text in texts]
            old.append(embeds[0])
            new.append(embeds[1][places.to(embeds[1].device)])
        return solve_transform(torch.cat(old), torch.cat(new), self.settings.regularization)

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        sampler: Sampler = context.sampler
        if self.settings.concept.strip() != self.settings.destination.strip():
            sampler = ChangedAssumption(sampler, self.build_transform(context))
        yield sampler if context.mask is None else LocalBlend(sampler, context.mask)
