"""What the tests of downloads share."""

from __future__ import annotations

from pipelines.models.entry import CatalogEntry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def entry_of(**changes):
    return CatalogEntry(
        "far",
        "Far Model",
        "sd",
        repository="someone/model",
        licence="mit",
        size_bytes=3_000_000_000,
        licence_url="https://huggingface.co/someone/model",
        pipeline="StableDiffusionPipeline",
        **{"variant": "fp16"} | changes,
    )
