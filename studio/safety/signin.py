"""Where people sign in, nothing but the login page answers before they have.

Gradio asks for a login on the routes that call functions. Others stay open: event streams,
canceling, the agents' tools, and every route that somebody adds to its application.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from studio.safety.asgi import App, Receive, Scope, Send, get_api_route, refuse
from studio.safety.owner import LOGIN

__all__ = ["SignInGuard"]

# What the login page loads, and what gradio asks its own server while it starts. `/config` and
# `/` say themselves that a login is needed.
_OPEN_PAGES = frozenset(
    [
        "/",
        "/login",
        "/config",
        "/theme.css",
        "/favicon.ico",
        "/manifest.json",
        "/robots.txt",
        "/logout",
        "/healthz",
        "/readyz",
        "/metrics",
    ]
)
_OPEN_FOLDERS = ("/assets/", "/static/", "/svelte/", "/pwa_icon")
_OPEN_ROUTES = frozenset(("startup-events", "user", "login_check", "token", "app_id", "theme.css"))


class SignInGuard:
    """Answers 401 to whoever has not signed in, and notes in the scope who has.

    Args:
        app: what is guarded.
        login: the name of whoever sent a request; None for somebody who has not signed in.
        pages: paths of further pages, without slashes around: gradio shows its login page there.
    """

    def __init__(self, app: App, login: Callable[[Scope], str | None], pages: Collection[str] = ()):
        self._app, self._login = app, login
        self._pages = _OPEN_PAGES | {f"/{page}" for page in pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope[LOGIN] = self._login(scope)
            if not scope[LOGIN] and not self._is_open(scope):
                await refuse(scope, send, 401, "Sign in first.")
                return
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        route = get_api_route(scope)
        if route is not None:
            return route.rstrip("/") in _OPEN_ROUTES
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/")) or "/"
        if path.startswith(_OPEN_FOLDERS):
            return True
        return path in self._pages or path.rstrip("/") in self._pages
