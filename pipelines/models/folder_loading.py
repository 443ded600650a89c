"""Parts out of diffusers folders: an empty module is filled tensor by tensor, so nothing is ever held twice.

diffusers' and transformers' own `from_pretrained` map the file and hold its pages beside the result. Whatever they do
beyond copying tensors by name (renaming, quantizing, keeping some layers in float32) is left to them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipelines.core.cancelling import raise_if
from pipelines.models.checkpoint_loading import empty_module
from pipelines.models.files import PartFiles, read_json
from pipelines.models.stored_dtypes import StoredAs, keep_all
from pipelines.weights.checkpoint_names import Move, encoder_moves
from pipelines.weights.files import read_full_header
from pipelines.weights.libraries import import_libraries
from pipelines.weights.reading import TensorReader, plain_names

if TYPE_CHECKING:
    from pipelines.weights.files import Header

__all__ = ["load_by_name"]


def load_by_name(
    part: PartFiles,
    part_type: type,
    dtype: torch.dtype,
    cancelled: Callable[[], bool] = lambda: False,
    stored_as: StoredAs = keep_all,
) -> torch.nn.Module | None:
    """Return the part with its files' tensors, or None where `from_pretrained` does more than copy them by name.

    The result equals that of `from_pretrained` bit for bit.

    Args:
        part: a folder's.
        part_type: its class.
        dtype: of the floating-point weights.
        cancelled: polled between tensors.
        stored_as: names the tensors that are kept in another dtype.

    Raises:
        ModelFileError: a file is broken.
        Cancelled: the load was stopped.
    """
    if not _only_copies(part, part_type, dtype):
        return None
    headers = {path: read_full_header(path) for path in part.weights}
    module = empty_module(part_type, part.folder)
    moves = _find_moves(headers, module)
    if moves is None or (dtype != torch.float32 and _has_computed_floats(module)):
        return None
    kept = stored_as(module)
    read = _read(headers, moves, dtype, cancelled)
    module.load_state_dict({name: tensor.to(kept.get(name, tensor.dtype)) for name, tensor in read}, assign=True)
    if tie_weights := getattr(module, "tie_weights", None):
        tie_weights()
    return module


def _has_computed_floats(module: torch.nn.Module) -> bool:
    """Whether it has buffers that are in no file; `from_pretrained` computes some of them in the weights' dtype."""
    stored = module.state_dict().keys()
    return any(buffer.is_floating_point() for name, buffer in module.named_buffers() if name not in stored)


def _only_copies(part: PartFiles, part_type: type[Any], dtype: torch.dtype) -> bool:
    """Whether `from_pretrained` of this class is the common one, and neither quantizes nor mixes dtypes."""
    import_libraries()
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    bases: tuple[Any, ...] = (ModelMixin, PreTrainedModel)
    base = next((one for one in bases if issubclass(part_type, one)), None)
    if base is None or part_type.from_pretrained.__func__ is not base.from_pretrained.__func__:
        return False
    if base is PreTrainedModel and part_type.can_generate():
        # Its generation settings are files of their own.
        return False
    if dtype != torch.float32 and getattr(part_type, "_keep_in_fp32_modules", None):
        return False
    return "quantization_config" not in read_json(part.folder / "config.json")


def _find_moves(headers: Mapping[Path, Header], module: torch.nn.Module) -> list[tuple[Path, Move]] | None:
    """Where each tensor of the files belongs; None unless they fill the module, all with the shapes that it has."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    places = {name: path for path, header in headers.items() for name in plain_names(header)}
    if any(header.tensors.keys() - set(plain_names(header)) for header in headers.values()):
        # Scales, which only the quantized file's own reader applies.
        return None
    for moves in _spellings(list(places), shapes):
        fitting = [move for move in moves if move.how in {"", "both"} and shapes.keys() >= set(move.targets)]
        filled = {target for move in fitting for target in move.targets}
        if filled == shapes.keys():
            located = [(places[move.source], move) for move in fitting]
            same = all(
                headers[path].tensors[move.source].shape == shapes[name]
                for path, move in located
                for name in move.targets
            )
            return located if same else None
    return None


def _spellings(names: Sequence[str], module_names: Collection[str]) -> Iterator[list[Move]]:
    yield [Move(name, (name,)) for name in names]
    yield encoder_moves(names, "", module_names)


def _read(
    headers: Mapping[Path, Header],
    moves: Sequence[tuple[Path, Move]],
    dtype: torch.dtype,
    cancelled: Callable[[], bool],
) -> Iterator[tuple[str, torch.Tensor]]:
    for path, header in headers.items():
        with TensorReader(path, header) as reader:
            # In the file's order: a disk reads on faster than it turns back.
            here = sorted(
                (move for place, move in moves if place == path), key=lambda move: header.tensors[move.source].offset
            )
            for move in here:
                raise_if(cancelled)
                tensor = reader.read_as(move.source, dtype)
                yield from ((target, tensor) for target in move.targets)
