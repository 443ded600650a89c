"""What the browser is told not to do."""

from __future__ import annotations

from studio.safety.asgi import App, Message, Receive, Scope, Send

__all__ = ["HeaderGuard", "build_security_headers"]

# Gradio's page builds functions from text and styles in place, shows pictures from data: and
# blob: addresses, and needs nobody but its own server.
_OWN_ONLY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)


def build_security_headers(frame_ancestors: str, contain: bool = True) -> tuple[tuple[bytes, bytes], ...]:
    """Build the headers that every answer carries.

    Args:
        frame_ancestors: who may show the page in a frame, as the policy writes it: `'self'`.
        contain: whether the page may talk to this server only. A shared page may not be
            contained: it loads gradio's script from elsewhere.

    Returns:
        Name and value of each header.
    """
    policy = f"frame-ancestors {frame_ancestors}"
    if contain:
        policy = f"{_OWN_ONLY}; {policy}"
    return (
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"content-security-policy", policy.encode("latin-1")),
    )


class HeaderGuard:
    """Adds headers to every answer, in place of any of the same name.

    A policy that is already there stays beside ours: a browser obeys both.

    Args:
        app: what is guarded.
        headers: to be added.
    """

    def __init__(self, app: App, headers: tuple[tuple[bytes, bytes], ...]):
        self._app, self._headers = app, headers
        self._names = {name for name, _ in headers} - {b"content-security-policy"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent_headers = message.get("headers", ())
                unchanged = [(key, value) for key, value in sent_headers if key.lower() not in self._names]
                message["headers"] = [*unchanged, *self._headers]
            await send(message)

        await self._app(scope, receive, send_with_headers)
