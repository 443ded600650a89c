"""Muon: momentum whose steps are made orthogonal, for matrices and convolutions; Adam for all other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from pipelines.core.gradients import no_grad

__all__ = ["Muon", "orthogonalize"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


@no_grad
def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Bring a matrix's singular values near one by a quintic Newton-Schulz iteration, in bfloat16.

    Args: matrix: (M, N). Returns: (M, N), bfloat16; singular values between about 0.7 and 1.2.
    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024),
        https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(torch.bfloat16, memory_format=torch.contiguous_format)
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Applies orthogonalized momentum for weights of two and more dimensions, AdamW for vectors.

    A step has the root mean square of 0.2 x the learning rate in every weight, as Adam's steps have about, so that
    one learning rate serves both.

    Args:
        params: what is trained, or groups of it; convolutions are taken as (out, in x height x width). A group with
            `"orthogonal": False` is left to Adam, as tables of embeddings must be.
        lr: the learning rate.
        momentum: of the matrices, with Nesterov's look ahead.
        betas: of the vectors' Adam.
        weight_decay: decoupled.
    Source: Jordan et al. (2024) as of `orthogonalize`; the scale is that of Liu et al., Muon is Scalable for LLM
        Training, arXiv 2502.16982, section 2.2.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, object]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "orthogonal": True}
        super().__init__(params, defaults)

    @no_grad
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if group["orthogonal"] and weight.ndim >= 2:
                    self._step_matrix(weight, weight.grad, group)
                else:
                    self._step_elements(weight, weight.grad, group)

    def _step_matrix(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(average, group["momentum"]).flatten(1)
        step = orthogonalize(ahead).reshape(weight.shape)
        if group["weight_decay"]:
            weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(step, alpha=-group["lr"] * 0.2 * max(ahead.shape) ** 0.5)

    def _step_elements(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[weight], group["betas"]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["step"] = torch.zeros(())
        state["step"] += 1
        count = float(state["step"])
        mean = state["exp_avg"].lerp_(gradient, 1 - first) / (1 - first**count)
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - second) / (1 - second**count)
        weight.addcdiv_(mean, square.sqrt().add_(1e-8), value=-group["lr"])
