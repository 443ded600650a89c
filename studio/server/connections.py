"""How long a connection may say nothing, and how many there may be: the web server itself sets no such limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

from studio.safety.limits import ClientLimits

__all__ = ["build_protocol", "limited_connections"]

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 33\r\nretry-after: 10\r\n"
    b"connection: close\r\n\r\nToo many connections. Wait a bit.\n"
)

_IDLE_SECONDS = 60
"""For which a connection is kept open between two requests. With uvicorn's five, a program that paused for as long on a
busy machine met a connection that was just being closed."""


def build_protocol(limits: ClientLimits, base: type[Any] | None = None) -> type[Any]:
    """Build uvicorn's HTTP protocol with deadlines for headers and caps on open connections.

    Args:
        limits: `header_seconds`, `connections` and `address_connections`.
        base: uvicorn's class; None for the one that it would choose.
    """
    if base is None:
        from uvicorn.protocols.http.auto import AutoHTTPProtocol

        base = AutoHTTPProtocol

    class LimitedProtocol(base):  # type: ignore[misc, valid-type]
        """A connection that is closed when its request's headers do not come."""

        _headers_due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            address = _address(self)
            of_address = sum(_address(one) == address for one in self.connections)
            if len(self.connections) > limits.connections or of_address > limits.address_connections:
                transport.write(_BUSY)
                transport.close()
            else:
                self._expect_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_answering():
                self._cancel_timer()
            elif self._headers_due is None:  # the next request of a connection that was kept open
                self._expect_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_timer()
            super().connection_lost(exc)

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _expect_headers(self) -> None:
            self._headers_due = self.loop.call_later(limits.header_seconds, self._close_silent)

        def _cancel_timer(self) -> None:
            if self._headers_due is not None:
                self._headers_due.cancel()
                self._headers_due = None

        def _close_silent(self) -> None:
            self._headers_due = None
            is_ours = self.transport.get_protocol() is self  # a WebSocket has taken it over
            if is_ours and not self._is_answering() and not self.transport.is_closing():
                self.transport.close()

    return LimitedProtocol


def _address(connection: object) -> str:
    client = getattr(connection, "client", None)
    return client[0] if client else ""


@contextlib.contextmanager
def limited_connections(limits: ClientLimits, grace_seconds: int) -> Iterator[None]:
    """Have a server that gradio starts in this context use our protocol: its `launch` has no argument for that.

    Args:
        limits: see `build_protocol`.
        grace_seconds: for which a server that stops waits for open connections.
    """
    import uvicorn
    from gradio import http_server

    config = partial(
        uvicorn.Config,
        http=build_protocol(limits),
        timeout_graceful_shutdown=grace_seconds,
        timeout_keep_alive=_IDLE_SECONDS,
    )
    http_server.uvicorn = SimpleNamespace(Config=config, Server=uvicorn.Server)  # type: ignore[assignment]
    try:
        yield
    finally:
        http_server.uvicorn = uvicorn
