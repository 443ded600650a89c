"""Directions in a model's activations or latents: what they are, and how a network is moved along them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch

from pipelines.core.errors import MethodFitError

__all__ = [
    "LATENTS",
    "MIDDLE",
    "SPACES",
    "Directions",
    "build_amounts_name",
    "fit_directions",
    "recorded_middle",
    "shifted_middle",
]

MIDDLE, LATENTS = "middle", "latents"
SPACES = (MIDDLE, LATENTS)
"""What directions are in: the output of a UNet's middle block (h-space), or the latents of a run."""

_PREFIX = "sliders: "


@dataclasses.dataclass(frozen=True)
class Directions:
    """Holds directions that were computed of a model's runs.

    Attributes:
        space: one of `SPACES`.
        model: key of the model that they are of.
        size: (width, height) of its pictures, in pixels.
        times: the network's times at which the runs were looked at, (T,), float32.
        vectors: (K, T, ...), float32: the K directions are orthonormal over all that follows.
        deviations: (K,), float32: the standard deviation of the runs along each, descending.
        shares: (K,), float32: of the runs' whole variance.
    """

    space: str
    model: str
    size: tuple[int, int]
    times: torch.Tensor
    vectors: torch.Tensor
    deviations: torch.Tensor
    shares: torch.Tensor

    def find_shift(self, amounts: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Compute what is added, (B, ...), at the nearest of the times.

        Args:
            amounts: (B, K), in standard deviations.
            timesteps: (B,), the network's.
        """
        nearest = (self.times.to(timesteps)[None] - timesteps[:, None]).abs().argmin(dim=1)
        scaled = amounts * self.deviations.to(amounts)
        return torch.einsum("bk,kb...->b...", scaled, self.vectors.to(amounts)[:, nearest])

    def to(self, device: torch.device) -> Directions:
        """Copy them to a device."""
        tensors = {name: getattr(self, name).to(device) for name in ("times", "vectors", "deviations", "shares")}
        return dataclasses.replace(self, **tensors)


def fit_directions(
    samples: torch.Tensor, times: Sequence[float], space: str, model: str, size: tuple[int, int], count: int
) -> Directions:
    """Compute the principal components of runs, each of which spans all steps.

    Args:
        samples: (N, T, ...), one run in each row; N at least 2.
        times: T, the network's.
        space, model, size: as in `Directions`.
        count: how many are wanted; at most N - 1 are there.

    Source: Haas et al., Discovering interpretable directions in the semantic latent space of diffusion models,
        arXiv:2303.11073, section 4.1, for the middle block over all steps.
    """
    flat = samples.double().flatten(1)
    flat = flat - flat.mean(dim=0)
    _, values, vectors = torch.linalg.svd(flat, full_matrices=False)
    kept = min(count, len(flat) - 1, int((values > 1e-6 * values.max().clamp(min=1e-30)).sum()))
    if kept < 1:
        raise MethodFitError("The runs are all the same, so that there is no direction in which they differ.")
    variances = values.square() / (len(flat) - 1)
    return Directions(
        space,
        model,
        size,
        torch.tensor(list(times), dtype=torch.float32),
        vectors[:kept].reshape(kept, *samples.shape[1:]).float(),
        variances[:kept].sqrt().float(),
        (variances[:kept] / variances.sum()).float(),
    )


def build_amounts_name(name: str) -> str:
    """Name the tensor, (B, K), of how far each sample goes along the directions of a file."""
    return f"{_PREFIX}{name}"


@contextlib.contextmanager
def shifted_middle(
    network: torch.nn.Module,
    directions: Mapping[str, Directions],
    tensors: Mapping[str, torch.Tensor],
    timesteps: torch.Tensor,
) -> Iterator[None]:
    """Provide a UNet whose middle block's output is moved along the directions that a conditioning names.

    Args:
        network: with a `mid_block`.
        directions: by name.
        tensors: of the conditioning.
        timesteps: (B,), of its rows.
    """
    named = [name for name in tensors if name.startswith(_PREFIX)]
    if not named:
        yield
        return
    shifts = [
        directions[name.removeprefix(_PREFIX)].find_shift(tensors[name].float(), timesteps.float()) for name in named
    ]
    shift = torch.stack(shifts).sum(dim=0)
    handle = _find_middle(network).register_forward_hook(lambda module, inputs, output: output + shift.to(output))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def recorded_middle(network: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Provide a list to which each call's output of a UNet's middle block, (B, C, h, w), is added, on the CPU."""
    taken: list[torch.Tensor] = []
    handle = _find_middle(network).register_forward_hook(
        lambda module, inputs, output: taken.append(output.detach().float().cpu())
    )
    try:
        yield taken
    finally:
        handle.remove()


def _find_middle(network: torch.nn.Module) -> torch.nn.Module:
    middle = getattr(network, "mid_block", None)
    if not isinstance(middle, torch.nn.Module):
        raise MethodFitError("This network has no middle block. Choose the latents ('latents') as the space.")
    return middle
