"""The name that somebody typed to sign in, read from the form on its way to gradio."""

from __future__ import annotations

import io
import re

from studio.safety.asgi import Message, Receive, Scope, get_header

__all__ = ["TypedLogin", "is_sign_in"]

_MOST = 64 * 1024
"""Bytes of a form that are looked at."""

_LOGIN_PATH = re.compile(r"/login/?\Z")


def is_sign_in(scope: Scope) -> bool:
    """Say whether a request sends name and password."""
    return scope["type"] == "http" and scope["method"] == "POST" and bool(_LOGIN_PATH.search(scope["path"]))


class TypedLogin:
    """Hands a request's body on and keeps what it may hold of a form.

    Args:
        receive: of a request to sign in.
    """

    def __init__(self, receive: Receive):
        self._receive, self._body = receive, bytearray()

    async def receive(self) -> Message:
        """Receive the next part of the body."""
        message = await self._receive()
        if len(self._body) <= _MOST:
            self._body += message.get("body", b"")
        return message

    def read(self, scope: Scope) -> str:
        """Return the name as gradio reads it; "" where the body is none of its forms.

        Args:
            scope: of the request.
        """
        if not self._body or len(self._body) > _MOST:
            return ""
        from python_multipart import parse_form  # late: importing the guards imports no parser of forms

        names: list[bytes] = []

        def add(field: object) -> None:
            if getattr(field, "field_name", None) == b"username":
                names.append(getattr(field, "value", None) or b"")

        headers = {"Content-Type": (get_header(scope, "content-type") or "").encode("latin-1")}
        try:
            parse_form(headers, io.BytesIO(bytes(self._body)), add, lambda file: None)
        except ValueError:  # of which the parser's own errors are some
            return ""
        return names[-1].decode("utf-8", "replace").strip() if names else ""
