"""The one table form in which every method of the studio is registered.

A method is one file with a frozen settings dataclass, the mathematics, and one `Method` line in its
folder's table. Page controls, command line, API, comparison grid, benchmark and the tables of docs/methods.md
are all derived from that line.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from pipelines.core.errors import MethodFitError, SettingsError, UnknownMethodError
from pipelines.core.types import Choice, Traits, is_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Method", "NoSettings", "Table", "own_loop_only", "parse_settings", "setting", "setting_type"]

Built = TypeVar("Built", covariant=True)
"""What a table's methods build: a `Sampler`, a `Schedule`, ..."""

Settings = TypeVar("Settings", bound="DataclassInstance")
Value = TypeVar("Value", bound="bool | int | float | str")
Default = TypeVar("Default")


def setting(
    default: Value,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | tuple[int, ...] | None = None,
    label: str | None = None,
    lines: int = 1,
) -> Value:
    """Describe one field of a settings dataclass, with all that a page, a command line and an API need.

    Args:
        default: the value used when nothing is chosen; its type is the field's annotation.
        help: one sentence for the person, in plain words.
        low, high: inclusive range of a number.
        step: the slider's increment.
        choices: the allowed values of a choice.
        label: shown on the page; by default the field's name in words.
        lines: of a text's box on the page.
    """
    bounds = {"low": low, "high": high, "step": step, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help, **bounds, "label": label, "lines": lines})


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """The settings of a method that has nothing to set."""


@dataclasses.dataclass(frozen=True)
class Method(Generic[Built]):
    """A method is one line of a table whose methods build a `Built`.

    Attributes:
        key: the stable name in files, API and command line, e.g. "dpmpp_2m".
        label: the name on the screen, the literature's own.
        make: builds the method from an instance of `settings`.
        settings: a frozen dataclass whose fields were made by `setting`.
        fit: given a model's `Traits`, None when the method fits, else the reason why not.
        paper: source as "Authors, title, arXiv:number".
        help: one sentence for the person.
        groups: families of methods that a person may choose all at once, e.g. "first order".
        schedule: of a sampler, the schedule that it takes on diffusion models where a request names none; "" for the
            model's own.
        fit_settings: given an instance of `settings` and the `Traits` of a model that fits, None when these settings
            do, else the reason why not.
    """

    key: str
    label: str
    make: Callable[..., Built]
    settings: type[DataclassInstance] = NoSettings
    fit: Callable[..., str | None] = lambda traits: None
    paper: str = ""
    help: str = ""
    groups: tuple[str, ...] = ()
    schedule: str = ""
    fit_settings: Callable[..., str | None] = lambda settings, traits: None

    def build(self, values: Mapping[str, object] | None = None) -> Built:
        """Build the method with these settings (names to plain values, checked).

        Raises:
            SettingsError: an unknown setting, or a value outside its range.
        """
        return self.make(parse_settings(self.settings, values or {}, self.label))

    def require_fit(self, traits: object, values: Mapping[str, object] | None = None) -> None:
        """Check whether this method fits a model.

        Args:
            traits: of the model, mostly `Traits`.
            values: the method's settings; None asks for no more than whether there are settings that fit.

        Raises:
            MethodFitError: it doesn't, and why.
            SettingsError: an unknown setting, or a value outside its range.
        """
        reason = self.fit(traits)
        if not reason and values is not None:
            reason = self.fit_settings(parse_settings(self.settings, values, self.label), traits)
        if reason:
            raise MethodFitError(f"{self.label} does not fit this model: {reason}")


def own_loop_only(traits: Traits) -> str | None:
    """Say why a model that runs through its own pipeline does not fit; the `fit` of what only the studio's own loop can
    do."""
    reason = "it runs through its own pipeline, which brings its own sampler, schedule and noise. Leave this choice out"
    return reason if traits.backbone == "pipeline" else None


class Table(Mapping[str, Method[Built]]):
    """A table is an ordered, read-only mapping from key to method.

    Args:
        kind: what the methods are, for messages: "sampler", "schedule", ...
        methods: the lines, in the order in which a page lists them.
        fit: of all of them, asked before each one's own.
    """

    def __init__(self, kind: str, methods: list[Method[Built]], fit: Callable[..., str | None] | None = None):
        self.kind = kind
        if fit is not None:
            methods = [dataclasses.replace(method, fit=_chain_fits(fit, method.fit)) for method in methods]
        self._methods = {method.key: method for method in methods}
        if len(self._methods) != len(methods):
            raise ValueError(f"two {kind}s share a key")

    def __getitem__(self, key: str) -> Method[Built]:
        try:
            return self._methods[key]
        except (KeyError, TypeError):
            raise UnknownMethodError(self.kind, key, self._methods) from None

    def __contains__(self, key: object) -> bool:
        return key in self._methods

    @overload
    def get(self, key: str, /) -> Method[Built] | None: ...
    @overload
    def get(self, key: str, /, default: Method[Built] | Default) -> Method[Built] | Default: ...
    def get(self, key: str, /, default: Method[Built] | Default | None = None) -> Method[Built] | Default | None:
        """Find the method of this key, or the default; `Mapping.get` would raise, as `__getitem__` does."""
        return self._methods.get(key, default)

    def build(self, choice: Choice) -> Built:
        """Build the chosen method with its settings.

        Raises:
            SettingsError: an unknown method or setting, or a value outside its range.
        """
        return self[choice.key].build(choice.settings)

    def require(self, choice: Choice, subject: object = None) -> None:
        """Refuse a choice that cannot be; the one validation of methods for requests of every kind.

        Args:
            choice: untrusted.
            subject: what the method must fit, mostly a model's `Traits`; None leaves that unasked.

        Raises:
            SettingsError: an unknown method or setting, or a value outside its range.
            MethodFitError: the method does not fit.
        """
        method = self[choice.key]
        parse_settings(method.settings, choice.settings, method.label)
        if subject is not None:
            method.require_fit(subject)

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    @property
    def groups(self) -> list[str]:
        """The names of families of methods, in the order in which the table first has them."""
        return list(dict.fromkeys(name for method in self.values() for name in method.groups))

    def group(self, name: str) -> list[Method[Built]]:
        """List the methods of a family, in the table's order.

        Raises:
            UnknownMethodError: there is none of this name, in capitals or not.
        """
        methods = [one for one in self.values() if name.lower() in {group.lower() for group in one.groups}]
        if not methods:
            raise UnknownMethodError(f"family of {self.kind}s", name, self.groups)
        return methods

    def fitting(self, traits: object) -> list[Method[Built]]:
        """List the methods that fit a subject, mostly a model's `Traits`, in the table's order."""
        return [method for method in self.values() if not method.fit(traits)]


def _chain_fits(first: Callable[..., str | None], second: Callable[..., str | None]) -> Callable[..., str | None]:
    return lambda traits: first(traits) or second(traits)


def setting_type(cls: type[DataclassInstance], name: str) -> type:
    """Find the plain type (bool, int, float or str) of a settings dataclass's field."""
    kind: type = typing.get_type_hints(cls)[name]
    return kind


def parse_settings(cls: type[Settings], values: Mapping[str, object], label: str = "") -> Settings:
    """Make an instance of a settings dataclass of untrusted names and plain values.

    Args:
        cls: the frozen dataclass.
        values: field name to value, as a page, a JSON body or a command line gives them.
        label: the method's label, for messages.

    Raises:
        SettingsError: a name that is no field, a value of the wrong type, or one out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise UnknownMethodError(f"setting of {label or cls.__name__}", unknown[0], fields)
    return cls(**{name: _check_value(cls, fields[name], value, label) for name, value in values.items()})


def _check_value(
    cls: type[DataclassInstance], field: dataclasses.Field[object], raw_value: object, label: str
) -> bool | int | float | str:
    kind = setting_type(cls, field.name)
    name = f"{label + ': ' if label else ''}{field.metadata.get('label') or field.name.replace('_', ' ')}"
    value = _convert(kind, raw_value, name)
    choices, low, high = (field.metadata.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        raise SettingsError(f"{name} is {str(value)[:80]!r}. Choose one of: {', '.join(map(str, choices))}.")
    if (low is not None and value < low) or (high is not None and value > high):
        raise SettingsError(f"{name} is {value}. Choose a value from {low} to {high}.")
    return value


def _convert(kind: type, value: object, name: str) -> bool | int | float | str:
    words = {bool: "yes or no", int: "a whole number", float: "a number", str: "text"}[kind]
    error = SettingsError(f"{name} is {str(value)[:80]!r}. It must be {words}.")
    if kind is bool:
        if not isinstance(value, bool):
            raise error
        return value
    if kind is str:
        if not is_text(value):
            raise error
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise error
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise error from None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise error
    return int(number) if kind is int else number
