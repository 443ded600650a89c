"""Single tensors out of a safetensors file: each is read when it is wanted, and scaled fp8 becomes plain numbers.

Nothing is mapped into memory, so that reading a file of many gigabytes never holds more than what was asked for.
Source of the scales: ComfyUI (comfy/ops.py), weight = fp8 value * `scale_weight` or `weight_scale`.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch

from pipelines.core.errors import ModelFileError
from pipelines.weights.files import Header, read_full_header

__all__ = ["TensorReader", "plain_names"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
_BUFFER = 2**20
"""Bytes that are read at a time on the way to another dtype: little enough to stay in the processor's cache."""

_SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
_SCALE_NAMES = (*_SCALES, "scale_input", "input_scale", "comfy_quant", "scaled_fp8")


def plain_names(header: Header) -> list[str]:
    """Return the names of a file's weights, without the scales and marks of scaled fp8."""
    return [name for name in header.tensors if name.rpartition(".")[2] not in _SCALE_NAMES]


class TensorReader:
    """Reads an open safetensors file.

    Args:
        path: the file.
        header: of it, where it was read already.
    """

    def __init__(self, path: Path, header: Header | None = None):
        self._path, self.header = path, header or read_full_header(path)
        self._file = path.open("rb")
        self._buffer = torch.empty(_BUFFER, dtype=torch.uint8)

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as the file has it, in memory of its own."""
        entry, dtype = self.header.tensors[name], self._find_dtype(name)
        raw = torch.empty(entry.count * dtype.itemsize, dtype=torch.uint8)
        self._file.seek(entry.offset)
        self._fill(raw)
        return raw.view(dtype).reshape(entry.shape)

    def _find_dtype(self, name: str) -> torch.dtype:
        dtype = _DTYPES.get(self.header.tensors[name].dtype)
        if dtype is None:
            raise ModelFileError(
                f"{self._path.name} has {name[:80]} as {self.header.tensors[name].dtype}, which is not read here. "
                "Use the model's fp16 file."
            )
        return dtype

    def _fill(self, raw: torch.Tensor) -> None:
        if raw.numel() and self._file.readinto(raw.numpy().data) != raw.numel():
            raise ModelFileError(f"{self._path.name} is cut short. Copy or download it again.")

    def read_as(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Read a tensor in a dtype, multiplied by its scale where the file has one; integers without a scale stay."""
        scale, stored = self._read_scale(name), self._find_dtype(name)
        if scale is not None:
            return _apply_scale(self.read(name), scale, name, self._path.name).to(dtype)
        if not stored.is_floating_point or stored == dtype:
            return self.read(name)
        return self._read_converted(name, stored, dtype)

    def _read_converted(self, name: str, stored: torch.dtype, dtype: torch.dtype) -> torch.Tensor:
        """A tensor in another dtype through a small buffer, so that only the result takes new memory."""
        entry = self.header.tensors[name]
        result = torch.empty(entry.count, dtype=dtype)
        self._file.seek(entry.offset)
        for part in result.split(_BUFFER // stored.itemsize):
            raw = self._buffer[: len(part) * stored.itemsize]
            self._fill(raw)
            part.copy_(raw.view(stored))
        return result.reshape(entry.shape)

    def _read_scale(self, name: str) -> torch.Tensor | None:
        if not name.endswith(".weight") or self.header.tensors[name].dtype in {"F64", "F32", "F16", "BF16"}:
            return None
        layer = name.removesuffix(".weight")
        scale = next((f"{layer}.{one}" for one in _SCALES if f"{layer}.{one}" in self.header.tensors), None)
        return None if scale is None else self.read(scale).float()


def _apply_scale(tensor: torch.Tensor, scale: torch.Tensor, name: str, file: str) -> torch.Tensor:
    """Values times a scale of the whole tensor, of each row, or of each block of rows and columns."""
    values = tensor.float()
    if scale.numel() == 1:
        return values.mul_(scale.reshape(()))
    if scale.numel() == tensor.shape[0]:
        return values.mul_(scale.reshape(-1, *[1] * (tensor.ndim - 1)))
    if scale.ndim == 2 and tensor.ndim == 2:
        rows, columns = (-(-size // count) for size, count in zip(tensor.shape, scale.shape, strict=True))
        full = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return values.mul_(full[: tensor.shape[0], : tensor.shape[1]])
    raise ModelFileError(
        f"{file} has a scale of shape {tuple(scale.shape)} for {name[:80]}, which is not read here. Use the fp16 file."
    )
