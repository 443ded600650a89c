"""Learned schedules as files: what was fitted, for what, and how well it did."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.errors import SettingsError, StoreError
from pipelines.core.registry import Table, parse_settings
from pipelines.core.types import Choice, Request
from pipelines.guidance import GUIDANCE
from pipelines.samplers import SAMPLERS
from pipelines.samplers.fitted_factors import FittedFactors, Terms

__all__ = ["METHODS", "SHIPPED", "LearnedSchedule", "fill_settings", "find_all", "find_broken", "write_learned"]

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "schedules"
METHODS = {"ld3": "LD3", "auto_diffusion": "AutoDiffusion", "bespoke": "Bespoke", "q_sched": "Q-Sched"}
_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,99}")
_UNSAFE = re.compile(r"[^a-z0-9._+-]+-*")
_LARGEST = 1 << 20
# Fields whose names in the files are older than those here.
_NAMES_IN_FILE = {"fit_details": "told", "prompt_extrapolation": "emphasis"}


@dataclasses.dataclass(frozen=True)
class LearnedSchedule:
    """Describes one fitted schedule.

    Attributes:
        method: a key of `METHODS`.
        model: key of the catalog; `network` names its weights.
        sampler, guidance: with all their settings.
        num_inference_steps: steps; `evaluations` is what they cost.
        times: N network times, descending, whose noise levels are visited.
        model_times: N times that the network is given instead; equal to `times` without offsets.
        held_out: relative latent error on pictures that were not fitted, by "uniform", "start" and "fitted".
        curve: a row a round: {"round", "loss", and "held_out" where it was measured}.
        fit_details: how it was fitted: settings, pictures, seconds; "told" in the file.
        rows: N rows of factors that take the sampler's place, each as long as `terms` says; empty where the sampler
            stays.
        branches, single: what the factors belong to, as in `Terms`.
        prompt_extrapolation: as in `FittedFactors`; "emphasis" in the file.
        coefficients: c_x and c_eps of `ScaledSteps`, put around the sampler; empty for none.
    """

    method: str
    model: str
    network: str
    sampler: Choice
    guidance: Choice
    num_inference_steps: int
    evaluations: int
    times: tuple[float, ...]
    model_times: tuple[float, ...]
    held_out: Mapping[str, float]
    curve: tuple[Mapping[str, float], ...]
    fit_details: Mapping[str, Any]
    rows: tuple[tuple[float, ...], ...] = ()
    branches: tuple[str, ...] = ()
    single: tuple[int, ...] = ()
    prompt_extrapolation: tuple[tuple[float, ...], ...] = ()
    coefficients: tuple[float, ...] = ()

    @property
    def terms(self) -> Terms:
        """What the factors belong to."""
        return Terms(self.branches, self.single)

    def factors(self) -> FittedFactors:
        """Return the solver that takes the sampler's place, where there are rows."""
        return FittedFactors(self.rows, self.model_times, self.terms, self.prompt_extrapolation)

    @property
    def name(self) -> str:
        """Of its file: model, sampler, steps, method, "single" where steps leave a branch out, "emphasis" where they
        extrapolate the prompts, and a mark of all settings that are not the default.

        Without the mark, fits of one sampler at other orders or guidances would take each other's file.
        """
        ends = "-single" * bool(self.single) + "-emphasis" * bool(self.prompt_extrapolation)
        words = f"{self.model}-{self.sampler.key}-{self.num_inference_steps}-{self.method}{ends}".lower()
        plain = _UNSAFE.sub("-", words.replace("_", "-")).lstrip("-._+")
        guided = [] if self.guidance.key == Request.guidance.key else [self.guidance.key]
        non_defaults = [
            _find_non_defaults(self.sampler, SAMPLERS),
            _find_non_defaults(self.guidance, GUIDANCE),
            *guided,
        ]
        if not any(non_defaults):
            return plain
        return f"{plain}-{hashlib.sha256(json.dumps(non_defaults, sort_keys=True).encode()).hexdigest()[:6]}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `parse` reads back."""
        plain = {
            _NAMES_IN_FILE.get(field.name, field.name): getattr(self, field.name) for field in dataclasses.fields(self)
        }
        return {**plain, "sampler": self.sampler.to_json(), "guidance": self.guidance.to_json()}

    @classmethod
    def parse(cls, values: Any) -> LearnedSchedule:
        """Read a learned schedule from the plain values of a file.

        Raises:
            SettingsError: a field is missing, or is of the wrong kind.
        """
        try:
            fields = dict(values)
            fields["sampler"], fields["guidance"] = Choice.parse(fields["sampler"]), Choice.parse(fields["guidance"])
            for name in ("times", "model_times"):
                fields[name] = tuple(float(time) for time in fields[name])
            fields["curve"] = tuple(dict(row) for row in fields["curve"])
            fields["rows"] = tuple(tuple(float(factor) for factor in row) for row in fields.get("rows", ()))
            fields["branches"] = tuple(str(name) for name in fields.get("branches", ()))
            fields["single"] = tuple(int(index) for index in fields.get("single", ()))
            fields["coefficients"] = tuple(float(one) for one in fields.get("coefficients", ()))
            if unknown := set(_NAMES_IN_FILE) & set(fields):
                raise KeyError(*unknown)
            fields["fit_details"] = fields.pop("told")
            extrapolation = fields.pop("emphasis", ())
            fields["prompt_extrapolation"] = tuple(tuple(float(one) for one in step) for step in extrapolation)
            learned = cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"A learned schedule cannot be read: {error}. Fit it again.") from None
        learned._check()
        learned._check_names()
        return learned

    def _check(self) -> None:
        times, model_times = self.times, self.model_times
        falling = all(later < earlier for earlier, later in itertools.pairwise(times))
        if (
            self.method not in METHODS
            or len(times) != self.num_inference_steps
            or len(model_times) != len(times)
            or not falling
        ):
            raise SettingsError(
                f"The learned schedule for {str(self.model)[:80]!r} is not whole: it needs "
                f"{self.num_inference_steps} falling times. Fit it again."
            )
        lengths = [len(row) for row in self.rows]
        is_single_valid = set(self.single) <= set(range(len(times) if self.branches else 0)) and len(
            set(self.single)
        ) == len(self.single)
        if (
            (self.method == "bespoke") != bool(lengths)
            or not is_single_valid
            or (lengths and lengths != [self.terms.count(m) for m in range(len(times))])
        ):
            raise SettingsError(
                f"The learned schedule for {str(self.model)[:80]!r} has factors that do not belong to it. Fit it again."
            )
        wanted = 2 if self.method == "q_sched" else 0
        if len(self.coefficients) != wanted or not all(math.isfinite(one) for one in self.coefficients):
            raise SettingsError(
                f"The learned schedule for {str(self.model)[:80]!r} has coefficients that do not belong to it. "
                "Fit it again."
            )
        counts = [len(self.terms.evaluated_branches(m)) for m in range(len(times))]
        if self.prompt_extrapolation and (
            [len(step) for step in self.prompt_extrapolation] != counts
            or not sum(counts)
            or not all(math.isfinite(one) for step in self.prompt_extrapolation for one in step)
        ):
            raise SettingsError(
                f"The learned schedule for {str(self.model)[:80]!r} has prompt extrapolation that does not "
                "belong to it. Fit it again."
            )
        if not all(math.isfinite(one) for row in self.rows for one in row) or not all(
            math.isfinite(time) and time >= 0 for time in (*times, *model_times)
        ):
            raise SettingsError(
                f"The learned schedule for {str(self.model)[:80]!r} has a time that is none. Fit it again."
            )

    def _check_names(self) -> None:
        """What it was fitted for and how well it did, without which it can be neither chosen nor compared."""
        try:
            fill_settings(self.sampler, SAMPLERS), fill_settings(self.guidance, GUIDANCE)
            errors = [float(self.held_out[name]) for name in ("uniform", "fitted")]
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"A learned schedule cannot be read: {error} Fit it again.") from None
        texts = isinstance(self.model, str) and isinstance(self.network, str)
        if not texts or not all(math.isfinite(error) and error >= 0 for error in errors):
            raise SettingsError(
                f"The learned schedule for {str(self.model)[:80]!r} does not say for which network it is or how far "
                "it ends from a long run. Fit it again."
            )


def fill_settings(choice: Choice, table: Table) -> dict[str, Any]:
    """Return all settings of a choice, those that it leaves out at their defaults; 2 and 2.0 come out the same.

    Raises:
        SettingsError: the table has no such method or setting, or a value cannot be.
    """
    return dataclasses.asdict(parse_settings(table[choice.key].settings, choice.settings))


def _find_non_defaults(choice: Choice, table: Table) -> dict[str, Any]:
    """The settings of a choice that are not the defaults."""
    defaults = fill_settings(Choice(choice.key), table)
    return {name: value for name, value in fill_settings(choice, table).items() if value != defaults[name]}


def write_learned(learned: LearnedSchedule, folder: Path) -> Path:
    """Write the schedule under its name, in the place of an earlier one; returns the file.

    Raises:
        StoreError: the name is unsafe, or the folder cannot be written.
    """
    if not _NAME.fullmatch(learned.name):
        raise StoreError(f"A schedule cannot be saved under the name {learned.name[:80]!r}. Rename the model.")
    path = folder / f"{learned.name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(learned.to_json(), indent=1) + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        raise StoreError(f"The schedule cannot be written: {error}.") from error
    return path


def find_all(*folders: Path) -> dict[str, LearnedSchedule]:
    """Name to schedule of every readable file, those of later folders before those of earlier ones."""
    return {name: one for name, one in _read_all(folders) if isinstance(one, LearnedSchedule)}


def find_broken(*folders: Path) -> dict[str, str]:
    """Name to what is wrong with it, of every file that cannot be read."""
    return {name: one for name, one in _read_all(folders) if isinstance(one, str)}


def _read_all(folders: Iterable[Path]) -> Iterator[tuple[str, LearnedSchedule | str]]:
    for folder in folders:
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            yield path.stem, _read(path)


def _read(path: Path) -> LearnedSchedule | str:
    """The file's schedule, or what is wrong with it."""
    try:
        if path.stat().st_size > _LARGEST:
            return f"It is larger than {_LARGEST >> 20} MiB."
        return LearnedSchedule.parse(json.loads(path.read_text("utf-8")))
    except SettingsError as error:
        return str(error)
    except (OSError, ValueError, RecursionError) as error:
        return f"It is not JSON: {str(error)[:120]}."
