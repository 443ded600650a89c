"""How PyTorch's threads wait for each other, which decides the speed of a machine that does other work too."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

__all__ = ["let_threads_sleep"]


def let_threads_sleep(environ: MutableMapping[str, str] | None = None) -> None:
    """Make OpenMP's threads sleep while they wait, unless the environment says how they should wait.

    By default they spin. On two cores that another program was using too, 25 guided steps of the shipped model
    took 10 to 60 s with two spinning threads, 3.4 to 4.6 s with two sleeping ones and 3.0 to 3.6 s with one
    thread, in turns in one sitting. OpenMP reads the setting when PyTorch is imported: call this before.

    Args:
        environ: to be changed; default: that of this process.
    """
    (os.environ if environ is None else environ).setdefault("OMP_WAIT_POLICY", "PASSIVE")
