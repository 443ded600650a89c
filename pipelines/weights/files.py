"""What is in a file of weights, read from its first bytes and never by running it.

Source: the safetensors format, https://huggingface.co/docs/safetensors: eight bytes of header length,
a JSON header of name to dtype, shape and offsets, then the tensors without gaps.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelFileError
from pipelines.core.leases import megabytes

__all__ = [
    "DTYPE_BITS",
    "DTYPE_BYTES",
    "PICKLE_SUFFIXES",
    "SAFETENSORS_SUFFIXES",
    "Header",
    "Tensor",
    "bytes_as",
    "check_index",
    "read_full_header",
    "read_header",
]

DTYPE_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "C64": 64,
    "BOOL": 8,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
SAFETENSORS_SUFFIXES = frozenset({".safetensors", ".sft"})
MAX_HEADER = 100_000_000
"""The format's own limit."""

LOOKS = (
    (b"PK\x03\x04", "is a zip archive with a pickle in it (a torch.save file)"),
    *((b"\x80" + bytes([protocol]), "is a pickle") for protocol in range(2, 6)),
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights themselves"),
    *((start, "is a web page") for start in (b"<!DOCTYPE", b"<!doctype", b"<html")),
    (b"GGUF", "is a GGUF file"),
)
"""How files begin that are no safetensors files, and what they are."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Describes one tensor of a file: its dtype as the format spells it ("F16"), its shape, and its first byte in the
    file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int = dataclasses.field(default=0, compare=False)

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Header:
    """Says what stands before a safetensors file's data.

    Attributes:
        tensors: by name, in the file's order.
        metadata: the words that the trainer or publisher put in.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_header(path: Path) -> dict[str, Tensor]:
    """Read names, dtypes and shapes of a safetensors file, as `read_full_header` reads and checks them.

    Raises:
        ModelFileError: as `read_full_header`.
    """
    return read_full_header(path).tensors


def read_full_header(path: Path) -> Header:
    """Read a safetensors file's tensors and metadata, after a check that the whole file is what it says.

    Only the header is read, however large the file is.

    Args:
        path: the file; its name appears in messages, its folder does not.

    Raises:
        ModelFileError: a pickle, an archive or a web page under this name, a damaged header, or a file cut short.
    """
    name = path.name
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelFileError(
            f"{name} is a pickle, which can run any program when it is opened. "
            "Use the model's .safetensors file instead."
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = _read_header_length(name, size, file.read(24))
            file.seek(8)
            header = file.read(length)
    except OSError as error:
        raise ModelFileError(
            f"{name} cannot be read ({error.strerror}). Check that it is there and may be read."
        ) from error
    entries, metadata = _parse_header(name, header)
    return Header(_parse_tensors(name, entries, 8 + length, size - 8 - length), metadata)


def _read_header_length(name: str, size: int, start: bytes) -> int:
    """Bytes of the JSON header. The format itself is tried first: its length may begin like another format's mark."""
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    fits = 2 <= length <= min(MAX_HEADER, max(0, size - 8))
    if fits and start[8:9] == b"{":
        return length
    for magic, what in LOOKS:
        if start.startswith(magic):
            raise ModelFileError(f"{name} {what}, whatever its name says. Get the model's safetensors file.")
    if fits:
        raise ModelFileError(f"{name} has a damaged header. Copy or download it again.")
    raise ModelFileError(
        f"{name} is not a safetensors file, or is cut short in its first bytes ({megabytes(size)}). "
        "Copy or download it again."
    )


def _parse_header(name: str, header: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise ModelFileError(f"{name} has a damaged header. Copy or download it again.")
    metadata = entries.pop("__metadata__", None)
    words = metadata.items() if isinstance(metadata, dict) else ()
    return entries, {key: value for key, value in words if isinstance(value, str)}


def _parse_tensors(name: str, entries: Mapping[str, Any], data_start: int, data_bytes: int) -> dict[str, Tensor]:
    """The tensors, after a check that they fill the data exactly, one behind the other."""
    error = ModelFileError(f"{name} has a damaged header: its tensors do not fit the file. Copy or download it again.")
    tensors, spans = {}, []
    for key, entry in entries.items():
        try:
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            is_valid = all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end))
            tensor = Tensor(entry["dtype"], shape, data_start + begin if is_valid else 0)
            fits = is_valid and (end - begin) * 8 == tensor.count * DTYPE_BITS[tensor.dtype]
        except (KeyError, TypeError, ValueError):
            raise error from None
        if not fits:
            raise error
        tensors[key] = tensor
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise error
        position = end
    if position > data_bytes:
        raise ModelFileError(
            f"{name} is cut short: {megabytes(data_bytes)} of {megabytes(position)} are there. "
            "Copy or download it again."
        )
    if not tensors:
        raise ModelFileError(f"{name} holds no tensors and is damaged. Copy or download it again.")
    if position < data_bytes:
        raise error
    return tensors


def bytes_as(tensors: Iterable[Tensor], dtype: str) -> int:
    """Count the memory of the tensors when floating-point ones are loaded as `dtype` ("float32", "float16", ...)
    and packed ones are unpacked."""
    target_bits = DTYPE_BYTES[dtype] * 8

    def bits(tensor: Tensor) -> int:
        floating = tensor.dtype.startswith(("F", "BF", "GGML"))
        return target_bits if floating else DTYPE_BITS[tensor.dtype]

    return sum(tensor.count * bits(tensor) for tensor in tensors) // 8


def check_index(path: Path) -> list[Path]:
    """Check the shards that a `*.safetensors.index.json` names, all beside it and all there.

    Raises:
        ModelFileError: the index cannot be read, names a file elsewhere, or a shard is missing.
    """
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        plain = all(name == Path(name).name and name.endswith(".safetensors") for name in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        shards, plain = [], False
    if not plain or not shards:
        raise ModelFileError(f"{path.name} cannot be read as a list of weight files. Copy or download the model again.")
    missing = [name for name in shards if not (path.parent / name).is_file()]
    if missing:
        raise ModelFileError(
            f"{len(missing)} of {len(shards)} weight files are missing, the first is {missing[0]}. "
            "Copy or download the model again."
        )
    return [path.parent / name for name in shards]
