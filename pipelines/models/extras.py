"""Parts of the models folder that a request adds to a model, or puts into the place of the model's own."""

from __future__ import annotations

import dataclasses

__all__ = ["Extras"]


@dataclasses.dataclass(frozen=True)
class Extras:
    """Names what is leased together with a model, by key; "" for none.

    Attributes:
        vae: takes the place of the model's own.
        controlnet: is run beside the network.
        adapter: an IP-Adapter; with it comes the image encoder that it reads pictures with.
        t2i_adapters: whose additions are computed once, before the network runs.
        companions: further models, of the catalog.
    """

    vae: str = ""
    controlnet: str = ""
    adapter: str = ""
    t2i_adapters: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Extras()
