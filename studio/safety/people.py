"""Who may see and change what somebody made: where people sign in, each their own, and an admin everything.

Without a sign-in nobody can be told from anybody else, so everybody sees everything, and a job's id, drawn at random,
is the right to watch and to stop it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.safety.asgi import Scope
from studio.safety.owner import derive_owner

__all__ = ["EVERYBODY", "PROGRAM", "People", "Person"]


@dataclass(frozen=True)
class Person:
    """Represents whoever asks for something.

    Attributes:
        owner: opaque id under which their jobs and results are entered; "" for nobody in particular.
        is_admin: whether they see and change what others made.
        sees_results: whether they see, but do not change, the results of others.
    """

    owner: str = ""
    is_admin: bool = False
    sees_results: bool = False

    def owns(self, owner: str) -> bool:
        """Say whether they may watch, stop, change and delete what this owner made."""
        return self.is_admin or (bool(self.owner) and self.owner == owner)


PROGRAM = Person(is_admin=True)
"""The program itself: the command line, and whatever no request asked for."""


@dataclass(frozen=True)
class People:
    """Says whether people are kept apart.

    Attributes:
        are_separate: whether they sign in.
        admins: logins of those who see and change everything.
        share_results: whether everybody sees everybody's results; each still deletes their own only.
    """

    are_separate: bool = False
    admins: frozenset[str] = field(default_factory=frozenset)
    share_results: bool = False

    def person(self, scope: Scope | None, claimed: str = "") -> Person:
        """Return whoever sent a request.

        Args:
            scope: of the request; None where none is known, who is then nobody with any rights.
            claimed: what the page or the program calls itself: see `derive_owner`.
        """
        return self.owner(derive_owner(scope, claimed) if scope is not None else "")

    def owner(self, owner: str) -> Person:
        """Return the person behind an owner's id, as jobs are entered under it."""
        if not self.are_separate:
            return Person(owner, is_admin=True)
        login = owner.removeprefix("login ") if owner.startswith("login ") else ""
        if not login:
            return Person()
        return Person(owner, login in self.admins, self.share_results)


EVERYBODY = People()
"""Nobody signs in."""
