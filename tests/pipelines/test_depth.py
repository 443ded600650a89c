"""How deep a network is: its configuration says what a cut of the network finds."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from pipelines.caches.cuts import find_cut
from pipelines.core.errors import MethodFitError
from pipelines.core.types import Traits
from pipelines.families import family_of
from pipelines.families.depth import with_depth
from studio.backend import Studio, StudioSettings
from tests.pipelines.tiny_models import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl


@pytest.mark.parametrize("tiny", [tiny_sd, tiny_sdxl, tiny_sd3, tiny_flux])
def test_the_traits_say_how_deep_a_network_can_be_cut(tiny):
    family = family_of(tiny().components)
    traits = family.traits
    count = traits.skips + traits.joint_blocks + traits.single_blocks
    find_cut(family.network, count - 1)
    with pytest.raises(MethodFitError, match=f"at most {count - 1}"):
        find_cut(family.network, count)
    bare = dataclasses.replace(traits, skips=0, joint_blocks=0, single_blocks=0)
    assert with_depth(bare, dict(family.network.config)) == traits


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"down_block_types": ["a", "b"]},
        {"down_block_types": ["a", "b"], "layers_per_block": [1]},
        {"down_block_types": "ab", "layers_per_block": 2},
        {"down_block_types": [], "layers_per_block": 2},
        {"down_block_types": ["a"], "layers_per_block": "2"},
    ],
)
def test_a_configuration_that_does_not_say_leaves_it_open(config):
    traits = Traits("sd", "epsilon", "unet")
    assert with_depth(traits, config) == traits
    flow = Traits("sd3", "flow", "transformer")
    assert with_depth(flow, {"num_layers": None}) == flow


def test_layers_may_differ_by_block():
    config = {"down_block_types": ["a", "b", "c"], "layers_per_block": [1, 2, 3]}
    assert with_depth(Traits("sd", "epsilon", "unet"), config).skips == 1 + 6 + 2


def test_a_depth_is_known_before_loading_though_another_part_is_missing(tmp_path):
    tiny = tiny_sd3(tmp_path / "models" / "one")
    shutil.rmtree(tmp_path / "models" / "one" / "text_encoder")
    studio = Studio(StudioSettings(outputs=tmp_path / "outputs", models=tmp_path / "models", device="cpu"))
    try:
        assert studio.traits("one").joint_blocks == len(tiny.transformer.transformer_blocks)
    finally:
        studio.close()
