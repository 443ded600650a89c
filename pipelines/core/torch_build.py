"""What PyTorch can do here, from its files where they say so: a page need not wait the second that its import takes.

Once PyTorch is imported it is asked itself, and before that wherever its files leave something open. The command line's
help reads this module, too, so that PyTorch is imported in its functions.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

__all__ = ["has_onednn", "has_only_processor", "has_quantized_engines", "has_vnni"]

_KIND = re.compile(r"^(cuda|hip|xpu)\b[^=\n]*= *(.+)$", re.MULTILINE)
_DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
"""NVIDIA's driver, without which a build for CUDA finds no card."""
_FLAGS = re.compile(r"^flags\s*:(.*)$", re.MULTILINE)


def has_only_processor(
    folder: Path | None = None, platform: str = sys.platform, load: Callable[[str], object] = ctypes.CDLL
) -> bool:
    """Say whether PyTorch is sure to find no device but the CPU; False also where only PyTorch itself can tell.

    Args:
        folder: of PyTorch; None for the installed one.
        platform: as `sys.platform`.
        load: loads a library of the system, or raises OSError.
    """
    folder = folder or _find_folder()
    if folder is None or platform not in _DRIVERS:  # Apple's builds are for Apple's GPUs
        return False
    try:
        kinds = dict(_KIND.findall((folder / "version.py").read_text(encoding="utf-8")))
    except OSError:
        return False
    built_for = {kind for kind, version in kinds.items() if version.strip() != "None"}
    if "cuda" not in kinds or not built_for <= {"cuda"}:
        return False
    return not built_for or not _can_load(load, _DRIVERS[platform])


def has_onednn() -> bool:
    """Say whether this build of PyTorch has oneDNN."""
    if _has_header("dnnl.h"):
        return True
    import torch

    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def has_quantized_engines() -> bool:
    """Say whether this build of PyTorch has kernels of quantized layers."""
    if _has_header("fbgemm"):
        return True
    import torch

    return any(name != "none" for name in torch.backends.quantized.supported_engines)


def has_vnni(processor: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether the CPU has the VNNI instructions of AVX-512.

    Args:
        processor: what Linux says of it.
    """
    if not _is_imported():
        try:
            flags = _FLAGS.search(processor.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            flags = None
        if flags is not None:
            return "avx512_vnni" in flags[1].split()
    import torch

    return torch.cpu._is_vnni_supported()


def _is_imported() -> bool:
    return "torch._C" in sys.modules  # what stands for a package that is imported late is there before


def _find_folder() -> Path | None:
    spec = None if _is_imported() else find_spec("torch")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def _has_header(name: str) -> bool:
    """Whether PyTorch is not imported yet and brings a library's header, which only builds with the library do."""
    folder = _find_folder()
    return folder is not None and (folder / "include" / name).exists()


def _can_load(load: Callable[[str], object], name: str) -> bool:
    try:
        load(name)
    except OSError:
        return False
    return True
