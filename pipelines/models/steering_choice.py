"""Which ControlNet, T2I-Adapters, IP-Adapter and image encoder a request's names lead to."""

from __future__ import annotations

import dataclasses

from pipelines.core.errors import ModelMissingError
from pipelines.models.catalog import Catalog
from pipelines.models.entry import CatalogEntry
from pipelines.models.extras import Extras
from pipelines.models.files import read_json
from pipelines.models.steering import find_steering
from pipelines.models.steering_entry import ADAPTER, CONTROLNET, ENCODER, T2I_ADAPTER, SteeringEntry
from pipelines.weights.gguf_files import read_weights_header
from pipelines.weights.t2i_adapter_levels import ADAPTERS

__all__ = ["find_extra_steering"]


def find_extra_steering(catalog: Catalog, extras: Extras, entry: CatalogEntry) -> list[SteeringEntry]:
    """Find what is run beside a model's network.

    Args:
        catalog: of the models folder.
        extras: the names.
        entry: of the model.

    Raises:
        UnknownMethodError: there is none of a name.
        SettingsError: one does not fit the model.
        ModelMissingError: an IP-Adapter's image encoder is not here.
    """
    found = []
    if extras.controlnet:
        found.append(find_steering(catalog.steering(CONTROLNET), CONTROLNET, extras.controlnet, entry))
    if extras.adapter:
        adapter = find_steering(catalog.steering(ADAPTER), ADAPTER, extras.adapter, entry)
        found += [adapter, _find_encoder(catalog, adapter)]
    for name, key in zip(ADAPTERS, extras.t2i_adapters, strict=False):
        one = find_steering(catalog.steering(T2I_ADAPTER), T2I_ADAPTER, key, entry)
        found.append(dataclasses.replace(one, what=name))
    return found


def _find_encoder(catalog: Catalog, adapter: SteeringEntry) -> SteeringEntry:
    """The image encoder whose output an adapter's projection takes, by its width."""
    tensors = read_weights_header(adapter.path).tensors
    name, setting = "image_proj.proj.weight", "projection_dim"
    if name not in tensors:
        name = "image_proj.proj_in.weight" if "image_proj.latents" in tensors else "image_proj.proj.0.weight"
        setting = "hidden_size"
    width = tensors[name].shape[1]
    for encoder in catalog.steering(ENCODER):
        if read_json(encoder.path / "config.json").get(setting, 512) == width:
            return encoder
    raise ModelMissingError(
        f"The IP-Adapter {adapter.label} reads pictures with an image encoder of {setting.replace('_', ' ')} {width}, "
        "which is not in the models folder. Put its folder image_encoder (config.json and model.safetensors) there."
    )
