"""People sign out by a form of the page's own: a link to it, in a picture's place on any site, would do it for them."""

from __future__ import annotations

from studio.safety.asgi import App, Receive, Scope, Send, refuse

__all__ = ["SignOutGuard"]


class SignOutGuard:
    """Lets nobody sign out but by POST, which other sites are refused; gradio itself takes a GET for it.

    Args:
        app: gradio's.
    """

    def __init__(self, app: App):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/logout"):
            await self._app(scope, receive, send)
        elif scope["method"] == "POST":
            await self._app({**scope, "method": "GET"}, receive, send)
        else:
            await refuse(scope, send, 405, "Sign out with the button of the page.", [(b"allow", b"POST")])
