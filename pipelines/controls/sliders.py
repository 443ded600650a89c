"""Sliders: a run is moved along directions in which this model's own runs differ most."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from pipelines.controls.direction_files import read_directions
from pipelines.controls.window import StepWindow, WindowedTensors
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import Run
from pipelines.core.registry import setting
from pipelines.core.sampler import State
from pipelines.core.types import Step
from pipelines.families.base import Family
from pipelines.families.directions import MIDDLE, Directions, build_amounts_name

__all__ = ["NAMES", "Sliders", "SlidersSettings", "build_moves", "moved_along"]

NAMES = ("first", "second", "third", "fourth", "fifth", "sixth")
_HELP = {"first": "How far along it, in standard deviations of the model's own runs."}


def _slider(name: str) -> float:
    return setting(
        0.0,
        _HELP.get(name, "In standard deviations."),
        low=-4,
        high=4,
        step=0.1,
        label=f"{name.capitalize()} direction",
    )


@dataclasses.dataclass(frozen=True)
class SlidersSettings:
    """Settings of the sliders: whose directions, and how far along each."""

    file: str = setting("", "Directions that Look inside has computed for this model and size.", label="Directions")
    first: float = _slider("first")
    second: float = _slider("second")
    third: float = _slider("third")
    fourth: float = _slider("fourth")
    fifth: float = _slider("fifth")
    sixth: float = _slider("sixth")
    begin: float = setting(
        0.0,
        "Share of the steps after which they act; directions in the latents move them once, there.",
        low=0,
        high=1,
        step=0.05,
        label="From",
    )
    end: float = setting(
        1.0, "Share of the steps after which those in the middle block rest.", low=0, high=1, step=0.05, label="To"
    )


class Sliders:
    """Moves the middle block's output at every step of its part of the run, or the latents once, along directions.

    Source: Haas et al., arXiv:2303.11073, section 4.1 (h-space); Wang et al., Exploring the latent space of diffusion
        models directly through singular value decomposition, arXiv:2502.02225, for directions in the latents.
    Differs: the middle block is moved for the whole prediction of the prompt, whose activations the directions are of,
        so that guidance enlarges the move. Singular vectors are those of many runs of the model, where the second paper
        takes them of a pair of latent codes.
    """

    def __init__(self, settings: SlidersSettings = SlidersSettings()):
        self.settings = settings

    @property
    def amounts(self) -> list[float]:
        """Return how far along each direction."""
        return [getattr(self.settings, name) for name in NAMES]

    @property
    def is_neutral(self) -> bool:
        """Whether no slider is moved."""
        return not any(self.amounts)

    def check(self) -> None:
        """Check the settings against each other.

        Raises:
            SettingsError: no directions are named, or their part of the run is empty.
        """
        if not self.settings.file:
            raise SettingsError("No directions are chosen. Compute them with Look inside, or set Sliders to none.")
        if self.settings.begin >= self.settings.end:
            raise SettingsError(
                f"The sliders begin at {self.settings.begin:g} and end at {self.settings.end:g}. End them later."
            )

    def require_fit(self, directions: Directions, model: str, size: tuple[int, int], searched: bool = False) -> None:
        """Check the directions against a run.

        Args:
            directions: of the file.
            model: key of the run's model.
            size: its (width, height); 0 for the model's own, which is known later.
            searched: whether the run is one of a search.

        Raises:
            SettingsError: they are of another model or size, or there is none for a slider that is moved.
            MethodFitError: a search, which steers the latents itself.
        """
        name = self.settings.file
        if directions.model != model:
            raise SettingsError(f"The sliders {name!r} are of the model {directions.model!r}. Choose others.")
        if any(side and side != own for side, own in zip(size, directions.size, strict=True)):
            raise SettingsError(
                f"The sliders {name!r} are of {directions.size[0]} × {directions.size[1]} pixels and the picture has "
                f"{size[0]} × {size[1]}. Choose that size, or compute them anew for this one."
            )
        moved = [place for place, amount in enumerate(self.amounts) if amount]
        if moved and moved[-1] >= len(directions.vectors):
            raise SettingsError(
                f"The sliders {name!r} have {len(directions.vectors)} directions, and the {NAMES[moved[-1]]} is moved. "
                "Set it to 0."
            )
        if searched and directions.space != MIDDLE:
            raise MethodFitError("A search moves the latents itself. Take sliders of the middle block, or none.")

    def build(self, family: Family, shares: Sequence[float]) -> WindowedTensors | None:
        """Prepare what the evaluations of a run are given; None where nothing is moved, or only the latents are.

        Args:
            family: with the folder of the files.
            shares: how far each sample of the run is moved, 1 for as far as the settings say.
        """
        directions = self._load(family)
        if directions is None or directions.space != MIDDLE:
            return None
        amounts = self._list_amounts(directions, shares)
        return build_moves(self.settings.file, amounts, StepWindow(self.settings.begin, self.settings.end))

    def lead(self, run: Run, family: Family, shares: Sequence[float]) -> Run:
        """Return the run with its latents moved once, where the directions are in them; else the run itself."""
        directions = self._load(family)
        if directions is None or directions.space == MIDDLE:
            return run
        amounts = self._list_amounts(directions, shares)
        return moved_along(run, directions, amounts, self.settings.begin)

    def _load(self, family: Family) -> Directions | None:
        if self.is_neutral or family.directions_folder is None:
            return None
        name = self.settings.file
        if name not in family.directions:
            family.directions = {
                **family.directions,
                name: read_directions(family.directions_folder, name).to(family.device),
            }
        return family.directions[name]

    def _list_amounts(self, directions: Directions, shares: Sequence[float]) -> torch.Tensor:
        amounts = (self.amounts + [0.0] * len(directions.vectors))[: len(directions.vectors)]
        rows = torch.tensor(shares)[:, None] * torch.tensor(amounts)[None]
        return rows.to(directions.vectors.device)


def build_moves(name: str, amounts: torch.Tensor, window: StepWindow) -> WindowedTensors:
    """Build what the evaluations of a run are given, the prompted ones moved and the negative ones left where they are.

    Args:
        name: of the directions.
        amounts: (B, K), in standard deviations.
        window: in which steps.
    """
    key = build_amounts_name(name)
    return WindowedTensors({"positive": {key: amounts}, "negative": {key: torch.zeros_like(amounts)}}, window)


def moved_along(run: Run, directions: Directions, amounts: torch.Tensor, begin: float) -> Run:
    """Return a run whose latents are moved once, before the step at a share of the run; at 0 before the first.

    Args:
        run: whose own `between` goes on.
        directions: in the latents.
        amounts: (B, K).
        begin: share of the steps.
    """

    def shift(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        times = torch.full((len(latents),), timestep, device=latents.device)
        return latents + directions.find_shift(amounts.to(latents), times)

    steps = len(run.levels) - 1
    place = min(int(begin * steps + 1e-9), steps - 1)
    if place == 0:
        return dataclasses.replace(run, latents=shift(run.latents, run.levels[0].timestep))
    inner: Callable[[State, Step], State] = run.between or (lambda state, step: state)

    def lead(state: State, step: Step) -> State:
        state = inner(state, step)
        if step.index + 1 != place:
            return state
        return dataclasses.replace(state, latents=shift(state.latents, step.next_level.timestep))

    return dataclasses.replace(run, between=lead)
