"""What a request takes from the models folder besides its model and its LoRAs."""

from __future__ import annotations

from pipelines.autoencoders import get_vae_name
from pipelines.controls import CONTROLS, ENSEMBLES, IMAGE_PROMPTS, T2I_ADAPTERS
from pipelines.core.types import Request
from pipelines.models.extras import Extras

__all__ = ["find_extras"]


def find_extras(request: Request) -> Extras:
    """Return what is leased together with the model of a request."""
    control, image_prompt = CONTROLS.build(request.control), IMAGE_PROMPTS.build(request.image_prompt)
    adapters, ensemble = T2I_ADAPTERS.build(request.t2i_adapter), ENSEMBLES.build(request.ensemble)
    return Extras(
        get_vae_name(request),
        control.settings.model if control else "",
        image_prompt.settings.model if image_prompt else "",
        adapters.models if adapters else (),
        tuple(ensemble.weights) if ensemble else (),
    )
