"""Which models a cache fits."""

from __future__ import annotations

from typing import Protocol

from pipelines.core.types import Traits

__all__ = ["HasDepth", "needs_either", "needs_transformer", "needs_unet", "reaches_depth"]

_UNETS = ("sd", "sdxl")
_TRANSFORMERS = ("sd3", "flux")


def needs_unet(traits: Traits) -> str | None:
    """Say why a model has no UNet whose layers could be left out."""
    if reason := needs_either(traits):
        return reason
    return None if traits.family in _UNETS else "it has no UNet. First-block cache and TaylorSeer are for transformers"


def needs_transformer(traits: Traits) -> str | None:
    """Say why a model has no transformer whose blocks could be left out."""
    if reason := needs_either(traits):
        return reason
    return None if traits.family in _TRANSFORMERS else "it has no transformer. DeepCache and TaylorSeer are for UNets"


def needs_either(traits: Traits) -> str | None:
    """Say why a model has neither."""
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline. Choose No cache"
    if traits.compiled:
        return "its network is compiled (--compile), so that no layer can be left out. Choose No cache"
    if traits.family not in (*_UNETS, *_TRANSFORMERS):
        return "its frames see each other, and caches know single pictures alone. Choose No cache"
    return None


class HasDepth(Protocol):
    """Represents the settings of a cache that cuts the network at a depth."""

    @property
    def depth(self) -> int: ...


def reaches_depth(settings: HasDepth, traits: Traits) -> str | None:
    """Say why nothing is left to leave out of a network behind this depth; None while its depth isn't known."""
    count, what = traits.skips, "UNet has {} skip connections"
    if traits.backbone == "transformer":
        count, what = traits.joint_blocks + traits.single_blocks, "transformer has {} blocks"
    if not count or settings.depth < count:
        return None
    return f"its {what.format(count)}. Choose a depth of at most {count - 1}"
