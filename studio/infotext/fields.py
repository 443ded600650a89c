"""Untrusted values on their way into a request: a whitelist of fields, types checked, ranges kept."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.core.types import MAX_PROMPT
from studio.infotext.names import UNSAID, sampler_choice, schedule_choice

__all__ = ["MAX_GRAPH", "MAX_LORAS", "MAX_TEXT", "NAMED_LORAS", "Collector", "Restored", "parse_object"]

MAX_TEXT = 64 * 1024
"""Characters of a text that are parsed at all."""

MAX_GRAPH = 2 * 2**20
"""The same of a graph of nodes, which may be large."""

MAX_LORAS = 16

NAMED_LORAS = "The picture names LoRAs"
"""Begins the note on them."""

MAX_SETTINGS = 32
MAX_DEPTH = 40

RANGES: dict[str, tuple[float, float]] = {
    "num_inference_steps": (1, 1000),
    "width": (16, 8192),
    "height": (16, 8192),
    "batch_size": (1, 64),
    "variation_strength": (0.0, 1.0),
}
"""Outside these a number is moved to the nearer end, with a note; a server's own caps come in `Restored.within`."""

LARGEST_SEED = 2**63 - 1
GUIDANCE_SCALES = (0.0, 30.0)

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}\Z")


@dataclasses.dataclass(frozen=True)
class Restored:
    """Holds the settings found in a picture, as plain text and numbers (escape them before they become HTML).

    Attributes:
        values: fields of `pipelines.core.types.Request` in the form that `Request.parse` reads; never `model`, and
            `loras` only once they were looked up among those here. A field that is not here was not in the picture.
        notes: one sentence for each thing that was not taken over, and why.
        source: "stepwise", "a1111", "forge", "sdnext", "comfyui", "invokeai", "swarmui", "fooocus", "novelai",
            "drawthings", "diffusionbee" or "easydiffusion".
        model: the model's name as the picture gives it; reported, never loaded for its name's sake.
        loras: {"name": ..., "weight": ...} as the picture gives them; reported likewise.
        equality: one sentence on whether the picture comes out the same as the other program's; empty for ours.
        asked: field to the number of it that was moved into its range, and the note that says so.
    """

    values: dict[str, Any]
    notes: list[str]
    source: str
    model: str = ""
    loras: tuple[dict[str, Any], ...] = ()
    equality: str = ""
    asked: Mapping[str, tuple[float, str]] = dataclasses.field(default_factory=dict)

    def within(self, ranges: Mapping[str, tuple[float, float]]) -> Restored:
        """Return a copy whose numbers lie within a server's caps, with a note for each that was moved.

        Args:
            ranges: field to lowest and highest value; a size of 0, the model's own, stays.
        """
        collector = Collector(self.source)
        collector.notes = list(self.notes)
        clamped = {}
        for name, (low, high) in ranges.items():
            number = self.values.get(name)
            if number and not low <= number <= high and name in self.asked:  # moved before: said once, as it was asked
                number, said = self.asked[name]
                collector.notes = [note for note in collector.notes if note != said]
            if number:
                clamped[name] = collector.clamp(name, number, (low, high))
        equality = "" if collector.moved else self.equality
        return dataclasses.replace(self, values=self.values | clamped, notes=collector.notes, equality=equality)

    def with_named_models(self) -> dict[str, Any]:
        """Return the values with the model and the LoRAs, for a caller that looks both up among those it has."""
        model = {"model": self.model} if self.model else {}
        return {**self.values, **model, "loras": [dict(lora) for lora in self.loras]}


def parse_object(text: str, max_length: int = MAX_TEXT) -> dict[str, Any] | None:
    """Parse the JSON object in an untrusted text; return None where it is none, too deeply nested, or longer than
    `max_length`."""
    if len(text) > max_length or not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, parse_constant=lambda name: None)  # ComfyUI writes NaN
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not _is_too_deep(value) else None


def _is_too_deep(value: object) -> bool:
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [
            child
            for item in layer
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not layer:
            return False
    return True


class Collector:
    """Takes fields one by one and becomes a `Restored`; what it refuses ends up in a note.

    Args:
        source: as in `Restored`.
        programs: whose method names are given, fields of `names.Names`; empty for our own keys.
    """

    def __init__(self, source: str, programs: str | tuple[str, ...] = ()):
        self.source, self.programs = source, programs
        self.values: dict[str, Any] = {}
        self.notes: list[str] = []
        self.model = ""
        self.loras: list[dict[str, Any]] = []
        self.equality = ""
        self.moved: list[str] = []
        """Names of the numbers that were moved into their ranges, and of the texts that were cut."""
        self.asked: dict[str, tuple[float, str]] = {}
        """As in `Restored`."""
        self.written = False
        """Whether names may be those that we write, which stand for our own methods."""

    def take_text(self, name: str, value: object) -> None:
        """Take a prompt: NUL, other control characters and lone surrogates are dropped, the length is capped."""
        if not isinstance(value, str):
            return self._refuse(name, value, "it is not text")
        value = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "", value)
        if len(value) > MAX_PROMPT:
            self.moved.append(_words(name))
            self.note(f"The {_words(name)} has {len(value)} characters; only the first {MAX_PROMPT} were taken over.")
        self.values[name] = value[:MAX_PROMPT]

    def take_number(self, name: str, value: object) -> None:
        """Take a whole number or, for variation_strength, any number; moved into its range."""
        number = _number(value)
        is_whole = name != "variation_strength"
        if number is None or (is_whole and number != int(number)):
            return self._refuse(name, value, f"it is not a {'whole ' if is_whole else ''}number")
        if name in {"seed", "variation_seed"}:
            if not 0 <= number <= LARGEST_SEED:
                return self._refuse(name, value, f"a seed lies between 0 and {LARGEST_SEED}")
        elif name in {"width", "height"} and number == 0 and self.source == "stepwise":
            pass  # ours: the model's own size
        else:
            number = self.clamp(name, number, RANGES[name])
        self.values[name] = int(number) if is_whole else float(number)

    def take_guidance_scale(self, value: object) -> None:
        """Take the strength of classifier-free guidance."""
        number = _number(value)
        if number is None:
            return self._refuse("guidance_scale", value, "it is not a number")
        self.values["guidance"] = {
            "key": "cfg",
            "guidance_scale": float(self.clamp("guidance scale", number, GUIDANCE_SCALES)),
        }

    def take_sampler(self, name: object) -> None:
        """Take a sampler under the other program's name; an unknown one is reported."""
        if isinstance(name, str) and name.casefold() in UNSAID:
            return None
        choice = sampler_choice(name, self.programs, self.written) if isinstance(name, str) else None
        if choice is None:
            return self._refuse("sampler", name, "this studio has none that is the same")
        self.values["sampler"] = choice

    def take_schedule(self, name: object) -> None:
        """Take a schedule under the other program's name; an unknown one is reported."""
        if isinstance(name, str) and name.casefold() in UNSAID:
            return None
        choice = schedule_choice(name, self.programs, self.written) if isinstance(name, str) else None
        if choice is None:
            return self._refuse("schedule", name, "this studio has none that is the same")
        self.values["schedule"] = choice

    def take_choice(self, name: str, value: object) -> None:
        """Take a method by our own key with its settings; whether both exist is checked when a request is made."""
        if isinstance(value, str):
            value = {"key": value}
        if not isinstance(value, Mapping) or len(value) > MAX_SETTINGS or not _identifier(value.get("key")):
            return self._refuse(name, value, "it is not the key of a method")
        wrong = [key for key, plain in value.items() if not _identifier(key) or not _plain(plain)]
        if wrong:
            return self._refuse(name, value, "its settings are not plain values")
        self.values[name] = dict(value)

    def take_setting(self, name: str, setting: str, value: object) -> None:
        """Take a number among the settings of a method that was taken already."""
        number = _number(value)
        if number is None:
            return self._refuse(setting, value, "it is not a number")
        self.values[name] = {**self.values[name], setting: float(number)}

    def take_model(self, name: object) -> None:
        """Take the model's name, for the report."""
        if isinstance(name, str) and name.strip():
            self.model = _shorten(name.strip(), 200)

    def take_lora(self, name: object, weight: object = 1.0) -> None:
        """Take a LoRA's name and weight, for the report."""
        number = _number(weight)
        if self.source != "stepwise" and isinstance(name, str) and name.strip().casefold() in ("", "none"):
            return None  # nothing chosen
        if not isinstance(name, str) or not name.strip() or number is None or not -4 <= number <= 4:
            return self._refuse("LoRA", name, "it needs a name and a weight from -4 to 4")
        if len(self.loras) < MAX_LORAS:
            return self.loras.append({"name": _shorten(name.strip(), 200), "weight": float(number)})
        return self.note(f"Only the first {MAX_LORAS} LoRAs were read.")

    def note_ignored(self, names: Iterable[str]) -> None:
        """Note settings of the other program that this studio does not have."""
        ignored = sorted({_shorten(str(name), 40) for name in names})
        if ignored:
            more = f" and {len(ignored) - 12} more" if len(ignored) > 12 else ""
            self.note(f"Not taken over: {', '.join(ignored[:12])}{more}.")

    def note(self, sentence: str) -> None:
        """Add a sentence once."""
        if sentence not in self.notes and len(self.notes) < 40:
            self.notes.append(sentence)

    def clamp(self, name: str, number: float, limits: tuple[float, float]) -> float:
        """Move a number into its range, with a note if it was not there."""
        low, high = limits
        clamped = min(max(number, low), high)
        if clamped != number:
            self.moved.append(_words(name))
            note = (
                f"The {_words(name)} {_shorten(str(number), 40)} was moved to {clamped:g}: "
                f"it lies between {low:g} and {high:g} here."
            )
            self.note(note)
            self.asked[name] = (number, note)
        return clamped

    def finish(self) -> Restored | None:
        """Return all that was collected; None when there was nothing."""
        if self.model and self.source != "stepwise":
            self.note(f"The picture names the model {self.model!r}: choose it yourself if you have it.")
        if self.loras and self.source != "stepwise":
            names = ", ".join(f"{lora['name']!r} at {lora['weight']:g}" for lora in self.loras)
            self.note(f"{NAMED_LORAS} ({names}): choose them yourself if you have them.")
        if not self.values and not self.notes and not self.loras:
            return None
        return Restored(self.values, self.notes, self.source, self.model, tuple(self.loras), self.equality, self.asked)

    def _refuse(self, name: str, value: object, why: str) -> None:
        self.note(f"The {_words(name)} {_shorten(str(value), 80)!r} was not taken over: {why}.")


def _number(value: object) -> int | float | None:
    # int and float by value, or as text; integers stay exact: a seed has up to 63 bits.
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,24}\s*", value):
        return int(value)
    if isinstance(value, str) and len(value) <= 40:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e24 or math.isnan(value):
        return None
    return value


def _identifier(name: object) -> bool:
    return isinstance(name, str) and bool(_IDENTIFIER.match(name))


def _plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 200
    return isinstance(value, bool) or _number(value) is not None


def _words(name: str) -> str:
    return name.replace("_", " ").replace("num inference steps", "number of steps")


def _shorten(text: str, length: int) -> str:
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", " ", text)[:length]
