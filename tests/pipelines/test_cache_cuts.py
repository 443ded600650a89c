"""Cuts: an evaluation that goes on from the very feature that it left says the same."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from pipelines.caches.cuts import find_cut
from pipelines.core.errors import MethodFitError
from pipelines.families import family_of


def open_model(name: str):
    found = family_of(getattr(tiny_models, f"tiny_{name}")().components)
    if name in ("sd3", "flux"):
        found.max_sequence_length = 8
    conditionings = found.encode_prompts("a red fox", "", 2, (32, 32))
    latents = torch.randn(2, *found.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    level = found.noise_schedule.at(600.0 if not found.traits.flow else 0.6)
    times = torch.full((2,), float(level.timestep))
    return found, lambda: found.predict_raw(latents, times, conditionings["positive"])


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_going_on_from_the_feature_of_the_same_evaluation_is_the_whole_evaluation(name):
    family, predict = open_model(name)
    depth, seen = 0, 0
    with torch.no_grad():
        whole = predict()
        while True:
            try:
                cut = find_cut(family.network, depth)
            except MethodFitError as error:
                assert "at most" in str(error)
                break
            features = []
            with cut.captured(features.append):
                assert torch.equal(predict(), whole)
            (feature,) = features
            ran: list[torch.nn.Module] = []
            leaves = [part for layer in cut.skipped for part in layer.modules() if not list(part.children())]
            hooks = [leaf.register_forward_hook(lambda leaf, *_, ran=ran: ran.append(leaf)) for leaf in leaves]
            with cut.resumed(feature):
                again = predict()
            with cut.resumed(torch.zeros_like(feature)):
                assert not torch.allclose(predict(), whole, atol=1e-4)
            for hook in hooks:
                hook.remove()
            # a residual that is added again is rounded once more
            assert torch.allclose(again, whole, atol=0 if name in ("sd", "sdxl") else 1e-5)
            assert leaves and not ran
            assert torch.equal(predict(), whole)
            depth, seen = depth + 1, seen + 1
    assert seen >= 2
