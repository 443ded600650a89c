"""Encoder propagation (Faster Diffusion): a UNet's encoder is run at key steps, its decoder at all."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pipelines.caches.reuse import Groups, ReusingCache
from pipelines.core.caching import Place
from pipelines.core.errors import MethodFitError
from pipelines.core.registry import setting

__all__ = ["EncoderPropagation", "EncoderPropagationSettings", "key_steps"]

_KEYS = (0, 1, 2, 3, 5, 10, 15, 25, 35)
_OF = 50


@dataclasses.dataclass(frozen=True)
class EncoderPropagationSettings:
    spacing: str = setting(
        "non-uniform", "The key steps: the paper's, dense at first, or every n-th.", choices=("non-uniform", "uniform")
    )
    interval: int = setting(
        2, "With uniform spacing the encoder is run at every n-th step; 1 runs it always.", low=1, high=20, step=1
    )


def key_steps(num_steps: int) -> frozenset[int]:
    """Scale the paper's nine key steps of 50 to another number of steps."""
    return frozenset(round(key * num_steps / _OF) for key in _KEYS)


@dataclasses.dataclass(frozen=True)
class EncoderPropagation(ReusingCache):
    """Runs the encoder and the middle block at key steps, and in between the decoder alone, on their last outputs.

    The decoder is given the present time and prompt, and not the present latents: they enter by the encoder only.

    Source: Li et al., Faster diffusion: Rethinking the role of the encoder for diffusion model inference,
        arXiv:2312.09608, section 3.2 and its non-uniform key steps.
    Differs: the decoders of a span are run one by one, as the sampler asks, not in one batch; nothing of the first
        noise is added to the latents.
    """

    spacing: str = "non-uniform"
    interval: int = 2

    @classmethod
    def build(cls, settings: EncoderPropagationSettings = EncoderPropagationSettings()) -> EncoderPropagation:
        return cls(settings.spacing, settings.interval)

    def groups(self, module: Any) -> Groups:
        if not hasattr(module, "down_blocks"):
            raise MethodFitError("This network has no UNet's encoder, which this cache leaves out.")
        middle = [module.mid_block] if module.mid_block is not None else []
        encoder: list[torch.nn.Module] = [module.conv_in, *module.down_blocks, *middle]
        return {"encoder": encoder}

    def reused(self, place: Place) -> tuple[str, ...]:
        if self.spacing == "uniform":
            is_key = place.step % self.interval == 0
        else:
            is_key = place.step in key_steps(place.num_steps)
        return () if is_key else ("encoder",)
