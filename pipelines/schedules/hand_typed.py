"""A list of time steps or noise levels as a person types it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule

__all__ = ["HandTyped", "HandTypedSettings", "parsed_numbers"]

_MOST = 1000
"""Numbers read from a list: as many as a model has time steps."""

_ROUNDED = 0.01
"""Of a sigma at the model's own ends, how far beyond it may be typed."""


def parsed_numbers(text: str) -> list[float]:
    """Return the numbers of a text, between commas, semicolons or blanks; none of an empty one.

    Raises:
        SettingsError: something in it is no finite number, or there are too many.
    """
    words = [word for word in re.split(r"[,;\s]+", text.strip()) if word]
    numbers = []
    for word in words[: _MOST + 1]:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise SettingsError(
                f"The list of levels holds {word[:40]!r}, which is not a number. Choose one of: time steps such as "
                "999 850 700, or sigmas such as 14.6 6.5 3.9."
            )
        numbers.append(number)
    if len(numbers) > _MOST:
        raise SettingsError(f"The list of levels holds more than {_MOST} numbers. Type fewer.")
    return numbers


@dataclasses.dataclass(frozen=True)
class HandTypedSettings:
    values: str = setting("", "Numbers from high noise to low, one a step, blanks or commas between.", label="levels")
    unit: str = setting(
        "time steps",
        "The network's time, or sigma / alpha (of a flow model its own sigma).",
        choices=("time steps", "sigmas"),
    )

    def __post_init__(self) -> None:
        parsed_numbers(self.values)


class HandTyped:
    """The typed levels as they are, and the clean end, which is not typed (a last 0 among sigmas is left out).

    The list has as many numbers as the run has steps. An empty one is refused when a run asks for its levels, not
    before: the page shows it until something is typed.

    Source: the custom `timesteps` and `sigmas` of diffusers' pipelines, which its Euler and DPM-Solver schedulers
    take and its DDIM, PNDM, DEIS and SA-Solver schedulers do not; here every sampler takes them.
    """

    def __init__(self, settings: HandTypedSettings = HandTypedSettings()):
        self.numbers, self.unit = parsed_numbers(settings.values), settings.unit

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Return N + 1 descending levels, the last clean.

        Raises:
            SettingsError: no, unsorted, repeated or out-of-range numbers, or not as many as steps.
        """
        numbers = self.numbers
        if not numbers:
            raise SettingsError(
                f"The list of levels is empty. Type {num_inference_steps} {self.unit} from high to low, or choose "
                "another schedule."
            )
        if len(numbers) > 1 and numbers[-1] == 0 and self.unit == "sigmas":
            numbers = numbers[:-1]
        self._require_sorted(numbers)
        self._require_range(numbers, noise_schedule)
        if len(numbers) != num_inference_steps:
            raise SettingsError(
                f"The list has {len(numbers)} {self.unit} for {num_inference_steps} steps. Set the steps to "
                f"{len(numbers)}, or type as many numbers as steps."
            )
        return [*(self._convert_to_level(number, noise_schedule) for number in numbers), CLEAN]

    def _convert_to_level(self, number: float, noise_schedule: NoiseSchedule) -> Level:
        if self.unit == "time steps":
            return noise_schedule.at(number)
        if isinstance(noise_schedule, FlowSchedule):
            return noise_schedule.at(number * noise_schedule.num_train_timesteps)
        return noise_schedule.at_sigma_ve(number)

    def _require_sorted(self, numbers: list[float]) -> None:
        for earlier, later in itertools.pairwise(numbers):
            if later == earlier:
                raise SettingsError(f"The list of {self.unit} has {later:g} twice. Type each number once.")
            if later > earlier:
                raise SettingsError(
                    f"The list of {self.unit} has {later:g} after {earlier:g}. Type the numbers from high to low."
                )

    def _require_range(self, numbers: list[float], noise_schedule: NoiseSchedule) -> None:
        low, high = self._find_range(noise_schedule)
        # A diffusion model's ends have many digits; as a person copies them, with three, they are the ends still.
        slack = _ROUNDED if self.unit == "sigmas" and not isinstance(noise_schedule, FlowSchedule) else 0.0
        for number in numbers:
            if not low * (1 - slack) <= number <= high * (1 + slack):
                raise SettingsError(
                    f"The list of {self.unit} has {number:g}. This model's go from {low:.4g} to {high:.6g}."
                )

    def _find_range(self, noise_schedule: NoiseSchedule) -> tuple[float, float]:
        last = noise_schedule.network_time(1.0)
        flow = isinstance(noise_schedule, FlowSchedule)
        if self.unit == "time steps":
            return (1e-3 if flow else 0.0), last
        return (1e-6, 1.0) if flow else (noise_schedule.at(0).sigma_ve, noise_schedule.at(last).sigma_ve)
