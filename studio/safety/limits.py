"""The caps that the server enforces whatever the page says."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MIB", "ClientLimits"]

MIB = 1024**2


@dataclass(frozen=True)
class ClientLimits:
    """Says how much one client may ask for.

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
        open_bytes: bodies of all requests together that are not done with yet, by their announced lengths.
        header_seconds: for a request's headers, from a connection's or the request's first byte.
        body_pause: seconds for which a body may pause.
        body_rate: bytes a second that a body must come with on the whole.
        connections: open at once.
        address_connections: open at once from one client address, a proxy's too.
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
    open_bytes: int = 512 * MIB
    header_seconds: float = 15.0
    body_pause: float = 30.0
    body_rate: float = 32 * 1024
    connections: int = 2048
    address_connections: int = 1024
