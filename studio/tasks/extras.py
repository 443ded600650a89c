"""What a request takes besides its model and its LoRAs: parts of the models folder, and pictures that steer it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.controls import SLIDERS
from pipelines.controls.direction_files import FOLDER, read_directions
from pipelines.core.errors import SettingsError
from pipelines.core.types import Request
from pipelines.models.companions import explain_guidance, find_companions
from pipelines.models.steering_choice import find_extra_steering
from pipelines.models.vaes import find_vae
from pipelines.requests.extras import find_extras
from studio.tasks.pictures import read_picture

if TYPE_CHECKING:
    from pipelines.families.base import Family
    from studio.tasks.context import TaskContext

__all__ = ["STEERED", "give_pictures", "keep_pictures", "require_extras"]

STEERED = ("control", "t2i_adapter", "image_prompt")
"""Fields of a request that bring pictures."""

PICTURES = ("picture", "second_picture")
"""Their settings that name one."""


def keep_pictures(values: Mapping[str, object], context: TaskContext) -> Mapping[str, Any]:
    """Return untrusted values with the names of the pictures that they bring, which are kept, in their place.

    Raises:
        PictureError: one is no picture.
    """
    changed = dict(values)
    for field in STEERED:
        choice = values.get(field)
        if isinstance(choice, Mapping):
            names = {one: _keep(choice[one], context) for one in PICTURES if choice.get(one)}
            changed[field] = {**choice, **names}
    return changed


def _keep(picture: object, context: TaskContext) -> str:
    """The name of a picture, which is kept unless it is already."""
    if isinstance(picture, str) and context.given.has(picture):
        return picture
    if isinstance(picture, str) and len(picture) == _DIGEST:
        context.given.read(picture)  # says that it is gone
    return context.given.add(read_picture(picture))


_DIGEST = 64
"""Letters of a picture's name."""


def require_extras(request: Request, context: TaskContext) -> None:
    """Refuse parts and pictures that are not there or that do not fit the request's model, before anything is loaded.

    Raises:
        UnknownMethodError: there is none of this name.
        SettingsError: it does not fit.
        PictureError: a picture is not here.
        ModelMissingError: a part that another one needs is not here.
    """
    extras, entry = find_extras(request), context.catalog[request.model]
    if extras.vae:
        find_vae(context.catalog.vaes(), extras.vae, entry)
    find_extra_steering(context.catalog, extras, entry)
    find_companions(context.catalog, extras.companions, entry)
    own = context.traits(request.model)
    for key in extras.companions:
        theirs = context.traits(key)
        if own and theirs and own.guidance != theirs.guidance:
            raise SettingsError(explain_guidance(context.catalog[key].label))
    for name in _list_names(request):
        context.given.read(name)
    if sliders := SLIDERS.build(request.sliders):
        directions = read_directions(context.catalog.folder / FOLDER, sliders.settings.file, request.model)
        searched = request.search.key != Request.search.key
        sliders.require_fit(directions, request.model, (request.width, request.height), searched)


def give_pictures(family: Family, requests: Iterable[Request], context: TaskContext) -> None:
    """Give a model that a job borrowed the pictures that steer its runs.

    Raises:
        PictureError: one is not here any more.
    """
    names = {name for request in requests for name in _list_names(request)}
    family.pictures = {name: context.given.read(name) for name in names}


def _list_names(request: Request) -> list[str]:
    settings = [getattr(request, field).settings for field in STEERED]
    return [str(one[name]) for one in settings for name in PICTURES if one.get(name)]
