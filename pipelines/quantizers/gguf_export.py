"""A quantized network as a GGUF file for other programs: packed layers as they are, everything else in full precision.

Names are diffusers'. A convolution stands as a matrix of one row an output, with the field that ComfyUI-GGUF has for
tensors that are to have another shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipelines.quantizers.machine import load_package

__all__ = ["write_gguf"]

ARCHITECTURES = {"FluxTransformer2DModel": "flux", "SD3Transformer2DModel": "sd3"}
SHAPE_FIELD = "comfy.gguf.orig_shape."


def write_gguf(network: torch.nn.Module, form: str, path: Path) -> None:
    """Write a network that `Gguf` quantized.

    Args:
        network: the quantized one.
        form: of its packed layers, "Q8_0" or "Q4_0".
        path: a new file.

    Raises:
        MethodFitError: the package gguf is missing.
    """
    package = load_package("gguf", "gguf")
    library = load_package("diffusers.quantizers.gguf.utils", "gguf")
    writer = package.GGUFWriter(str(path), ARCHITECTURES.get(type(network).__name__, "diffusers"))
    writer.add_quantization_version(package.GGML_QUANT_VERSION)
    from pipelines.quantizers.packed_layers import PackedConv2d  # late: a subclass of PyTorch's needs it imported

    kind, packed = getattr(package.GGMLQuantizationType, form), dict[str, torch.Tensor]()
    for name, module in network.named_modules():
        if isinstance(module, PackedConv2d):
            packed[f"{name}.codes"] = module.get_buffer("codes")
            writer.add_array(f"{SHAPE_FIELD}{name}.weight", list(module.shape))
        elif isinstance(module, library.GGUFLinear):
            packed[f"{name}.weight"] = module.weight.detach().as_subclass(torch.Tensor)
    for name, tensor in network.state_dict().items():
        if name in packed:
            where = f"{name.removesuffix('.codes')}.weight" if name.endswith(".codes") else name
            writer.add_tensor(where, _to_array(packed[name]), raw_dtype=kind)
        else:
            writer.add_tensor(name, _to_array(tensor.float() if tensor.is_floating_point() else tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _to_array(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()
