"""Plain re-prompting: the source's noise denoised with another prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipelines.core.registry import NoSettings
from pipelines.core.sampler import Sampler
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.local_blend import LocalBlend

__all__ = ["Reprompt"]


class Reprompt(UnpatchedEdit):
    """Goes from the end of the inversion back down with the edit's prompt; a drawn mask keeps the edit inside it.

    Source: Mokady et al., Null-text inversion, arXiv:2211.09794, section 3.1, the baseline.
    """

    inverts = True
    looks_at_source = False

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        yield context.sampler if context.mask is None else LocalBlend(context.sampler, context.mask)
