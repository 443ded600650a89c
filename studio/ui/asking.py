"""Who asks, in a handler of Gradio's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradio.context import LocalContext

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.results.visible import VisibleResults
    from studio.safety.people import Person

__all__ = ["identify_person", "list_visible_results"]


def identify_person(studio: Studio) -> Person:
    """Identify whoever sent the event that is being handled; where people are kept apart and no event is, nobody."""
    request = LocalContext.request.get(None)
    # Gradio's own request wraps Starlette's; the calls that it makes itself have none.
    inner = getattr(request, "request", None)
    return studio.people.person(getattr(inner, "scope", None))


def list_visible_results(studio: Studio) -> VisibleResults:
    """Return the results as whoever asks sees them."""
    return studio.results(identify_person(studio))
