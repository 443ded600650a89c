"""The caps that the server enforces whatever the page says."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MIB", "Limits"]

MIB = 1024**2


@dataclass(frozen=True)
class Limits:
    """How much one client may ask for.

    Args:
        burst: requests a client address may make at once.
        per_second: requests a second after that.
        login_burst: wrong or right passwords an address may try at once.
        login_per_second: tries a second after that.
        addresses: client addresses remembered; the longest silent is forgotten first.
        upload_bytes: the largest uploaded file, and the largest upload request.
        body_bytes: the largest request of any other kind.
        picture_pixels: width x height of the largest picture that is decoded.
        temp_bytes: what the temporary folder may hold.
        temp_age: seconds after which a temporary file is deleted.
        free_bytes: uploads are refused while the disk has less than this.
    """

    burst: int = 240
    per_second: float = 20.0
    login_burst: int = 10
    login_per_second: float = 0.2
    addresses: int = 4096
    upload_bytes: int = 256 * MIB
    body_bytes: int = 16 * MIB
    picture_pixels: int = 50_000_000
    temp_bytes: int = 4096 * MIB
    temp_age: float = 24 * 3600.0
    free_bytes: int = 512 * MIB
