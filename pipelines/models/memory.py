"""How much memory this computer has."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["total_memory"]

_UNKNOWN = 8 * 2**30


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        *((name, ctypes.c_ulonglong) for name in ("total", "free", "page", "page_free", "virtual", "virtual_free")),
        ("extended_free", ctypes.c_ulonglong),
    )


def total_memory() -> int:
    """Bytes of this computer's memory; 8 GiB where the system does not say."""
    if sys.platform == "win32":
        return _windows_memory() or _UNKNOWN
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _windows_memory() -> int:
    status = _MemoryStatus()
    status.length = ctypes.sizeof(status)
    library = getattr(ctypes, "windll", None)
    if library is None or not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0
    return int(status.total)
