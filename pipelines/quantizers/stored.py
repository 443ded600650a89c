"""How many bytes a network's tensors really hold, whatever library stores them.

Nominal bits are not bytes: torchao keeps two-bit weights one to a byte, `get_memory_footprint()` is wrong for tensor
subclasses, and PyTorch's dynamically quantized layers have no parameters at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

__all__ = ["stored_bytes", "stored_tensors"]


def stored_bytes(module: torch.nn.Module) -> int:
    """Count the bytes of everything that a module keeps; what two names share counts once."""
    sizes: dict[tuple, int] = {}
    # All at once, since some are made for this reading: a freed one would leave its address to the next.
    for number, tensor in enumerate(list(stored_tensors(module))):
        size = tensor.numel() * tensor.element_size()
        # Tensors without storage (on "meta") have no address that would tell them apart.
        place = tensor.data_ptr() or number
        sizes[(place, size)] = size
    return sum(sizes.values())


def stored_tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Yield the plain tensors inside parameters, buffers, tensor subclasses and packed parameters."""
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None:
                yield from _list_plain(tensor)
        packed = getattr(part, "_packed_params", None)
        if isinstance(packed, torch._C.ScriptObject) and (unpack := getattr(packed, "unpack", None)):
            yield from (one for one in unpack() if one is not None for one in _list_plain(one))


def _list_plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _list_plain(getattr(tensor, name))
    elif tensor.is_quantized:
        yield tensor.int_repr()
        if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
            yield from (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points())
    else:
        yield tensor
        yield from _list_attached(tensor)


def _list_attached(tensor: object) -> Iterator[torch.Tensor]:
    """What bitsandbytes hangs onto its parameters: scales, and the state of four-bit weights."""
    scales, state = getattr(tensor, "SCB", None), getattr(tensor, "quant_state", None)
    if isinstance(scales, torch.Tensor):
        yield scales
    if state is not None:
        yield from (one for one in state.as_dict().values() if isinstance(one, torch.Tensor))
