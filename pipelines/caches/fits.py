"""Which models a cache fits."""

from __future__ import annotations

from pipelines.core.types import Traits

__all__ = ["needs_either", "needs_transformer", "needs_unet"]

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
