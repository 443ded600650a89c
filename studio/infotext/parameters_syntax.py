"""The syntax of the `parameters` text: where the prompts end, and the names and values of the settings.

Source: AUTOMATIC1111 and contributors, stable-diffusion-webui, `modules/infotext_utils.py` (quote, unquote,
    parse_generation_parameters).
Differs: the settings are the last line that begins with "Steps:", and what stands behind it is kept apart; values may
    be quoted texts with line ends or JSON; of a name that comes twice the first value counts; blanks at the ends of a
    line are kept, so that a prompt comes back as it was.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping

__all__ = ["NEGATIVE", "Parts", "quote", "split_parameters"]

NEGATIVE = "Negative prompt:"

_NAME = re.compile(r"[^\S\n]*(\w[\w \-/]{1,63}):[^\S\n]*")
_QUOTED = re.compile(r'("(?:\\.|[^\\"])+")[^\S\n]*(?=,|\n|\Z)', re.DOTALL)
_VALUE_END = re.compile(r"[,\n]")
_LINE = re.compile(r"^[^\S\n]*Steps:", re.MULTILINE)
_WITHIN = re.compile(r"(?<![\w])Steps:[^\S\n]*\d{1,5}[^\S\n]*,")
_WHOLE = re.compile(r"-?\d{1,20}")
_MOST_LINES = 20  # that begin with "Steps:" and are looked at
_MOST_JSON = 50  # values that are tried as JSON: each try may read the whole text
_KNOWN_FIELDS = {
    *("Steps", "Seed", "Sampler", "CFG scale", "Size", "Model", "Model hash", "Schedule type", "Scheduler", "Version"),
    *(
        "Denoising strength",
        "Guidance Scale",
        "Distilled CFG Scale",
        "Clip skip",
        "Variation seed",
        "Shift",
        "Strength",
    ),
    *("Variation seed strength", "Lora hashes", "VAE", "App", "Backend"),
}


@dataclasses.dataclass(frozen=True)
class Parts:
    """Holds a parameters text taken apart.

    Attributes:
        prompt, negative: None where the text carries none. A1111 leaves the line out where its negative prompt is
            empty, and so do sites that show only a part: which it was the text does not say.
        pairs: names to values, unquoted; empty where there is no line of settings.
        behind: what stands behind the settings, stripped.
        one_line: whether prompt and settings stand on one line.
    """

    prompt: str | None
    negative: str | None
    pairs: Mapping[str, str]
    behind: str = ""
    one_line: bool = False


def quote(value: object) -> str:
    """Write a value as it stands in the text: as JSON where it holds a comma, a colon or a line end."""
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",\n:") else text


def split_parameters(text: str) -> Parts | None:
    """Split a text into its parts; None where it is no parameters text."""
    text = text.replace("\0", "").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text or _is_json(text):
        return None
    settings = _find_settings_line(text)
    if settings is not None:
        start, pairs, end = settings
        return Parts(*_split_prompts(text[:start].removesuffix("\n")), pairs, text[end:].strip())
    if (match := _find_settings_within_line(text)) is not None:
        start, pairs, end = match
        return Parts(*_split_prompts_of_one_line(text[:start]), pairs, text[end:].strip(), one_line=True)
    prompt, negative = _split_prompts(text)
    return None if negative in (None, "") else Parts(prompt, negative, {})


def _is_json(text: str) -> bool:
    """Whether it is JSON, whole or cut off; a prompt may begin like it, as in ["a sign"], before its settings."""
    if re.match(r'[\[{]\s*["\[{\]}]', text) is None:
        return False
    try:
        json.loads(text, strict=False)
    except ValueError:
        # Outside of a valid text no line of JSON begins so: its line ends are escaped.
        return _LINE.search(text) is None
    except RecursionError:
        pass
    return True


def _find_settings_line(text: str) -> tuple[int, dict[str, str], int] | None:
    """Start, pairs and end of the last line that begins with "Steps:", else of the last line in another order."""
    best = None
    for start in [match.start() for match in _LINE.finditer(text)][-_MOST_LINES:]:
        if best is None or start >= best[2]:  # not inside a quoted value of the one before
            pairs, end = _scan(text, start)
            best = (start, pairs, end) if _count_as_settings(pairs) else best
    if best is not None:
        return best
    start = text.rfind("\n") + 1
    pairs, end = _scan(text, start)
    # A prompt and its settings on one line begin with the prompt, and not with the name of a setting.
    begins = next(iter(pairs), "") in _KNOWN_FIELDS and _NAME.match(text, start) is not None
    is_settings = len(pairs) >= 3 and _count_as_settings(pairs) and (begins or not _WITHIN.search(text))
    return (start, pairs, end) if is_settings else None


def _find_settings_within_line(text: str) -> tuple[int, dict[str, str], int] | None:
    """The same for settings behind a prompt on one line, as sites and clipboards that drop line ends leave them."""
    for match in [*_WITHIN.finditer(text)][-1:]:
        pairs, end = _scan(text, match.start())
        if len(pairs) >= 3 and _count_as_settings(pairs):
            return match.start(), pairs, end
    return None


def _count_as_settings(pairs: Mapping[str, str]) -> bool:
    """Whether they are a generator's, and not a camera's or a cook's."""
    numbered = any(_WHOLE.fullmatch(pairs.get(name, "").strip()) for name in ("Steps", "Seed"))
    return (numbered or bool(pairs.get("Sampler"))) and len(_KNOWN_FIELDS & pairs.keys()) >= 2


def _scan(text: str, position: int) -> tuple[dict[str, str], int]:
    """The pairs from a position to the end of the line outside quotes and JSON, and that end."""
    pairs: dict[str, str] = {}
    tries = iter(range(_MOST_JSON))
    while position < len(text) and text[position] != "\n":
        name = _NAME.match(text, position)
        if name is None:
            position = _find_end_of_value(text, position)
        else:
            value, position = _parse_value(text, name.end(), tries)
            pairs.setdefault(name[1].strip(), value)
        if text[position : position + 1] == ",":
            position += 1
    return pairs, position


def _parse_value(text: str, position: int, tries: Iterator[int]) -> tuple[str, int]:
    if quoted := _QUOTED.match(text, position):
        return _unquote(quoted[1]), quoted.end()
    if text[position : position + 1] in ("[", "{") and next(tries, None) is not None:
        try:
            end = json.JSONDecoder().raw_decode(text, position)[1]
        except (ValueError, RecursionError):
            end = len(text) + 1
        if end <= len(text) and re.match(r"[^\S\n]*(?:,|\n|\Z)", text[end : end + 20]):
            return text[position:end], end
    end = _find_end_of_value(text, position)
    return text[position:end].strip(), end


def _find_end_of_value(text: str, position: int) -> int:
    """Where a plain value ends: at a comma, a line end, or the text's."""
    match = _VALUE_END.search(text, position)
    return match.start() if match else len(text)


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))  # a line end may stand in it as it is
    except ValueError:
        return text


def _split_prompts(text: str) -> tuple[str | None, str | None]:
    lines = text.split("\n")
    start = next((number for number, line in enumerate(lines) if line.strip().startswith(NEGATIVE)), len(lines))
    prompt = "\n".join(lines[:start])
    if start == len(lines):
        return (prompt, None) if prompt.strip() else (None, None)
    negative = "\n".join(lines[start:]).lstrip()[len(NEGATIVE) :].removeprefix(" ")
    return prompt if prompt.strip() else None, negative


def _split_prompts_of_one_line(text: str) -> tuple[str | None, str | None]:
    prompt, marker, negative = text.rpartition(NEGATIVE)
    if not marker:
        return _strip_joint(text) or None, None
    return _strip_joint(prompt) or None, _strip_joint(negative)


def _strip_joint(text: str) -> str:
    """Without what stands where a line end was."""
    text = text.strip()
    return text[:-1].rstrip() if text[-1:] in (".", ",", ";", "|") else text
