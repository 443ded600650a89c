"""Two prompts in one picture: interpolated, alternating, one after the other, or by the price of an option on each."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence

import torch

from pipelines.core.devices import upload
from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Conditioning, Guidance, Perturbation, Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.binding import Judge, place_of
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = ["BLENDS", "Blended", "BlendedSettings", "call_price", "mix_conditionings", "volatility"]

BLENDS = ("linear", "alternating", "switching", "black-scholes")
_SECOND = "second"
_STRIKE = 100.0
_LEAST_VOLATILITY, _LEAST_SPOT = 1e-3, 1e-4


@dataclasses.dataclass(frozen=True)
class BlendedSettings:
    guidance_scale: float = setting(4.0, "How strongly the picture follows the prompts.", low=0, high=30, step=0.1)
    second: str = setting("", "The second prompt; empty for the first alone.", label="Second prompt")
    rule: str = setting(
        "linear",
        "Which prompt a step follows; black-scholes looks at the picture, for prompts that the shipped judge reads.",
        choices=BLENDS,
    )
    share: float = setting(
        0.5, "Linear: of the second prompt. Switching: of the steps before it.", low=0, high=1, step=0.05
    )


def call_price(spot: float, strike: float, rate: float, volatility: float, time: float) -> float:
    """Compute the price of a European call option by Black and Scholes.

    Args:
        spot, strike: prices, above 0.
        rate: of interest, for a unit of time.
        volatility: for the root of a unit of time, above 0.
        time: until it ends, above 0.

    Source: Black & Scholes, The pricing of options and corporate liabilities, 1973, equation 13.
    """
    spread = volatility * math.sqrt(time)
    first = (math.log(spot / strike) + (rate + volatility**2 / 2) * time) / spread
    return spot * _normal(first) - strike * math.exp(-rate * time) * _normal(first - spread)


def _normal(value: float) -> float:
    return (1 + math.erf(value / math.sqrt(2))) / 2


def volatility(level: Level, next_level: Level) -> float:
    """Compute the standard deviation of the noise that DDPM adds between two levels."""
    if not level.sigma or not next_level.alpha:
        return 0.0
    kept = level.alpha * next_level.sigma / (next_level.alpha * level.sigma)
    return next_level.sigma * math.sqrt(max(0.0, 1 - kept**2))


def mix_conditionings(first: Conditioning, second: Conditioning, shares: Sequence[float]) -> Conditioning:
    """Interpolate each row's tensors; a share of 0 is the first and 1 the second, bit for bit.

    Args:
        first, second: of B rows and one signature.
        shares: of the second, B of them.
    """
    tensors = {}
    for name, tensor in first.tensors.items():
        weights = upload(torch.tensor(list(shares), dtype=torch.float32), tensor.device, tensor.dtype)
        tensors[name] = torch.lerp(tensor, second.tensors[name], weights.view(-1, *[1] * (tensor.ndim - 1)))
    return Conditioning(tensors)


class Blended(TwoBranchGuidance):
    """Classifier-free guidance by two prompts; without a second one, or with the same, it is that of the first.

    The rule black-scholes takes at each step the prompt of which the picture shows less: that whose call option is the
    cheaper, with the adherence of the estimate as the spot price.

    Source: Kothandaraman et al., Prompt mixing in diffusion models using the Black Scholes algorithm, arXiv:2405.13685,
        and the three simpler rules that it compares with.
    Differs: the price is that of the formula, with the normal distribution, where their code has its density without
        the factor; the shipped detector's probability, in per cent, stands for CLIP's score; each sample chooses by
        itself.
    """

    def __init__(self, settings: BlendedSettings = BlendedSettings()):
        super().__init__(settings.guidance_scale)
        self.second, self.rule, self.share = settings.second.strip(), settings.rule, settings.share
        self.patch: Perturbation | None = None
        self._levels: tuple[Level, ...] = ()
        self._judge: Judge | None = None
        self._prompt = ""
        self._denoised: torch.Tensor | None = None

    def with_levels(self, levels: Sequence[Level]) -> Guidance:
        bound = copy.copy(self)
        bound._levels = tuple(levels)
        return bound

    def further_texts(self, objects: Sequence[str]) -> Mapping[str, str]:
        return {_SECOND: self.second} if self.second else {}

    def judged_prompts(self, prompt: str) -> Sequence[str]:
        return (prompt, self.second) if self.second and self.rule == "black-scholes" else ()

    def with_judge(self, judge: Judge, prompt: str) -> Guidance:
        bound = copy.copy(self)
        bound._judge, bound._prompt = judge, prompt
        return bound

    def ask(self, query: Query) -> Generator[Query, Prediction, Prediction]:
        if not self.second or query.conditioning is not None:
            return (yield query)
        shares = self._choose(query)

        def choose(branch: str, conditionings: Mapping[str, Conditioning]) -> Conditioning:
            own = conditionings[branch]
            if branch == "negative":
                return own
            if _SECOND not in conditionings:
                raise MethodFitError("Two prompts are blended where pictures are drawn anew, and not here.")
            return mix_conditionings(own, conditionings[_SECOND], shares)

        prediction = yield dataclasses.replace(query, conditioning=choose)
        self._denoised = prediction.denoised
        return prediction

    def further_evaluations(self, level: Level) -> int:
        return 0

    def _choose(self, query: Query) -> list[float]:
        """The second prompt's share in each sample."""
        rows, place = len(query.latents), place_of(query.level, self._levels)
        if self.rule == "linear":
            return [self.share] * rows
        if self.rule == "alternating":
            return [float(place % 2)] * rows
        if self.rule == "switching":
            return [float(place >= self.share * (len(self._levels) - 1) - 1e-9)] * rows
        if self._judge is None or self._denoised is None or self._denoised.shape != query.latents.shape:
            return [0.0] * rows
        prices = [self._price(prompt, place) for prompt in (self._prompt, self.second)]
        return [float(first > second) for first, second in zip(*prices, strict=True)]

    def _price(self, prompt: str, place: int) -> list[float]:
        if self._judge is None or self._denoised is None:
            return []
        steps = max(len(self._levels) - 1, 1)
        place = min(place, steps - 1)
        spread = max(volatility(self._levels[place], self._levels[place + 1]), _LEAST_VOLATILITY)
        spots = self._judge.adherence(self._denoised, prompt).tolist()
        return [call_price(max(_STRIKE * one, _LEAST_SPOT), _STRIKE, 1 / steps, spread, steps - place) for one in spots]

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        return guide(negative.raw, positive.raw, self.guidance_scale)
