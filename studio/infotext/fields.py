"""Untrusted values on their way into a request: a whitelist of fields, types checked, ranges kept."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.core.types import MAX_PROMPT
from studio.infotext.names import UNSAID, sampler_key, schedule_choice

__all__ = ["MAX_LORAS", "MAX_TEXT", "Collector", "Restored", "object_of"]

MAX_TEXT = 64 * 1024
"""Characters of a text that are parsed at all."""

MAX_LORAS = 16
MAX_SETTINGS = 32
MAX_DEPTH = 40

RANGES: dict[str, tuple[float, float]] = {
    "num_inference_steps": (1, 1000),
    "width": (16, 8192),
    "height": (16, 8192),
    "batch_size": (1, 64),
    "variation_strength": (0.0, 1.0),
}
"""Outside these a number is moved to the nearer end, and a note says so; a server's own caps come in `Restored.within`."""

LARGEST_SEED = 2**63 - 1
GUIDANCE_SCALES = (0.0, 30.0)

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}\Z")


@dataclasses.dataclass(frozen=True)
class Restored:
    """The settings found in a picture, as plain text and numbers (escape them before they become HTML).

    Attributes:
        values: fields of `pipelines.core.types.Request` in the form that `Request.parse` reads; never `model`, and
            `loras` only once they were looked up among those here. A field that is not here was not in the picture.
        notes: one sentence for each thing that was not taken over, and why.
        source: "stepwise", "a1111", "forge", "comfyui", "invokeai" or "swarmui".
        model: the model's name as the picture gives it; reported, never loaded for its name's sake.
        loras: {"name": ..., "weight": ...} as the picture gives them; reported likewise.
    """

    values: dict[str, Any]
    notes: list[str]
    source: str
    model: str = ""
    loras: tuple[dict[str, Any], ...] = ()

    def within(self, ranges: Mapping[str, tuple[float, float]]) -> Restored:
        """A copy whose numbers lie within a server's caps, with a note for each that was moved.

        Args:
            ranges: field to lowest and highest value; a size of 0, the model's own, stays.
        """
        collector = Collector(self.source)
        collector.notes = list(self.notes)
        moved = {
            name: collector.moved(name, self.values[name], allowed)
            for name, allowed in ranges.items()
            if self.values.get(name)
        }
        return dataclasses.replace(self, values=self.values | moved, notes=collector.notes)

    def with_named_models(self) -> dict[str, Any]:
        """The values with the model and the LoRAs, for a caller that looks both up among those it has."""
        model = {"model": self.model} if self.model else {}
        return {**self.values, **model, "loras": [dict(lora) for lora in self.loras]}


def object_of(text: str) -> dict[str, Any] | None:
    """The JSON object in an untrusted text, or None when there is none or it is nested too deeply."""
    if len(text) > MAX_TEXT or not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, parse_constant=lambda name: None)  # ComfyUI writes NaN
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not _too_deep(value) else None


def _too_deep(value: Any) -> bool:
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
        program: whose method names are given: a field of `names.Names`; empty for our own keys.
    """

    def __init__(self, source: str, program: str = ""):
        self.source, self.program = source, program
        self.values: dict[str, Any] = {}
        self.notes: list[str] = []
        self.model = ""
        self.loras: list[dict[str, Any]] = []

    def text(self, name: str, value: Any) -> None:
        """A prompt: NUL, other control characters and lone surrogates are dropped, the length is capped."""
        if not isinstance(value, str):
            return self._refuse(name, value, "it is not text")
        value = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "", value)
        if len(value) > MAX_PROMPT:
            self.note(f"The {_words(name)} has {len(value)} characters; only the first {MAX_PROMPT} were taken over.")
        self.values[name] = value[:MAX_PROMPT]

    def number(self, name: str, value: Any) -> None:
        """A whole number or, for variation_strength, any number; moved into its range."""
        number = _number(value)
        whole = name != "variation_strength"
        if number is None or (whole and number != int(number)):
            return self._refuse(name, value, f"it is not a {'whole ' if whole else ''}number")
        if name in {"seed", "variation_seed"}:
            if not 0 <= number <= LARGEST_SEED:
                return self._refuse(name, value, f"a seed lies between 0 and {LARGEST_SEED}")
        elif name in {"width", "height"} and number == 0 and self.source == "stepwise":
            pass  # ours: the model's own size
        else:
            number = self.moved(name, number, RANGES[name])
        self.values[name] = int(number) if whole else float(number)

    def guidance_scale(self, value: Any) -> None:
        """The strength of classifier-free guidance."""
        number = _number(value)
        if number is None:
            return self._refuse("guidance_scale", value, "it is not a number")
        self.values["guidance"] = {
            "key": "cfg",
            "guidance_scale": float(self.moved("guidance scale", number, GUIDANCE_SCALES)),
        }

    def sampler(self, name: Any) -> None:
        """A sampler under the other program's name; an unknown one is reported."""
        key = sampler_key(name, self.program) if isinstance(name, str) else None
        if key is None:
            return self._refuse("sampler", name, "this studio has none that is the same")
        self.values["sampler"] = {"key": key}

    def schedule(self, name: Any) -> None:
        """A schedule under the other program's name; an unknown one is reported."""
        if isinstance(name, str) and name.casefold() in UNSAID:
            return None
        choice = schedule_choice(name, self.program) if isinstance(name, str) else None
        if choice is None:
            return self._refuse("schedule", name, "this studio has none that is the same")
        self.values["schedule"] = choice

    def choice(self, name: str, value: Any) -> None:
        """A method by our own key with its settings; whether both exist is checked when a request is made."""
        if isinstance(value, str):
            value = {"key": value}
        if not isinstance(value, Mapping) or len(value) > MAX_SETTINGS or not _identifier(value.get("key")):
            return self._refuse(name, value, "it is not the key of a method")
        wrong = [key for key, plain in value.items() if not _identifier(key) or not _plain(plain)]
        if wrong:
            return self._refuse(name, value, "its settings are not plain values")
        self.values[name] = dict(value)

    def setting(self, name: str, setting: str, value: Any) -> None:
        """A number among the settings of a method that was taken already."""
        number = _number(value)
        if number is None:
            return self._refuse(setting, value, "it is not a number")
        self.values[name] = {**self.values[name], setting: float(number)}

    def named_model(self, name: Any) -> None:
        """The model's name, for the report."""
        if isinstance(name, str) and name.strip():
            self.model = _shown(name.strip(), 200)

    def named_lora(self, name: Any, weight: Any = 1.0) -> None:
        """A LoRA's name and weight, for the report."""
        number = _number(weight)
        if not isinstance(name, str) or not name.strip() or number is None or not -4 <= number <= 4:
            return self._refuse("LoRA", name, "it needs a name and a weight from -4 to 4")
        if len(self.loras) < MAX_LORAS:
            return self.loras.append({"name": _shown(name.strip(), 200), "weight": float(number)})
        return self.note(f"Only the first {MAX_LORAS} LoRAs were read.")

    def ignored(self, names: Iterable[str]) -> None:
        """Settings of the other program that this studio does not have."""
        shown = sorted({_shown(str(name), 40) for name in names})
        if shown:
            more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
            self.note(f"Not taken over, because this studio has no such setting: {', '.join(shown[:12])}{more}.")

    def note(self, sentence: str) -> None:
        """Add a sentence once."""
        if sentence not in self.notes and len(self.notes) < 40:
            self.notes.append(sentence)

    def moved(self, name: str, number: float, allowed: tuple[float, float]) -> float:
        """A number moved into its range, with a note if it was not there."""
        low, high = allowed
        kept = min(max(number, low), high)
        if kept != number:
            self.note(
                f"The {_words(name)} {_shown(str(number), 40)} was moved to {kept:g}: "
                f"it lies between {low:g} and {high:g} here."
            )
        return kept

    def restored(self) -> Restored | None:
        """All that was collected; None when there was nothing."""
        if self.model and self.source != "stepwise":
            self.note(f"The picture names the model {self.model!r}: choose it yourself if you have it.")
        if self.loras and self.source != "stepwise":
            names = ", ".join(f"{lora['name']!r} at {lora['weight']:g}" for lora in self.loras)
            self.note(f"The picture names LoRAs ({names}): choose them yourself if you have them.")
        if not self.values and not self.notes:
            return None
        return Restored(self.values, self.notes, self.source, self.model, tuple(self.loras))

    def _refuse(self, name: str, value: Any, why: str) -> None:
        self.note(f"The {_words(name)} {_shown(str(value), 80)!r} was not taken over: {why}.")


def _number(value: Any) -> int | float | None:
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


def _identifier(name: Any) -> bool:
    return isinstance(name, str) and bool(_IDENTIFIER.match(name))


def _plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 200
    return isinstance(value, bool) or _number(value) is not None


def _words(name: str) -> str:
    return name.replace("_", " ").replace("num inference steps", "number of steps")


def _shown(text: str, length: int) -> str:
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", " ", text)[:length]
