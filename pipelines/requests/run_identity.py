"""When two runs of text to image give the same latents, bit for bit: equal requests on equal content."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.families.latent import LatentFamily
from pipelines.requests.text_to_image import ResolvedRun
from pipelines.weights.part_identity import file_stamp

__all__ = ["identify_model", "identify_run", "identify_texts"]

_DECODERS = ("vae", "tiny_vae")


def identify_model(family: object, decoders: bool = True) -> Hashable | None:
    """Name all of a loaded model that its results depend on: files, LoRAs, embeddings, configurations.

    Args:
        family: the loaded model, its LoRAs applied.
        decoders: whether its VAE and its tiny decoder belong to it.

    Returns:
        A name that no other content has as long as the process lives; None where nothing names the content.
    """
    if not isinstance(family, LatentFamily) or family.identity is None:
        return None
    settings = {name: value for name, value in family.components.items() if isinstance(value, (bool, int, str))}
    return (
        type(family).__qualname__,
        tuple(pair for pair in family.identity if decoders or pair[0] not in _DECODERS),
        json.dumps([settings, dict(family.scheduler_config)], sort_keys=True, default=str),
        tuple(sorted((key, *_stamp_embedding(source)) for key, source in family.embeddings.items())),
    )


def _stamp_embedding(source: object) -> tuple[str | int, ...]:
    path = getattr(source, "path", None)
    return file_stamp(path) if isinstance(path, Path) else ()  # of a LoRA's own ones, which the identity names


def identify_run(resolved: ResolvedRun, family: Family) -> Hashable | None:
    """Name the latents that a run ends with; None where nothing names them.

    The decoder belongs to them only where the initialization may ask it.

    Args:
        resolved: the settled request.
        family: the loaded model, its LoRAs applied.
    """
    request = resolved.request
    # A ControlNet may read its map's latents.
    is_plain = request.start.key == Request.start.key and request.control.key == Request.control.key
    if is_plain:
        request = request.replace(vae=Request.vae)  # it decodes what the run ends with
    model = identify_model(family, decoders=not is_plain)
    if model is None:
        return None
    return (
        model,
        json.dumps(request.to_json(), sort_keys=True),
        resolved.levels,
        () if request.start.key == Request.start.key else _stamp_folder(family.components.get("fitted_starts")),
        _stamp_learned(resolved, family),
        () if request.sliders.key == Request.sliders.key else _stamp_folder(family.directions_folder),
    )


def _stamp_learned(resolved: ResolvedRun, family: Family) -> tuple[Hashable, ...]:
    """Stamps of the learned schedules, which may bring factors beside their levels."""
    if resolved.request.schedule.key != "learned":
        return ()
    return tuple(stamp for folder in family.learned.folders for stamp in _stamp_folder(folder))


def _stamp_folder(folder: object) -> tuple[Hashable, ...]:
    if not isinstance(folder, Path) or not folder.is_dir():
        return ()
    return tuple(file_stamp(path) for path in sorted(folder.rglob("*")) if path.is_file())


def identify_texts(
    family: Family, texts: Mapping[str, str], shape: Iterable[Hashable], weighting: str
) -> Hashable | None:
    """Name the conditionings that a model makes of texts; None where nothing names them.

    Args:
        family: the loaded model, its LoRAs applied.
        texts: by name, as `Family.encode_texts` takes them.
        shape: rows, width and height.
        weighting: what weights do.
    """
    model = identify_model(family, decoders=False)
    return None if model is None else ("texts", model, tuple(texts.items()), tuple(shape), weighting)
