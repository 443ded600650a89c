"""The header of a GGUF file: names, shapes and metadata, without the weights and without any package.

Source: the format's specification, ggml-org/ggml docs/gguf.md, versions 2 and 3; the sizes of its types are those of
ggml.h. Tensors whose rows do not fill blocks are published with other rows (ComfyUI-GGUF, convert.py), and a field
beside them, "comfy.gguf.orig_shape." and the name, has the shape that they are to have.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pipelines.core.errors import ModelFileError
from pipelines.weights.files import DTYPE_BITS, Header, Tensor, read_full_header

__all__ = ["GGUF_INSTALL", "has_gguf", "is_packed_matrix", "read_gguf_header", "read_weights_header", "stored_bytes"]

GGUF_INSTALL = "pip install -r requirements-gguf.txt"
_TYPES = {0: "F32", 1: "F16", 30: "BF16", 28: "F64", 24: "I8", 25: "I16", 26: "I32", 27: "I64"}
"""ggml's plain types by number; any other is packed, and stands as "GGML" with its number."""

_BLOCKS = {
    **{2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)},
    **{23: (256, 136), 29: (256, 56), 34: (256, 54), 35: (256, 66), 39: (32, 17)},
}
"""Packed types by number: the weights of a block, and its bytes."""

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 20
_LONGEST = 1 << 26
_SHAPE_FIELD = "comfy.gguf.orig_shape."
_MOST_DIMS = 8


def has_gguf() -> bool:
    """Say whether the package is installed through which diffusers reads GGUF weights."""
    return importlib.util.find_spec("gguf") is not None


def read_weights_header(path: Path) -> Header:
    """Read the header of a safetensors or, by its suffix, of a GGUF file.

    Raises:
        ModelFileError: the file is something else, damaged or cut short.
    """
    return read_gguf_header(path) if path.suffix.lower() == ".gguf" else read_full_header(path)


def is_packed_matrix(tensor: Tensor) -> bool:
    """Say whether a tensor is a matrix in packed form whose rows are whole blocks, as GGUF's layers need them."""
    block = _find_block(tensor)
    return block is not None and len(tensor.shape) == 2 and tensor.shape[1] % block[0] == 0


def stored_bytes(tensor: Tensor) -> int:
    """Count the bytes of a GGUF file's tensor as it is stored; of an unknown type none."""
    block = _find_block(tensor)
    if block is not None:
        return -(-tensor.count // block[0]) * block[1]
    return tensor.count * DTYPE_BITS.get(tensor.dtype, 0) // 8


def _find_block(tensor: Tensor) -> tuple[int, int] | None:
    number = tensor.dtype.removeprefix("GGML")
    return _BLOCKS.get(int(number)) if number.isdigit() else None


def read_gguf_header(path: Path) -> Header:
    """Read tensors and metadata of a GGUF file; only its header is read.

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
                f"{self._path.name} is not a GGUF file, whatever its name says. Get the model's file again."
            )
        version = self._read_number("I")
        if version not in (2, 3):
            raise ModelFileError(f"{self._path.name} is GGUF version {version}; versions 2 and 3 are read here.")
        num_tensors, num_fields = self._read_number("Q"), self._read_number("Q")
        if max(num_tensors, num_fields) > _MOST:
            raise ValueError("more entries than any file has")
        metadata, shapes = self._read_fields(num_fields)
        tensors = dict(self._read_tensor() for _ in range(num_tensors))
        if not tensors or self._file.tell() > self._size:
            raise ValueError("no tensors")
        self._require_whole(tensors, int(metadata.get("general.alignment", "32")))
        return Header({name: _reshape(tensor, shapes.get(name)) for name, tensor in tensors.items()}, metadata)

    def _read_fields(self, count: int) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
        """The metadata, and the shapes that tensors are to have where they are stored in others."""
        metadata: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for _ in range(count):
            key = self._read_string()
            value = self._read_value(self._read_number("I"))
            if isinstance(value, (str, int, float, bool)):
                metadata[key] = str(value)
            elif isinstance(value, tuple) and key.startswith(_SHAPE_FIELD):
                shapes[key.removeprefix(_SHAPE_FIELD)] = value
        return metadata, shapes

    def _require_whole(self, tensors: dict[str, Tensor], alignment: int) -> None:
        start = -(-self._file.tell() // alignment) * alignment
        end = max(tensor.offset + stored_bytes(tensor) for tensor in tensors.values())
        if self._size < start + end:
            raise ValueError("cut short")

    def _read_tensor(self) -> tuple[str, Tensor]:
        name, dims = self._read_string(), self._read_number("I")
        if dims > _MOST_DIMS:
            raise ValueError("too many dimensions")
        # The last dimension of the format is the first of a tensor in PyTorch.
        shape = tuple(self._read_number("Q") for _ in range(dims))[::-1]
        kind, offset = self._read_number("I"), self._read_number("Q")
        if math.prod(shape) > 1 << 48:
            raise ValueError("too large")
        return name, Tensor(_TYPES.get(kind, f"GGML{kind}"), shape, offset)

    def _read_value(self, kind: int) -> object:
        if kind == _STRING:
            return self._read_string()
        if kind == _ARRAY:
            inner, count = self._read_number("I"), self._read_number("Q")
            if inner in _NUMBERS and count <= _MOST_DIMS:
                return tuple(self._read_number(_NUMBERS[inner]) for _ in range(count))
            if inner in _NUMBERS:
                self._skip(count * struct.calcsize(_NUMBERS[inner]))
            else:
                for _ in range(count):
                    self._read_value(inner)
            return None
        return self._read_number(_NUMBERS[kind]) if kind in _NUMBERS else self._refuse_type(kind)

    def _refuse_type(self, kind: int) -> NoReturn:
        raise ValueError(f"a value of type {kind}")

    def _read_number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._file.read(struct.calcsize(form)))[0]

    def _read_string(self) -> str:
        length = self._read_number("Q")
        if length > _LONGEST or length > self._size:
            raise ValueError("a text longer than the file")
        return self._file.read(length).decode("utf-8")

    def _skip(self, count: int) -> None:
        if count > self._size:
            raise ValueError("an array longer than the file")
        self._file.seek(count, 1)


def _reshape(tensor: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    if shape is None:
        return tensor
    if not all(isinstance(size, int) and size > 0 for size in shape) or math.prod(shape) != tensor.count:
        raise ValueError("a shape of another count")
    return dataclasses.replace(tensor, shape=shape)
