"""What people do to jobs and results, written into the audit log."""

from __future__ import annotations

from collections.abc import Sequence

from studio.results.store import Record, Store
from studio.results.visible import VisibleResults
from studio.safety.audit import AuditLog
from studio.safety.people import People, Person

__all__ = ["see_results", "write_act"]


def write_act(
    audit: AuditLog, people: People, event: str, person: Person, owners: Sequence[str], **facts: object
) -> None:
    """Write into the audit log; what an admin does to what is not theirs is marked as such.

    Args:
        audit: the log.
        people: whether they are kept apart.
        event: a word of the log's.
        person: who did it.
        owners: of what it was done to.
        facts: written beside it.
    """
    is_admin_act = people.are_separate and any(owner != person.owner for owner in owners)
    audit.write(event, person.owner, **facts, **({"admin": True} if is_admin_act else {}))


def see_results(store: Store, person: Person, people: People, audit: AuditLog) -> VisibleResults:
    """Return the results as a person sees them; what the person changes is written into the audit log."""

    def note_change(event: str, records: Sequence[Record]) -> None:
        own_tag = store.owners.tag(person.owner)
        owners = [person.owner if record.owner == own_tag else record.owner for record in records]
        write_act(audit, people, event, person, owners, results=[record.id for record in records][:100])

    owner = None if person.is_admin else person.owner
    return VisibleResults(store, owner, person.sees_results, note_change)
