"""What is different on a Hugging Face Space with ZeroGPU hardware, and nothing anywhere else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import ModelMissingError, SettingsError

if TYPE_CHECKING:
    from pipelines.core.types import Choice
    from pipelines.families.base import Family
    from studio.backend import Studio
    from studio.jobs.job import Job

__all__ = ["MODELS", "forked_run", "gpu_decorator", "preloaded"]

MODELS = "STEPWISE_ZERO_MODELS"
"""Variable of a Space: keys of the models that it loads at its start, with commas between; default: the shipped one."""

_TRUE = ("1", "t", "true")


def gpu_decorator(environ: Mapping[str, str] | None = None) -> Callable[..., Any] | None:
    """`spaces.GPU` on ZeroGPU hardware; None elsewhere, where it would change nothing.

    Call it before anything starts CUDA: the package refuses to be imported later. On a Space without ZeroGPU it is
    imported all the same, if it is there, so that a Space can be given other hardware at any time.

    Args:
        environ: default: that of this process.

    Raises:
        SettingsError: ZeroGPU without its package.
    """
    environ = os.environ if environ is None else environ
    if not environ.get("SPACE_ID"):
        return None
    is_zero = environ.get("SPACES_ZERO_GPU", "").lower() in _TRUE
    try:
        import spaces
    except ImportError:
        if is_zero:
            raise SettingsError("ZeroGPU needs a package that is not installed. Run: pip install spaces") from None
        return None
    return spaces.GPU if is_zero else None


def preloaded(environ: Mapping[str, str] | None = None) -> Sequence[str]:
    """Keys of the models that a ZeroGPU Space loads at its start."""
    environ = os.environ if environ is None else environ
    return [key.strip() for key in environ.get(MODELS, "emoji").split(",") if key.strip()]


def forked_run(studio: Studio, keys: Sequence[str]) -> tuple[Callable[[Job], None], Callable[[], None]]:
    """Load models for good: what does a job's work in a forked worker, taking no lock, and what lets the models go.

    Args:
        studio: of the parent.
        keys: of the models.

    Raises:
        ModelError: one is not there, or is broken.
    """
    from pipelines.families.base import Family
    from studio.jobs.job import Job
    from studio.tasks import TASKS

    held = contextlib.ExitStack()
    families = {key: held.enter_context(studio.model(key, Job("start", None))) for key in keys}
    bytes_on_disk = {
        key: studio.disk_bytes(key, family) for key, family in families.items() if isinstance(family, Family)
    }
    shared = _Forked(studio, families, bytes_on_disk)
    return lambda job: TASKS[job.task].run(job.request, job, shared), held.close


class _Forked:
    """The studio as a forked worker may use it: the models that were loaded before the fork, and no cache.

    Whatever would take a lock of the loader or of its cache is replaced here: a thread of the parent may have held it
    when the worker was forked, and then nobody would ever let it go. The catalog, the store and the models folder have
    no lock; the loader's device is a plain value by now.
    """

    def __init__(self, studio: Studio, families: Mapping[str, Any], bytes_on_disk: Mapping[str, int | None]):
        self._studio, self._families, self._bytes_on_disk = studio, families, bytes_on_disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._studio, name)

    @contextlib.contextmanager
    def model(self, key: str, job: Job) -> Iterator[Any]:
        """The model while the context lasts.

        Raises:
            ModelMissingError: it was not loaded at the start.
        """
        if key not in self._families:
            raise ModelMissingError(
                f"This Space loads its models when it starts: {', '.join(self._families)}. Choose one of "
                f"these, or name {key!r} in the variable {MODELS} of your own copy."
            )
        yield self._families[key]

    @contextlib.contextmanager
    def quantized(self, key: str, choice: Choice, full: Family, job: Job) -> Iterator[Family]:
        """As `Studio.quantized`, in this process alone."""
        from pipelines.families import family_of
        from pipelines.quantizers import QUANTIZERS, build_quantizer, this_machine
        from pipelines.quantizers.base import quantized

        quantizer = build_quantizer(choice, this_machine(self._studio.loader.device))
        made = quantized(full.network, quantizer, QUANTIZERS[choice.key].label, job.cancelled)
        yield family_of({**full.components, full.network_name: made})

    def disk_bytes(self, key: str, family: Family) -> int | None:
        """As `Studio.disk_bytes`, looked up before the fork."""
        return self._bytes_on_disk[key]
