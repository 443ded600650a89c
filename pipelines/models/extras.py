"""Parts of the models folder that a request adds to a model, or puts into the place of the model's own."""

from __future__ import annotations

import dataclasses

__all__ = ["Extras"]


@dataclasses.dataclass(frozen=True)
class Extras:
    """Names what is leased together with a model.

    Attributes:
        vae: key of the VAE that takes the place of the model's own; "" for that one.
    """

    vae: str = ""

    def __bool__(self) -> bool:
        return self != Extras()
