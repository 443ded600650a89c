"""Small floating-point formats: which numbers they have, and rounding to them."""

from __future__ import annotations

import dataclasses

import torch

__all__ = ["FloatGrid"]


@dataclasses.dataclass(frozen=True)
class FloatGrid:
    """Describes a floating-point format with subnormals and the bias 2^(exponent - 1) - 1.

    Of the formats of eight bits, e4m3 gives up its largest code and e5m2 its largest exponent to what is no number, as
    PyTorch's types do; all others use every code for a number.

    Attributes:
        exponent, mantissa: bits.

    Source: Micikevicius et al., FP8 formats, arXiv:2209.05433; the Open Compute Project's microscaling formats.
    """

    exponent: int
    mantissa: int

    @property
    def bias(self) -> int:
        """Return what is taken from the exponent's code."""
        return int(2 ** (self.exponent - 1)) - 1

    @property
    def largest(self) -> float:
        """Return the largest number."""
        if (self.exponent, self.mantissa) == (5, 2):
            return 57344.0
        if (self.exponent, self.mantissa) == (4, 3):
            return 448.0
        return float((2 - 2.0**-self.mantissa) * 2.0 ** (2**self.exponent - 1 - self.bias))

    def step(self, values: torch.Tensor) -> torch.Tensor:
        """Compute the distance of the format's numbers at each value's magnitude."""
        # frexp gives a mantissa of a half to one, exactly; log2 might round over a power of two.
        exponent = torch.frexp(values)[1] - 1
        return torch.ldexp(torch.ones_like(values), exponent.clamp_min(1 - self.bias) - self.mantissa)

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """Round to the nearest number of the format, ties to even, and to its largest what is beyond."""
        step = self.step(values)
        return ((values / step).round() * step).clamp(-self.largest, self.largest)

    def neighbors(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the numbers below and above each value; its own twice for one of the format."""
        values = values.clamp(-self.largest, self.largest)
        step = self.step(values)
        position = values / step
        return position.floor() * step, position.ceil() * step
