"""What this machine can run: the device, and the optional packages that are installed."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from types import ModuleType

from pipelines.core.errors import MethodFitError

__all__ = ["Machine", "load_package", "needs_gpu", "needs_package", "this_machine"]


@dataclasses.dataclass(frozen=True)
class Machine:
    """Says what quantizers ask of a machine.

    Attributes:
        device: "cpu", "cuda" (NVIDIA's), "rocm" (AMD's, which PyTorch calls cuda too), "mps", "xpu".
        capability: of an NVIDIA GPU, e.g. (8, 9); (0, 0) for none.
    """

    device: str = "cpu"
    capability: tuple[int, int] = (0, 0)


def this_machine(device: str) -> Machine:
    """Return the machine that models run on."""
    if device.startswith("cuda"):
        import torch

        if torch.version.hip:
            return Machine("rocm")
        return Machine("cuda", torch.cuda.get_device_capability(torch.device(device)))
    return Machine(device.partition(":")[0])


@functools.cache
def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False


def _write_command(requirements: str) -> str:
    return f"pip install -r requirements-{requirements}.txt"


def needs_package(package: str, requirements: str, machine: Machine) -> str | None:
    """Say why a method of an optional package cannot run: the package is missing.

    Args:
        package: as it is imported.
        requirements: NAME of the file requirements-NAME.txt that installs it.
        machine: any.
    """
    return None if _is_installed(package) else f"the package {package} is not installed: {_write_command(requirements)}"


def needs_gpu(package: str, requirements: str, capability: tuple[int, int], machine: Machine) -> str | None:
    """Say why a method for NVIDIA GPUs cannot run: there is none, it is too old, or the package is missing."""
    if machine.device != "cuda":
        return "it needs an NVIDIA GPU"
    if machine.capability < capability:
        have, want = (".".join(map(str, one)) for one in (machine.capability, capability))
        return f"it needs an NVIDIA GPU of compute capability {want}; this one has {have}"
    return needs_package(package, requirements, machine)


def load_package(name: str, requirements: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MethodFitError: it is not there or broken, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise MethodFitError(
            f"The package {name.partition('.')[0]} cannot be used ({error}). Install it: {_write_command(requirements)}"
        ) from error
