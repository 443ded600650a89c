"""A refused event is the asker's mistake, and no error of the server's."""

from __future__ import annotations

import json

from studio.safety.asgi import App, Message, Receive, Scope, Send, get_api_route

__all__ = ["RefusalGuard"]


class RefusalGuard:
    """Answers 422 where gradio answers 500 with a sentence for the person.

    Gradio says 500 for whatever an event raises: for a sentence that is meant to be read as for a fault. Only the
    former carries a title; a fault stays a 500.

    Args:
        app: gradio's.
    """

    def __init__(self, app: App):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = get_api_route(scope) if scope["type"] == "http" else None
        if route is None or route.partition("/")[0] not in ("run", "api"):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def send_judged(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] == 500:
                start = message
                return
            if start is not None:
                await send({**start, "status": 422 if _is_refusal(message.get("body", b"")) else 500})
                start = None
            await send(message)

        await self._app(scope, receive, send_judged)


def _is_refusal(body: bytes) -> bool:
    try:
        content = json.loads(body)
    except ValueError:
        return False
    return isinstance(content, dict) and "title" in content and isinstance(content.get("error"), str)
