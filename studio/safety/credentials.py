"""Names and passwords, compared in constant time and never shown."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path

from pipelines.core.errors import SettingsError

__all__ = ["Credentials", "read_pairs"]


class Credentials:
    """Knows who may sign in.

    Args:
        pairs: `USER:PASSWORD` texts. A password may contain colons.

    Raises:
        SettingsError: a pair lacks a part, or a name comes twice. The message shows no password.
    """

    def __init__(self, pairs: Iterable[str]):
        self._salt = secrets.token_bytes(16)
        self._digests: dict[str, bytes] = {}
        for number, pair in enumerate(pairs, 1):
            user, colon, password = pair.partition(":")
            user = user.strip()
            if not (user and colon and password):
                raise SettingsError(f"Login {number} is incomplete. Write it as USER:PASSWORD.")
            if user in self._digests:
                raise SettingsError(f"The user {user[:40]!r} is named twice. Keep one of the two.")
            self._digests[user] = self._hash(password)

    def _hash(self, password: str) -> bytes:
        return hashlib.sha256(self._salt + password.encode("utf-8", "surrogatepass")).digest()

    @property
    def users(self) -> tuple[str, ...]:
        """Return their names."""
        return tuple(self._digests)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Credentials({len(self._digests)} users)"

    def check(self, user: str, password: str) -> bool:
        """Say whether this user has this password; equally long for every wrong answer.

        Args:
            user: name as typed.
            password: as typed.

        Returns:
            True where both are right.
        """
        attempt, right = self._hash(password), False
        for name, digest in self._digests.items():
            is_user = hmac.compare_digest(name.encode(), user.encode("utf-8", "surrogatepass"))
            right |= is_user & hmac.compare_digest(digest, attempt)
        return right


def read_pairs(path: Path) -> list[str]:
    """Reads a file of logins.

    Args:
        path: one `USER:PASSWORD` a line; empty lines and lines that start with # are skipped.

    Returns:
        The pairs.

    Raises:
        SettingsError: the file cannot be read or names nobody.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The file of logins {path} cannot be read. Check its name.") from error
    pairs = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not pairs:
        raise SettingsError(f"The file of logins {path} names nobody. Write USER:PASSWORD in it.")
    return pairs
