"""What the pictures and further models of a request add to its run's evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipelines.controls import CONTROLS, ENSEMBLES, IMAGE_PROMPTS, SLIDERS, T2I_ADAPTERS
from pipelines.core.errors import PictureError
from pipelines.core.prediction import Addition
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.families.latent_model import LatentModel

__all__ = ["build_additions"]


def build_additions(
    request: Request,
    family: Family | LatentModel,
    shares: Sequence[float],
    lay: Callable[[np.ndarray, str], np.ndarray] = lambda pixels, fit: pixels,
) -> list[Addition]:
    """Build what the evaluations of a run are given besides its prompt.

    Args:
        request: with its final size.
        family: the loaded model with the parts that the request names, and with the pictures.
        shares: of the strength, for each sample of the run.
        lay: brings the control picture, with its resize mode, over the picture that is drawn.

    Raises:
        PictureError: a picture is not there.
    """
    size = (request.width, request.height)
    additions: list[Addition | None] = []
    if control := CONTROLS.build(request.control):
        pixels = lay(_find_picture(family, control.settings.picture), control.settings.fit)
        additions.append(control.build(family, pixels, size, shares))
    if adapters := T2I_ADAPTERS.build(request.t2i_adapter):
        own = adapters.settings
        names = [own.picture, own.second_picture] if own.second else [own.picture]
        pictures = [lay(_find_picture(family, name), own.fit) for name in names]
        additions.append(adapters.build(family, pictures, size, shares))
    if image_prompt := IMAGE_PROMPTS.build(request.image_prompt):
        additions.append(image_prompt.build(family, _find_picture(family, image_prompt.settings.picture), shares))
    if (ensemble := ENSEMBLES.build(request.ensemble)) and isinstance(family, Family) and family.companions:
        additions.append(ensemble.build(family, shares))
    if (sliders := SLIDERS.build(request.sliders)) and isinstance(family, Family):
        additions.append(sliders.build(family, shares))
    return [addition for addition in additions if addition is not None]


def _find_picture(family: Family | LatentModel, name: str) -> np.ndarray:
    if name not in family.pictures:
        raise PictureError("The picture that steers this run is not here any more. Choose it again.")
    return family.pictures[name]
