"""Single tensors out of a GGUF file through the package gguf: packed as they are, or unpacked to plain numbers."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from pipelines.core.errors import ModelFileError
from pipelines.weights.files import Header
from pipelines.weights.gguf_files import GGUF_INSTALL, has_gguf, is_packed_matrix, read_gguf_header
from pipelines.weights.libraries import import_libraries

__all__ = ["GgufReader"]


class GgufReader:
    """Reads the tensors of a GGUF file, which is mapped into memory.

    Args:
        path: the file.
        header: of it, where it was read already.

    Raises:
        ModelFileError: the package gguf is not installed, or the file is damaged.
    """

    def __init__(self, path: Path, header: Header | None = None):
        if not has_gguf():
            raise ModelFileError(
                f"{path.name} is a GGUF file, which needs the package gguf. Install it with: {GGUF_INSTALL}"
            )
        import gguf

        self.header, self._path = header or read_gguf_header(path), path
        self._tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    def __enter__(self) -> GgufReader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._tensors = {}

    def read_packed(self, name: str) -> Any:
        """Return a matrix as diffusers' GGUF layers take it, its rows as bytes; None for what they do not take."""
        if not is_packed_matrix(self.header.tensors[name]):
            return None
        import_libraries()
        from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES, GGUFParameter

        stored = self._tensors[name]
        if stored.tensor_type not in SUPPORTED_GGUF_QUANT_TYPES:
            return None
        rows = torch.from_numpy(stored.data.copy()).reshape(self.header.tensors[name].shape[0], -1)
        return GGUFParameter(rows, quant_type=stored.tensor_type)

    def read_as(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor as plain numbers, in the shape that it had before it was packed; integers stay."""
        import gguf

        stored, shape = self._tensors[name], self.header.tensors[name].shape
        if stored.data.dtype.kind == "i":
            return torch.from_numpy(stored.data.copy()).reshape(shape)
        try:
            values = gguf.quants.dequantize(stored.data, stored.tensor_type)
        except NotImplementedError:
            raise ModelFileError(
                f"{self._path.name} has {name[:80]} packed as {stored.tensor_type.name}, which is not read here. "
                "Use the model's Q8_0 or Q4_K file."
            ) from None
        return torch.tensor(values, dtype=dtype).reshape(shape)
