"""The results as one person sees them: whoever asks for another's is told that there is no such result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from pipelines.core.errors import StoreError
from studio.results.options import EVERYTHING, ListOptions
from studio.results.records import Freed, Record
from studio.results.store import Store

__all__ = ["VisibleResults", "missing"]


_NOBODY = "nobody"
"""No pseudonym, so that a person without an owner's id does not own what nobody in particular made."""


def missing(id: object) -> StoreError:
    """Return what is said of a result that there is not, and in the same words of one that is somebody else's."""
    return StoreError(f"There is no result {str(id)[:40]!r}: it may have been removed for good; reload the gallery.")


class VisibleResults:
    """Reads and changes results on behalf of a person.

    Args:
        store: of everybody's results.
        owner: whose results may be changed; None for everybody's, "" for nobody's.
        reads_all: whether those of others may be read all the same, as long as they are not deleted.
        changed: called with what was done ("delete", "restore", "remove", "star", "unstar") and the results; of an
            emptied trash none.
    """

    def __init__(
        self,
        store: Store,
        owner: str | None = None,
        reads_all: bool = False,
        changed: Callable[[str, Sequence[Record]], None] = lambda event, records: None,
    ):
        self._store, self._changed = store, changed
        self._tag = None if owner is None else store.owners.tag(owner) or _NOBODY
        self._reads_all = owner is None or reads_all

    def get(self, id: str) -> Record:
        """Return one result, deleted or not.

        Raises:
            StoreError: there is none with this id that this person may see.
        """
        record = self._store.get(id)
        if self._owns(record) or (self._reads_all and record.trashed is None):
            return self._hide_star(record)
        raise missing(id)

    def list(
        self,
        limit: int = 50,
        before: str | None = None,
        kind: str | None = None,
        text: str = "",
        *,
        trashed: bool = False,
        options: ListOptions = EVERYTHING,
    ) -> Sequence[Record]:
        """List results: see `Store.list`. Favorites are this person's alone."""
        tag = self._tag if options.favorites else self._choose_tag(trashed)
        records = self._store.list(limit, before, kind, text, trashed=trashed, owner=tag, options=options)
        return [self._hide_star(record) for record in records]

    def count_kinds(self, trashed: bool = False) -> Mapping[str, int]:
        """Count the results of each kind: see `Store.count_kinds`."""
        return self._store.count_kinds(trashed, owner=self._choose_tag(trashed))

    def count_models(self) -> Mapping[str, int]:
        """Count the results of each model: see `Store.count_models`."""
        return self._store.count_models(owner=self._choose_tag(trashed=False))

    def star(self, id: str) -> Record:
        """Enter a result as a favorite; raises as `delete`."""
        return self._set_favorite(id, True)

    def unstar(self, id: str) -> Record:
        """Enter a result as no favorite; raises as `delete`."""
        return self._set_favorite(id, False)

    def delete(self, id: str) -> Record:
        """Move a result into the trash.

        Raises:
            StoreError: there is none with this id, or it belongs to somebody else.
        """
        self._require_own(id)
        record = self._store.delete(id)
        self._changed("delete", [record])
        return record

    def restore(self, id: str) -> Record:
        """Take a result out of the trash; raises as `delete`."""
        self._require_own(id)
        record = self._store.restore(id)
        self._changed("restore", [record])
        return record

    def remove(self, id: str) -> Freed:
        """Remove a deleted result for good; raises as `delete`."""
        record = self._require_own(id)
        freed = self._store.remove([id])
        self._changed("remove", [record])
        return freed

    def measure_trash(self) -> Freed:
        """Count what `empty_trash` would remove."""
        return self._store.measure_trash(owner=self._tag)

    def empty_trash(self) -> Freed:
        """Remove for good what this person has deleted."""
        freed = self._store.empty_trash(owner=self._tag)
        self._changed("empty trash", [])
        return freed

    def _set_favorite(self, id: str, favorite: bool) -> Record:
        self._require_own(id, "mark it as a favorite")
        self._store.set_favorite(id, favorite)
        record = self._store.get(id)
        self._changed("star" if favorite else "unstar", [record])
        return record

    def _hide_star(self, record: Record) -> Record:
        """Return a record as this person sees it: a favorite of somebody else is none."""
        return record if self._owns(record) else dataclasses.replace(record, favorite=False)

    def _choose_tag(self, trashed: bool) -> str | None:
        return None if self._reads_all and not trashed else self._tag

    def _owns(self, record: Record) -> bool:
        return self._tag in (None, record.owner)

    def _require_own(self, id: str, change: str = "delete or restore it") -> Record:
        record = self.get(id)
        if not self._owns(record):
            raise StoreError(f"This result belongs to somebody else, who alone can {change}.")
        return record
