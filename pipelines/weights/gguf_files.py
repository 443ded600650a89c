"""The header of a GGUF file: names, shapes and metadata, without the weights and without any package.

Source: the format's specification, ggml-org/ggml docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import importlib.util
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.core.errors import ModelFileError
from pipelines.weights.files import Header, Tensor

__all__ = ["GGUF_INSTALL", "has_gguf", "read_gguf_header"]

GGUF_INSTALL = "pip install -r requirements-gguf.txt"
_TYPES = {0: "F32", 1: "F16", 30: "BF16", 28: "F64", 24: "I8", 25: "I16", 26: "I32", 27: "I64"}
"""ggml's plain types by number; any other is packed, and stands as "GGML" with its number."""

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 20
_LONGEST = 1 << 26


def has_gguf() -> bool:
    """Whether the package is installed through which diffusers reads GGUF weights."""
    return importlib.util.find_spec("gguf") is not None


def read_gguf_header(path: Path) -> Header:
    """Tensors and metadata of a GGUF file; only its header is read.

    Raises:
        ModelFileError: the file is something else, damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path).header()
    except OSError as error:
        raise ModelFileError(
            f"{path.name} cannot be read ({error.strerror}). Check that it is there and may be read."
        ) from error
    except (struct.error, UnicodeDecodeError, ValueError, OverflowError, MemoryError):
        raise ModelFileError(
            f"{path.name} is a damaged GGUF file, or is cut short. Copy or download it again."
        ) from None


class _Reader:
    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path, self._size = file, path, path.stat().st_size

    def header(self) -> Header:
        if self._file.read(4) != b"GGUF":
            raise ModelFileError(
                f"{self._path.name} is no GGUF file, whatever its name says. Get the model's file again."
            )
        version = self._number("I")
        if version not in (2, 3):
            raise ModelFileError(f"{self._path.name} is GGUF version {version}; versions 2 and 3 are read here.")
        tensors, fields = self._number("Q"), self._number("Q")
        if max(tensors, fields) > _MOST:
            raise ValueError("more entries than any file has")
        metadata = {}
        for _ in range(fields):
            key = self._string()
            value = self._value(self._number("I"))
            if isinstance(value, (str, int, float, bool)):
                metadata[key] = str(value)
        named = dict(self._tensor() for _ in range(tensors))
        if not named or self._file.tell() > self._size:
            raise ValueError("no tensors")
        self._require_whole(named, int(metadata.get("general.alignment", "32")))
        return Header(named, metadata)

    def _require_whole(self, named: dict[str, Tensor], alignment: int) -> None:
        start = -(-self._file.tell() // alignment) * alignment
        last = max(tensor.offset for tensor in named.values())
        if self._size < start + last:
            raise ValueError("cut short")

    def _tensor(self) -> tuple[str, Tensor]:
        name, dims = self._string(), self._number("I")
        if dims > 8:
            raise ValueError("too many dimensions")
        # The last dimension of the format is the first of a tensor in PyTorch.
        shape = tuple(self._number("Q") for _ in range(dims))[::-1]
        kind, offset = self._number("I"), self._number("Q")
        if math.prod(shape) > 1 << 48:
            raise ValueError("too large")
        return name, Tensor(_TYPES.get(kind, f"GGML{kind}"), shape, offset)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._number("I"), self._number("Q")
            if inner in _NUMBERS:
                self._skip(count * struct.calcsize(_NUMBERS[inner]))
            else:
                for _ in range(count):
                    self._value(inner)
            return None
        return self._number(_NUMBERS[kind]) if kind in _NUMBERS else self._unknown(kind)

    def _unknown(self, kind: int) -> None:
        raise ValueError(f"a value of type {kind}")

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._file.read(struct.calcsize(form)))[0]

    def _string(self) -> str:
        length = self._number("Q")
        if length > _LONGEST or length > self._size:
            raise ValueError("a text longer than the file")
        return self._file.read(length).decode("utf-8")

    def _skip(self, count: int) -> None:
        if count > self._size:
            raise ValueError("an array longer than the file")
        self._file.seek(count, 1)
