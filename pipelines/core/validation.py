"""The checks that requests of every kind share, each with one sentence for the person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.types import is_whole

__all__ = [
    "read_flag",
    "read_object",
    "read_whole",
    "require_fields",
    "require_one_picture",
    "require_range",
]


def require_fields(values: Mapping[str, object], fields: Iterable[str], kind: str) -> None:
    """Refuse a request with a field that its kind does not have.

    Args:
        values: untrusted.
        fields: names of the fields.
        kind: of request, for the message: "a comparison".

    Raises:
        UnknownMethodError: the first such field.
    """
    names = list(fields)
    for name in values:
        if name not in names:
            raise UnknownMethodError(f"setting of {kind}", name, names)


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise SettingsError unless low <= value <= high."""
    if not low <= value <= high:
        raise SettingsError(f"The {name} is {value}. Choose a value from {low} to {high}.")


def require_one_picture(batch_size: int, reason: str) -> None:
    """Raise SettingsError, with the reason as a sentence, unless a batch is one picture."""
    if batch_size != 1:
        raise SettingsError(f"The batch size is {batch_size}. {reason}: choose 1.")


def read_object(value: object, name: str) -> Mapping[str, object]:
    """Read an object of settings, such as the "base of an edit".

    Raises:
        SettingsError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise SettingsError(f"The {name} is given as {str(value)[:80]!r}. Give an object of settings.")
    return value


def read_flag(value: object, name: str) -> bool:
    """Read a yes or no.

    Raises:
        SettingsError: it is something else.
    """
    if not isinstance(value, bool):
        raise SettingsError(f"The {name} is {str(value)[:80]!r}. It must be true or false.")
    return value


def read_whole(value: object, name: str, low: int, high: int) -> int:
    """Read a whole number from low to high.

    Raises:
        SettingsError: it is something else, or out of range.
    """
    if not is_whole(value):
        raise SettingsError(f"The {name} is {str(value)[:80]!r}. It must be a whole number from {low} to {high}.")
    require_range(name, int(value), low, high)
    return int(value)
