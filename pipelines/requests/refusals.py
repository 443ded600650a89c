"""What a kind of job does not do, refused before it is queued: each sentence begins with that kind."""

from __future__ import annotations

from pipelines.caches import CACHES
from pipelines.compatibility import COMPATIBILITIES
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.types import Request

__all__ = [
    "require_made_here",
    "require_no_story",
    "require_one_model",
    "require_one_pass",
    "require_own_parts",
    "require_uncached",
    "require_unsearched",
    "require_unsteered",
]


def require_one_pass(request: Request, what: str) -> None:
    """Refuse a second pass where none is run.

    Raises:
        SettingsError: there is one; `what` begins the sentence, e.g. "An edit".
    """
    if request.second_pass != Request.second_pass:
        raise SettingsError(
            f"{what} has no second pass. Set it to None ('none'), or enlarge the finished picture with Upscale."
        )


def require_unsearched(request: Request, what: str) -> None:
    """Refuse a search where none is made.

    Raises:
        SettingsError: there is one; `what` begins the sentence, e.g. "An edit".
    """
    if request.search.key != Request.search.key:
        raise SettingsError(f"{what} does not search. Set Search to No search ('none'), or use Text to image.")


def require_uncached(request: Request, what: str) -> None:
    """Refuse a cache where every evaluation counts.

    Raises:
        MethodFitError: there is one; `what` begins the sentence, e.g. "An edit that inverts its picture".
    """
    if request.cache.key != Request.cache.key:
        label = CACHES[request.cache.key].label
        raise MethodFitError(
            f"{what} needs whole evaluations, which {label} leaves out. Set Cache to No cache ('none')."
        )


def require_unsteered(request: Request, what: str) -> None:
    """Refuse a ControlNet, a T2I-Adapter and an IP-Adapter where none is run.

    Raises:
        SettingsError: there is one; `what` begins the sentence, e.g. "An edit".
    """
    if any(getattr(request, field).key != "none" for field in ("control", "t2i_adapter", "image_prompt")):
        raise SettingsError(f"{what} takes no ControlNet, no T2I-Adapter and no picture as prompt. Set them to none.")


def require_one_model(request: Request, what: str) -> None:
    """Refuse a composition of several models, and sliders, where one model is run as it is.

    Raises:
        SettingsError: there is one; `what` begins the sentence, e.g. "An edit".
    """
    if request.ensemble.key != Request.ensemble.key:
        raise SettingsError(f"{what} runs one model. Set Several models to One model ('none').")
    if request.sliders.key != Request.sliders.key:
        raise SettingsError(f"{what} has no sliders. Set Sliders to No sliders ('none').")


def require_no_story(request: Request, what: str) -> None:
    """Refuse a story where none is told.

    Raises:
        SettingsError: there is one; `what` begins the sentence, e.g. "An edit".
    """
    if request.story.key != Request.story.key:
        raise SettingsError(f"{what} tells no story. Set Story to No story ('none'), or use Text to image.")


def require_own_parts(request: Request, what: str) -> None:
    """Refuse parts of the models folder where only the model's own are used.

    Raises:
        SettingsError: there is one; `what` begins the sentence, e.g. "A fit".
    """
    if request.vae.key != Request.vae.key:
        raise SettingsError(f"{what} uses the model's own VAE. Set VAE to the model's own ('own').")
    require_unsteered(request, what)
    require_one_model(request, what)


def require_made_here(request: Request, what: str) -> None:
    """Refuse another program's rules where only this studio's are followed.

    Args:
        request: its `made_like` is looked at.
        what: is made, for the message, e.g. "An edit".

    Raises:
        SettingsError: it names another program.
    """
    if request.made_like.key != Request.made_like.key:
        label = COMPATIBILITIES[request.made_like.key].label
        raise SettingsError(
            f"{what} follows Stepwise's own rules only, not those of {label}. Set Made like to Stepwise ('here')."
        )
