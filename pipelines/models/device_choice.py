"""Where models run and how: the device, the dtype of the weights and what makes a network faster."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from pipelines.core.compiler import explain_missing_compiler
from pipelines.core.errors import SettingsError
from pipelines.core.torch_build import has_only_processor
from pipelines.weights.libraries import import_libraries

if TYPE_CHECKING:
    import torch
    from diffusers import ModelMixin

__all__ = [
    "DTYPES",
    "Acceleration",
    "DeviceMemory",
    "choose_device",
    "computes_bfloat16",
    "describe_device",
    "name_device",
    "read_memory",
    "require_attention",
    "require_compiler",
    "require_device",
    "require_devices",
]

DTYPES = {"auto": None, "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""The choices of a dtype, and PyTorch's names of them; "auto" decides by model and device."""

_DEVICE = re.compile(r"cpu|mps|(cuda|xpu)(:\d+)?")
_FIRST_WITH_BFLOAT16 = (8, 0)
"""Compute capability of Ampere; Turing has to imitate bfloat16 and is slower with it than with float32."""


@dataclasses.dataclass(frozen=True)
class Acceleration:
    """What is done to a denoising network when it is loaded.

    Its choices are off by default. Large convolutions over small grids compute as products of matrices in any case.

    Attributes:
        attention: a back end of diffusers' attention dispatcher; "" for the library's own choice.
        compile: let PyTorch compile the blocks that repeat, at the first run of each shape.
        channels_last: keep the weights of convolutions in the order of channels last.
    """

    attention: str = ""
    compile: bool = False
    channels_last: bool = False

    def apply(self, network: torch.nn.Module) -> None:
        """Change a network that was just loaded.

        Raises:
            SettingsError: the attention back end is unknown or cannot run here.
        """
        import torch

        from pipelines.models.cpu_convolutions import use_products_on_small_grids

        use_products_on_small_grids(network)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.attention and hasattr(network, "set_attention_backend"):
            try:
                cast("ModelMixin", network).set_attention_backend(self.attention)
            except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
                raise SettingsError(f"--attention {self.attention} cannot be used here: {error}") from error
        if self.compile:
            repeated = getattr(network, "_repeated_blocks", None)
            if repeated:
                cast("ModelMixin", network).compile_repeated_blocks()
            else:
                network.compile()


def choose_device() -> str:
    """Choose the best device that there is: NVIDIA's or AMD's GPU, Apple's, Intel's, the CPU.

    PyTorch is asked only where its files leave it open: a page on a CPU need not wait for it.
    """
    if has_only_processor():
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "xpu" if torch.xpu.is_available() else "cpu"


def require_device(name: str) -> str:
    """Return the name of a device that is there.

    Raises:
        SettingsError: it is no name of a device, or there is none of it.
    """
    import torch

    if not _DEVICE.fullmatch(name):
        raise SettingsError(f"--device {name[:20]!r} is no device. Give cpu, cuda, cuda:1, mps or xpu.")
    kind, _, index = name.partition(":")
    counts = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}
    count = counts[kind] if kind in counts else getattr(torch, kind).device_count()
    if int(index or 0) >= count:
        there = f"{count} of them" if count else "none"
        raise SettingsError(f"--device {name} is not here: PyTorch {torch.__version__} sees {there}. Leave it out.")
    return name


def require_devices(names: str) -> tuple[str, ...]:
    """Return devices that are there, a worker each.

    Args:
        names: one, or several with commas between, or "all" for every card of the best kind.

    Raises:
        SettingsError: one is no name of a device, is not there, or is named twice.
    """
    import torch

    if names == "all":
        kind = choose_device()
        count = getattr(torch, kind).device_count() if kind in ("cuda", "xpu") else 1
        return tuple(f"{kind}:{index}" for index in range(count)) if count > 1 else (kind,)
    devices = tuple(require_device(name.strip()) for name in names.split(","))
    cards = [device if ":" in device or device in ("cpu", "mps") else f"{device}:0" for device in devices]
    if len(set(cards)) < len(cards):
        raise SettingsError(f"--device {names[:60]!r} names a device twice. Give each once.")
    return devices


def require_attention(name: str) -> str:
    """Return the name of an attention back end that diffusers has, and whose package is here.

    Args:
        name: as diffusers spells it; "" for the library's own choice.

    Raises:
        SettingsError: there is none of this name, or it cannot be used here.
    """
    if not name:
        return name
    import_libraries()
    from diffusers.models import attention_dispatch as dispatch  # late: it takes a second

    known = {one.value: one for one in dispatch.AttentionBackendName}
    if name not in known:
        named = ", ".join(sorted(one for one in known if not one.startswith("_")))
        raise SettingsError(f"--attention {name[:40]!r} is no back end of diffusers. Give one of: {named}.")
    try:
        dispatch._check_attention_backend_requirements(known[name])
    except (RuntimeError, ImportError) as error:
        raise SettingsError(f"--attention {name} cannot be used here: {error}") from error
    return name


def require_compiler(devices: Sequence[str]) -> None:
    """Check that PyTorch finds what it compiles networks with.

    Args:
        devices: where networks run; none for the best there is.

    Raises:
        SettingsError: it is not here, and every run would fail.
    """
    for device in devices or [choose_device()]:
        if reason := explain_missing_compiler(device):
            raise SettingsError(f"--compile: {reason}, or leave --compile out.")


def computes_bfloat16(device: str) -> bool:
    """Say whether a device multiplies in bfloat16 by itself."""
    import torch

    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if device.startswith("cuda") and not torch.version.hip:
        return torch.cuda.get_device_capability(torch.device(device)) >= _FIRST_WITH_BFLOAT16
    return True


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Describes a device's memory at this moment, in bytes; `free` is what nobody uses, this program or another."""

    total: int
    free: int


def read_memory(device: str) -> DeviceMemory | None:
    """Read a device's memory; None of the CPU and of a device that does not tell."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return None
    import torch

    if kind in ("cuda", "xpu"):
        free, total = getattr(torch, kind).mem_get_info(torch.device(device))
        return DeviceMemory(total, free)
    if kind == "mps":
        # Of the computer's memory, what the system lets the GPU have.
        total = torch.mps.recommended_max_memory()
        return DeviceMemory(total, max(0, total - torch.mps.driver_allocated_memory()))
    return None


def name_device(device: str) -> str:
    """Name a device as its maker does: "NVIDIA GeForce RTX 4090", "Apple GPU", "CPU"."""
    kind = device.partition(":")[0]
    if kind not in ("cuda", "xpu"):
        return {"cpu": "CPU", "mps": "Apple GPU"}[kind]
    import torch

    return str(getattr(torch, kind).get_device_name(torch.device(device)))


def describe_device(device: str) -> str:
    """Write a device's name with its free and used memory, as far as it tells."""
    memory = read_memory(device)
    if memory is None:
        return name_device(device)
    used = memory.total - memory.free
    sizes = f"{memory.free / 1e9:.1f} GB free, {used / 1e9:.1f} of {memory.total / 1e9:.1f} GB used"
    return f"{name_device(device)}: {sizes}"
