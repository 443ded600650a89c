"""A tab's own settings, besides the fields of a Request: which ones a link or a result may bring, and their checks.

Neither is believed: what stands in no tab's list is not looked at, numbers are moved within the caps, and anything else
that does not fit is left out with a sentence. No setting here names a model, a file, an address or a run.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pipelines.core.choice_text import parse_choice
from pipelines.core.errors import SettingsError, StepwiseError, UnknownMethodError
from pipelines.core.registry import Table, parse_settings
from pipelines.core.types import Choice

__all__ = [
    "Chosen",
    "ChosenSeveral",
    "Flag",
    "Keys",
    "OneOf",
    "Setting",
    "Text",
    "Whole",
    "accept_settings",
    "format_choice",
    "read_choice",
    "write_settings",
]


class Setting(Protocol):
    """Says how one setting is written in a link, read from it, and checked."""

    def read(self, text: str) -> Any:
        """Read the plain value of an untrusted text, unchecked; SettingsError for what cannot be read."""

    def write(self, value: object) -> str:
        """Write the text that `read` reads back."""

    def check(self, value: object, model: str) -> tuple[Any, str]:
        """Return an untrusted value as the tab can show it, and a sentence on what was changed; SettingsError if it
        cannot.

        Args:
            value: plain.
            model: key of the model that it is meant for; "" for the tab's first.
        """


def accept_settings(
    settings: Mapping[str, Setting], values: object, model: str, texts: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Return what a tab can show of untrusted values, and a sentence for each that was left out or moved.

    Args:
        settings: of the tab.
        values: name to plain value; names that are no setting's are not looked at.
        model: as in `Setting.check`.
        texts: whether the values are texts of a link.
    """
    accepted_values, notes = {}, []
    for name, setting in settings.items():
        if not isinstance(values, Mapping) or name not in values:
            continue
        try:
            value = setting.read(values[name]) if texts else values[name]
            accepted_values[name], note = setting.check(value, model)
            notes += [f"{name.replace('_', ' ').capitalize()}: {note}"] if note else []
        except StepwiseError as error:
            notes.append(f"The {name.replace('_', ' ')} was not loaded. {error}")
    return accepted_values, notes


def write_settings(settings: Mapping[str, Setting], values: Mapping[str, object]) -> dict[str, str]:
    """Write the parameters of a link for these values."""
    return {name: setting.write(values[name]) for name, setting in settings.items() if name in values}


def format_choice(choice: Mapping[str, Any]) -> str:
    """Write a method with its settings as `read_choice` reads it: "ddim,eta=0.5", or JSON where that would be
    ambiguous."""
    if any(isinstance(value, str) for name, value in choice.items() if name != "key"):
        return _write_json(choice)
    return "".join(
        [choice["key"], *(f",{name}={_write_json(value)}" for name, value in choice.items() if name != "key")]
    )


def read_choice(text: str) -> dict[str, Any]:
    """Read a method with its settings.

    Raises:
        SettingsError: it is none.
    """
    return Choice.parse(_read_json(text)).to_json() if text.startswith("{") else parse_choice(text)


def _write_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise SettingsError(f"{text[:80]!r} cannot be read.") from None


def _strip_unprintable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")


@dataclasses.dataclass(frozen=True)
class Text:
    """Accepts words of a person's own, up to so many characters."""

    longest: int

    def read(self, text: str) -> str:
        return text

    def write(self, value: object) -> str:
        return str(value or "")

    def check(self, value: object, model: str) -> tuple[str, str]:
        if not isinstance(value, str) or len(value) > self.longest:
            raise SettingsError(f"It must be a text of at most {self.longest} characters.")
        return _strip_unprintable(value), ""


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Accepts one of a few words.

    Attributes:
        kind: what they are, for messages.
        choices: gives those allowed now.
    """

    kind: str
    choices: Callable[[], Sequence[str]]

    def read(self, text: str) -> str:
        return text

    def write(self, value: object) -> str:
        return str(value or "")

    def check(self, value: object, model: str) -> tuple[str, str]:
        if value not in (choices := list(self.choices())):
            raise UnknownMethodError(self.kind, value, filter(None, choices))
        return value, ""


@dataclasses.dataclass(frozen=True)
class Whole:
    """Accepts a whole number within a server's caps, both ends allowed."""

    low: int
    high: int

    def read(self, text: str) -> Any:
        return _read_json(text)

    def write(self, value: Any) -> str:
        return str(int(value))

    def check(self, value: object, model: str) -> tuple[int, str]:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SettingsError(f"{str(value)[:80]!r} is not a whole number.")
        clamped = min(max(int(value), self.low), self.high)
        return clamped, "" if clamped == value else f"{str(value)[:20]} was moved to {clamped}."


@dataclasses.dataclass(frozen=True)
class Flag:
    """Accepts yes or no."""

    def read(self, text: str) -> Any:
        return {"yes": True, "no": False}.get(text, text)

    def write(self, value: object) -> str:
        return "yes" if value else "no"

    def check(self, value: object, model: str) -> tuple[bool, str]:
        if not isinstance(value, bool):
            raise SettingsError(f"{str(value)[:80]!r} is neither yes nor no.")
        return value, ""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Accepts a method of a table with its settings.

    Attributes:
        table: of the methods.
        subject: from a model's key to what the methods must fit; None where that is not known.
    """

    table: Table
    subject: Callable[[str], Any]

    def read(self, text: str) -> Any:
        return read_choice(text)

    def write(self, value: Any) -> str:
        return format_choice(value)

    def check(self, value: object, model: str) -> tuple[dict[str, Any], str]:
        choice = Choice.parse(value)
        method = self.table[choice.key]
        settings = parse_settings(method.settings, choice.settings, method.label)
        if (subject := self.subject(model)) is not None:
            method.require_fit(subject)
        return {"key": choice.key, **{name: getattr(settings, name) for name in choice.settings}}, ""


@dataclasses.dataclass(frozen=True)
class ChosenSeveral:
    """Accepts methods of a table, each at most once, since a form shows each once.

    Attributes:
        one: checks each.
        most: that are looked at.
    """

    one: Chosen
    most: int

    def read(self, text: str) -> Any:
        return _read_json(text) if text.startswith("[") else [read_choice(part) for part in text.split(";") if part]

    def write(self, value: Any) -> str:
        texts = [self.one.write(choice) for choice in value]
        is_plain = not any(mark in text for text in texts for mark in ("{", ";"))
        return ";".join(texts) if is_plain else _write_json(list(value))

    def check(self, value: object, model: str) -> tuple[list[dict[str, Any]], str]:
        if not isinstance(value, (list, tuple)) or len(value) > self.most:
            raise SettingsError(f"It must be a list of at most {self.most} methods.")
        choices_by_key: dict[str, dict[str, Any]] = {}
        repeated: list[str] = []
        for choice in value:
            checked = self.one.check(choice, model)[0]
            if checked["key"] in choices_by_key:
                repeated.append(checked["key"])
            choices_by_key.setdefault(checked["key"], checked)
        note = f"{', '.join(repeated)} can be shown once only; the first was loaded." if repeated else ""
        return list(choices_by_key.values()), note


@dataclasses.dataclass(frozen=True)
class Keys:
    """Accepts the prompts and seeds that a walk goes on to.

    Attributes:
        longest: characters of a prompt.
        most: that are shown.
    """

    longest: int
    most: int

    def read(self, text: str) -> Any:
        return _read_json(text)

    def write(self, value: Any) -> str:
        return _write_json(list(value))

    def check(self, value: object, model: str) -> tuple[list[dict[str, Any]], str]:
        if not isinstance(value, (list, tuple)) or not all(isinstance(key, Mapping) for key in value):
            raise SettingsError("It must be a list of prompts and seeds.")
        keys = [self._key(key) for key in value[: self.most]]
        return keys, "" if len(value) <= self.most else f"only the first {self.most} of {len(value)} can be shown."

    def _key(self, key: Mapping[str, object]) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        if key.get("prompt") is not None:
            entry["prompt"] = Text(self.longest).check(key["prompt"], "")[0]
        if (seed := key.get("seed")) is not None:
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
                raise SettingsError(f"The seed {str(seed)[:40]!r} is not a whole number from 0 to 2^63 - 1.")
            entry["seed"] = seed
        return entry
