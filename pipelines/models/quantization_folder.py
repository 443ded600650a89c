"""Quantized models that were kept: a folder in the models folder, found again on every rescan.

A folder holds `quantization.json`, which names the model it was made of and the method, and the network's weights where
the method's layers are plain tensors. A method with a file format of its own is written in that too, for other
programs. Without weights the model is quantized again whenever it is loaded. VAE, text
encoders and tokenizers stay those of the first model, also in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.errors import MethodFitError, ModelError, StepwiseError
from pipelines.core.types import Choice
from pipelines.models.entry import CatalogEntry, Quantized

if TYPE_CHECKING:
    import torch

    from pipelines.quantizers import Quantizer

__all__ = [
    "RECORD",
    "WEIGHTS",
    "keep_network",
    "plain_choice",
    "quantized_entry",
    "quantized_key",
    "read_quantized_entries",
    "require_plain",
]

log = logging.getLogger(__name__)

RECORD, WEIGHTS = "quantization.json", "network.safetensors"
FORMAT = 1
MOST = 500
"""Folders that are looked into."""
MOST_KEY = 120
"""Characters of a key that names a folder."""


def plain_choice(choice: Choice) -> Choice:
    """Return the choice with only those settings that differ from the method's defaults, checked.

    Raises:
        SettingsError: there is no such method or setting, or a value is out of range.
    """
    from pipelines.core.registry import parse_settings
    from pipelines.quantizers import QUANTIZERS

    method = QUANTIZERS[choice.key]
    settings = dataclasses.asdict(parse_settings(method.settings, choice.settings, method.label))
    defaults = {field.name: field.default for field in dataclasses.fields(method.settings)}
    return Choice(choice.key, {name: value for name, value in settings.items() if value != defaults[name]})


def quantized_key(base: str, choice: Choice) -> str:
    """Return the key of a quantized model: emoji+int8, emoji+int4-group_size32; the end of a long one is a digest."""
    settings = "".join(f"-{name}{value}" for name, value in sorted(choice.settings.items()))
    start, key = f"{base}+{choice.key}", f"{base}+{choice.key}{settings}"
    room = MOST_KEY - len(start) - 9
    if len(key) <= MOST_KEY or room < 0:
        return key
    return f"{start}{settings[:room]}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def require_plain(base: CatalogEntry) -> None:
    """Raise MethodFitError if a model cannot be quantized: it is already, or its weights are changed for every run."""
    if base.quantized:
        raise MethodFitError(
            f"{base.label} is quantized already. Choose the model {base.quantized.base} that it was made of."
        )
    if base.lora is not None:
        raise MethodFitError(
            f"{base.label} is another model with a LoRA on it, which cannot be added to quantized weights. "
            "Choose the other model."
        )


def quantized_entry(base: CatalogEntry, choice: Choice, file: Path | None = None) -> CatalogEntry:
    """Return the catalog's entry of a quantized model.

    Args:
        base: what it is made of.
        choice: the method, as `plain_choice` gives it.
        file: its network's weights; None if it is quantized at each load.

    Raises:
        MethodFitError: the model cannot be quantized.
    """
    from pipelines.quantizers import QUANTIZERS

    require_plain(base)
    method = QUANTIZERS[choice.key]
    settings = "".join(f", {name.replace('_', ' ')} {value}" for name, value in sorted(choice.settings.items()))
    how = "" if file else " It is quantized anew whenever it is loaded."
    return dataclasses.replace(
        base,
        key=quantized_key(base.key, choice),
        label=f"{base.label}, {method.label}{settings}",
        quantized=Quantized(base.key, choice, file),
        size_bytes=file.stat().st_size if file else base.size_bytes,
        notes=f"{base.label} with the network quantized: {method.help}{how}",
    )


def read_quantized_entries(folder: Path, entries: Mapping[str, CatalogEntry]) -> list[CatalogEntry]:
    """Read the quantized models in the models folder; what cannot be read is left out and logged.

    Args:
        folder: the models folder.
        entries: all others by key.
    """
    models = []
    for path in _list_folders(folder):
        try:
            record = json.loads((path / RECORD).read_text(encoding="utf-8"))
            base, choice = record["base"], plain_choice(Choice.parse(record["method"]))
            if record["format"] != FORMAT or base not in entries:
                raise ValueError(f"it is made of the model {str(base)[:80]!r}, which is not here")
            weights = path / WEIGHTS
            if record["stored"] and not weights.is_file():
                raise ValueError("its weights are gone")
            models.append(quantized_entry(entries[base], choice, weights if record["stored"] else None))
        except (OSError, KeyError, TypeError, ValueError, RecursionError, StepwiseError) as error:
            log.warning("the quantized model %s is left out: %s", path.name, error)
    return list({entry.key: entry for entry in models}.values())


def _list_folders(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))[:MOST]
    except OSError:
        return
    for name in names:
        path = folder / name
        if not name.startswith(".") and (path / RECORD).is_file() and path.resolve().parent == folder.resolve():
            yield path


def keep_network(
    folder: Path,
    base: CatalogEntry,
    choice: Choice,
    network: torch.nn.Module,
    quantized: torch.nn.Module,
    quantizer: Quantizer,
) -> str:
    """Write a quantized model into the models folder; returns its key. One that is there already is replaced.

    Args:
        folder: the models folder.
        base: the model it was made of.
        choice: as `plain_choice` gives it.
        network, made: the network in full precision and its quantized copy.
        quantizer: which made it.

    Raises:
        MethodFitError: the model cannot be kept quantized.
        ModelError: the folder cannot be written.
    """
    from pipelines.quantizers import StorableQuantizer
    from pipelines.quantizers.files import save_network

    require_plain(base)
    key = quantized_key(base.key, choice)
    storable = quantizer if isinstance(quantizer, StorableQuantizer) else None
    if not re.fullmatch(rf"[A-Za-z0-9._+-]{{1,{MOST_KEY}}}", key):
        raise MethodFitError(f"{base.label} cannot be saved quantized: its key {base.key[:80]!r} cannot name a folder.")
    record: dict[str, object] = {
        "format": FORMAT,
        "base": base.key,
        "method": choice.to_json(),
        "stored": storable is not None,
    }
    scratch = folder / f".{key}-{secrets.token_hex(4)}"
    try:
        scratch.mkdir(parents=True)
        if storable is not None:
            save_network(network, quantized, storable, choice, scratch / WEIGHTS)
        quantizer.export(quantized, scratch)
        (scratch / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        _replace(scratch, folder / key)
    except OSError as error:
        raise ModelError(
            f"The models folder cannot be written ({error.strerror or error}). Make room, or choose another "
            "with --models-folder."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return key


def _replace(scratch: Path, place: Path) -> None:
    """Put a finished folder in its place, so that nobody ever sees half of one."""
    old = place.with_name(f".{place.name}-old-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        place.rename(old)
    scratch.rename(place)
    shutil.rmtree(old, ignore_errors=True)
