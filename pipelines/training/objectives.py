"""The formulas of training: losses, weights and learning rates, as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

__all__ = [
    "assign_noise",
    "gradient_l1",
    "learning_rate",
    "min_snr_loss",
    "psnr",
    "soft_snr_v_loss",
    "stratified_logit_normal",
]


def min_snr_loss(
    predicted: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Compute the mean squared error of the noise, weighted so that no noise level dominates.

    Args:
        predicted, noise: (B, C, H, W).
        alphas_cumprod: (B,), the schedule at each sample's timestep.
        gamma: the cap on the signal-to-noise ratio.
    Returns: a scalar, float32.
    Source: Hang et al., Efficient Diffusion Training via Min-SNR Weighting, arXiv 2303.09556,
        section 3.4: weight min(SNR, gamma) / SNR for noise prediction.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weight = snr.clamp(max=gamma) / snr
    error = (predicted.float() - noise.float()).square().mean(dim=(1, 2, 3))
    return (weight * error).mean()


def soft_snr_v_loss(
    predicted: torch.Tensor, velocity: torch.Tensor, alphas_cumprod: torch.Tensor, floor: float
) -> torch.Tensor:
    """Compute the mean squared error of the velocity v = alpha eps - sigma x0, weighted SNR / (SNR + floor).

    The highest noise, where little can be known, weighs less; but the weight falls a hundredfold later than
    min-SNR's, which leaves next to nothing of the levels at which it is decided what stands where.

    Args:
        predicted, velocity: (B, C, H, W); Salimans and Ho, arXiv 2202.00512, appendix D.
        alphas_cumprod: (B,), the schedule at each sample's timestep.
        floor: the signal-to-noise ratio at which the weight is one half; 0 weighs all levels alike.
    Returns: a scalar, float32.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    error = (predicted.float() - velocity.float()).square().mean(dim=(1, 2, 3))
    return (snr / (snr + floor) * error).mean()


def assign_noise(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Reorder a batch's noise so that the sum of its distances to the latents is least.

    Args: latents, noise: (B, C, H, W).
    Returns: `noise` in another order: each is still drawn from the same distribution.
    Source: Li et al., Immiscible Diffusion: Accelerating Diffusion Training with Noise Assignment,
        arXiv 2406.12303, section 4.
    """
    distances = torch.cdist(latents.flatten(1).float(), noise.flatten(1).float())
    order = linear_sum_assignment(distances.cpu().numpy())[1]
    return noise[torch.from_numpy(order)]


def stratified_logit_normal(
    count: int, mean: float, deviation: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw times whose logit is normal, one in each of `count` equally likely parts, for less variance.

    Args:
        count: how many.
        mean, deviation: of the logit, log(t / (1 - t)).
    Returns: (count,) in (0, 1), rising.
    Source: Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, section 3.1, equation 19.
    """
    shares = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    normal = torch.special.ndtri(shares.double().clamp(1e-6, 1 - 1e-6))
    return torch.sigmoid(mean + deviation * normal).float()


def gradient_l1(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the L1 distance of the horizontal and vertical differences of (B, C, H, W): sharp edges."""
    error = predicted - target
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def psnr(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the peak signal-to-noise ratio in dB of each picture: (B, C, H, W) in [0, 1] -> (B,)."""
    error = F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-12))


def learning_rate(step: int, steps: int, peak: float, warmup: int, decay: float) -> float:
    """Rise over `warmup` steps, stay, then fall linearly to zero at `steps`.

    Only the end depends on `steps`, so that a run can be made longer while it is at its peak.

    Args:
        step: from 0.
        steps: length of the run.
        peak: the highest rate.
        warmup: steps of the rise.
        decay: share of the run in which the rate falls linearly.
    """
    falling = max(1.0, decay * steps)
    return peak * min(1.0, (step + 1) / max(1, warmup), max(0.0, (steps - step) / falling))
