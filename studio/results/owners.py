"""Under which name an owner stands in the index and in the files: a pseudonym, since files are sent on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from studio.results.files import explain_disk_errors, write_atomically

__all__ = ["KEY_FILE", "OwnerTags"]

KEY_FILE = ".owners-key"
"""In the results folder. Without it what was made before belongs to nobody, and only an admin sees it."""

_KEY_BYTES = 32


class OwnerTags:
    """Gives owners pseudonyms: the same for an owner as long as the folder's key is there, and never to be read back.

    Args:
        folder: of the results.
    """

    def __init__(self, folder: Path):
        self._path = folder / KEY_FILE
        self._key = b""

    def tag(self, owner: str) -> str:
        """Return 16 hexadecimal digits for an owner; "" for nobody.

        Raises:
            StoreError: the key cannot be read or written.
        """
        if not owner:
            return ""
        return hashlib.blake2b(owner.encode("utf-8", "surrogatepass"), key=self._secret(), digest_size=8).hexdigest()

    def _secret(self) -> bytes:
        with explain_disk_errors():
            if not self._key:
                with contextlib.suppress(FileNotFoundError):
                    self._key = self._path.read_bytes()[:64]
            if not self._key:
                self._key = secrets.token_bytes(_KEY_BYTES)
            if not self._path.exists():  # the first time, or somebody deleted the folder while the program ran
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, self._key)
                with contextlib.suppress(OSError):
                    os.chmod(self._path, 0o600)
        return self._key
