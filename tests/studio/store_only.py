"""A studio of which only the results are needed, where nobody signs in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from studio.results.store import Store
from studio.results.visible import VisibleResults
from studio.safety.people import EVERYBODY


def store_only(store: Store, **more: Any) -> SimpleNamespace:
    """What handlers and routes of the results ask a studio for."""

    def results(person: Any) -> VisibleResults:
        return VisibleResults(store, None if person.is_admin else person.owner, person.sees_results)

    return SimpleNamespace(**{"store": store, "people": EVERYBODY, "results": results, **more})
