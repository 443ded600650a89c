"""From the command line of `app.py` to the settings of a studio."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.models.device_choice import DTYPES, Acceleration
from pipelines.requests.limits import Limits
from studio.backend.settings import StudioSettings

if TYPE_CHECKING:
    from studio.safety.launch_settings import LaunchSettings

__all__ = ["build_studio_settings"]


def build_studio_settings(settings: LaunchSettings, gpu: Callable[..., object] | None = None) -> StudioSettings:
    """Build the settings of a studio that is served.

    Args:
        settings: of the command line.
        gpu: what sends a job to a ZeroGPU Space's GPU; None elsewhere.
    """
    return StudioSettings(
        outputs=settings.outputs,
        models=settings.models,
        more_models=settings.more_models,
        follow_links=settings.follow_links,
        memory_budget=settings.memory_budget,
        device=next(iter(settings.devices), None),
        more_devices=settings.devices[1:],
        dtype=DTYPES[settings.dtype] or "auto",
        acceleration=Acceleration(settings.attention, settings.compile, settings.channels_last),
        limits=Limits(
            max_queue=settings.max_queue,
            max_seconds=settings.run_seconds,
            max_cached_bytes=settings.cached_bytes,
        ),
        gpu=gpu,
        people=settings.people,
        housekeeping=settings.housekeeping,
        audit_log=settings.audit_log,
        protection=settings.protection,
        keeps_queue=True,
    )
