"""Whether PyTorch would find the compiler that it needs to compile a network."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

__all__ = ["explain_missing_compiler"]


def explain_missing_compiler(device: str) -> str | None:
    """Say what `torch.compile` lacks on this computer; None where nothing is known to be missing.

    Args:
        device: "cpu", "cuda:1", ...
    """
    kind = device.partition(":")[0]
    if kind in ("cuda", "xpu"):
        missing = importlib.util.find_spec("triton") is None
        return "PyTorch compiles for GPUs through Triton, which is not here: install triton" if missing else None
    # As torch._inductor looks for one; importing that to ask takes longer than building the page's tab.
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    if kind == "cpu" and not shutil.which(os.environ.get("CXX", usual)):
        return f"PyTorch compiles it, and finds no C++ compiler here: install {usual}"
    return None
