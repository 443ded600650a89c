"""The studio that page, endpoints, command line and tests share: models, jobs and results."""

from studio.backend.settings import StudioSettings
from studio.backend.studio import QUEUE, Studio

__all__ = ["QUEUE", "Studio", "StudioSettings"]
