"""The table of VAE choices: the model's own one, or one of the models folder."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import Method, Table, own_loop_only, setting
from pipelines.core.types import Request

__all__ = ["VAES", "get_vae_name"]


@dataclasses.dataclass(frozen=True)
class VaeSettings:
    """Names one of the VAEs of the models folder."""

    name: str = setting("", "Key of a VAE of the models folder.", label="VAE")


VAES: Table[str] = Table(
    "VAE",
    [
        Method("own", "The model's own", lambda settings: "", help="The VAE that comes with the model."),
        Method(
            "file",
            "Of the models folder",
            lambda settings: settings.name,
            VaeSettings,
            fit=own_loop_only,
            help="Another VAE of the same latents: sharper eyes and text, or other colors.",
        ),
    ],
)


def get_vae_name(request: Request) -> str:
    """Return the key of the VAE that a request takes from the models folder; "" for the model's own."""
    return VAES.build(request.vae)
