"""The size multiple that is said without loading a model is the one that the loaded model has."""

from __future__ import annotations

import pytest
from tiny_models import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

from pipelines.families import family_of
from pipelines.models.catalog import Catalog
from pipelines.models.entry import CatalogEntry
from pipelines.models.sizes import size_multiple

MAKERS = {"sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}


@pytest.mark.parametrize("key", MAKERS)
def test_a_folders_configurations_say_what_the_loaded_model_says(key, tmp_path):
    stock = MAKERS[key]()
    stock.save_pretrained(tmp_path)
    assert size_multiple(CatalogEntry("own", "Own", key, path=tmp_path)) == family_of(stock.components).size_multiple


def test_the_shipped_models_and_the_published_ones(tmp_path):
    catalog = Catalog(tmp_path)
    shipped = {"emoji": 8, "emoji-128": 8, "emoji-128-flow": 16}
    assert {key: size_multiple(catalog[key]) for key in shipped} == shipped
    assert size_multiple(CatalogEntry("far", "Far", "sdxl", repository="a/b")) == 8
    assert size_multiple(CatalogEntry("file", "File", "sd", path=tmp_path / "weights.safetensors")) == 8
