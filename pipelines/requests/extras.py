"""What a request takes from the models folder besides its model and its LoRAs."""

from __future__ import annotations

from pipelines.autoencoders import get_vae_name
from pipelines.core.types import Request
from pipelines.models.extras import Extras

__all__ = ["find_extras"]


def find_extras(request: Request) -> Extras:
    """Return what is leased together with the model of a request."""
    return Extras(vae=get_vae_name(request))
