"""Small networks of both kinds with three recorded calls each, for the tests of simulated quantization."""

from __future__ import annotations

import pytest
import torch

from pipelines.quantizers.calibration import Calibration, recorded_calls
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3

__all__ = ["call_network", "model", "normal"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calibrated(family) -> tuple[torch.nn.Module, Calibration]:
    network = family.network
    with recorded_calls(network) as calls, torch.no_grad():
        for time in (900.0, 500.0, 100.0):
            call_network(network, time)
    return network, Calibration(tuple(calls))


def call_network(network: torch.nn.Module, time: float) -> torch.Tensor:
    config = network.config
    latents = normal(2, config.in_channels, 8, 8, seed=int(time))
    text = normal(2, 6, getattr(config, "cross_attention_dim", None) or config.joint_attention_dim)
    pooled = {"pooled_projections": normal(2, config.pooled_projection_dim)} if "joint_attention_dim" in config else {}
    return network(latents, timestep=torch.tensor([time] * 2), encoder_hidden_states=text, return_dict=False, **pooled)[
        0
    ]


@pytest.fixture(scope="module", params=["unet", "transformer"])
def model(request):
    from pipelines.families import family_of

    family = family_of((tiny_sd() if request.param == "unet" else tiny_sd3()).components)
    return calibrated(family)
