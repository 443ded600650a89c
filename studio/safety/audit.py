"""The audit log: who signed in, was refused, deleted, cancelled, and what an admin did, a line of JSON each.

It holds names of people and addresses of clients, never a password, a prompt or a picture.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import time
from collections.abc import Callable, Collection
from pathlib import Path

from pipelines.core.errors import StoreError
from studio.safety.asgi import App, Message, Receive, Scope, Send
from studio.safety.owner import LOGIN
from studio.safety.rate import get_client_key
from studio.safety.typed_login import TypedLogin, is_sign_in

__all__ = ["AuditGuard", "AuditLog"]

_BYTES, _FILES = 10 * 2**20, 5


class AuditLog:
    """Appends to a file, which is renamed when it is large; without a path it writes nothing.

    Args:
        path: of the file.

    Raises:
        StoreError: it cannot be written.
    """

    def __init__(self, path: Path | None = None):
        self._logger = logging.Logger("stepwise.audit", logging.INFO)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(path, "a", _BYTES, _FILES, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"The audit log {path} cannot be written: {error.strerror or error}.") from error
        handler.setFormatter(logging.Formatter("%(message)s"))
        self._logger.addHandler(handler)

    def write(self, event: str, who: str, **facts: object) -> None:
        """Append a line.

        Args:
            event: what happened, such as "delete".
            who: opaque id or login of whoever did it.
            facts: plain values.
        """
        if self._logger.handlers:
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, "who": who[:120], **facts}
            self._logger.info(json.dumps(line, ensure_ascii=True))

    def close(self) -> None:
        """Close the file."""
        for handler in list(self._logger.handlers):
            handler.close()
            self._logger.removeHandler(handler)


class AuditGuard:
    """Writes down sign-ins, sign-outs and refusals, and counts the latter.

    A refused sign-in is written down with its name only where that is a login: else it may be a password, typed into
    the wrong field.

    Args:
        app: with all other guards, which note in the scope who asks.
        audit: the log.
        count_refusal: called with the status of each refused request.
        logins: names of those who may sign in.
    """

    def __init__(
        self,
        app: App,
        audit: AuditLog,
        count_refusal: Callable[[int], None] = lambda status: None,
        logins: Collection[str] = (),
    ):
        self._app, self._audit, self._count_refusal = app, audit, count_refusal
        self._logins = frozenset(logins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        typed = TypedLogin(receive) if self._logins and is_sign_in(scope) else None

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message["status"], typed)
            await send(message)

        await self._app(scope, typed.receive if typed else receive, noted)

    def _note(self, scope: Scope, status: int, typed: TypedLogin | None) -> None:
        path, method = scope["path"][:200], scope["method"]
        login, address = scope.get(LOGIN), get_client_key(scope)
        who = f"login {login}" if login else ""
        if typed is not None:
            name = typed.read(scope)
            who = f"login {name}" if name in self._logins else ""
        last = path.rstrip("/").rpartition("/")[2]
        if last == "login" and method == "POST":
            self._audit.write("sign-in" if status < 400 else "sign-in refused", who, address=address, status=status)
        elif last == "logout" and method == "POST":
            self._audit.write("sign-out", who, address=address)
        if status in (503, 507) or (400 <= status < 500 and status != 404):
            self._count_refusal(status)
            if last != "login":
                self._audit.write("refusal", who, address=address, status=status, method=method, path=path)
