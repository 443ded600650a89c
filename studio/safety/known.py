"""What gradio does not know is answered with 404 or 422: by itself it breaks on it, with a traceback in the log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from studio.safety.asgi import App, Receive, Scope, Send, get_api_route, refuse

__all__ = ["CONTENT", "Known", "KnownGuard"]

CONTENT = "stepwise.content"
"""Where a request's scope holds its parsed JSON: see `PayloadGuard`."""


@dataclass(frozen=True)
class Known:
    """Lists what a page has.

    Attributes:
        endpoints: names without a slash.
        parameters: an endpoint's name to its parameters: name to whether it must be given.
        functions: ids of its events.
        components: ids of its components.
        has_event: whether an event of this id waits, runs, or has an answer that was not fetched yet.
        has_session: whether events of this session have been asked for.
    """

    endpoints: Collection[str]
    parameters: Callable[[str], Mapping[str, bool]]
    functions: Collection[int]
    components: Collection[int]
    has_event: Callable[[str], bool]
    has_session: Callable[[str], bool]


class KnownGuard:
    """Answers 404 to unknown endpoints, functions, components, events and sessions, 422 to arguments of no endpoint.

    Args:
        app: gradio's.
        known: what there is.
    """

    def __init__(self, app: App, known: Known):
        self._app, self._known = app, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = get_api_route(scope) if scope["type"] == "http" else None
        problem = self._find_problem(scope, route.strip("/").split("/")) if route else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await refuse(scope, send, *problem)

    def _find_problem(self, scope: Scope, parts: list[str]) -> tuple[int, str] | None:
        kind, method = parts[0], scope["method"]
        content = scope.get(CONTENT)
        if kind == "queue" and parts[1:] == ["data"] and method == "GET":
            session = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash", [""])
            return None if not session[0] or self._known.has_session(session[0]) else _missing("session")
        if kind == "call":
            return self._find_call_problem(method, parts, content)
        if kind in ("run", "api") and len(parts) == 2 and method == "POST":
            has_index = isinstance(content, dict) and content.get("fn_index") is not None
            if not has_index and parts[1] not in self._known.endpoints:
                return _missing("endpoint")
        if kind in ("run", "api", "queue") and method == "POST":
            return self._find_unknown_id(content, "fn_index", self._known.functions, "function")
        if kind == "component_server" and method == "POST" and isinstance(content, dict):
            value = content.get("component_id")
            return None if _is_whole(value) and value in self._known.components else _missing("component")
        return None

    def _find_call_problem(self, method: str, parts: list[str], content: object) -> tuple[int, str] | None:
        is_second_form = len(parts) > 2 and parts[1] == "v2"
        names = parts[2:] if is_second_form else parts[1:]
        if not names or names == ["v2"]:
            return None
        if names[0] not in self._known.endpoints:
            return _missing("endpoint")
        if method == "GET" and len(names) == 2 and not self._known.has_event(names[1]):
            return _missing("event")
        if method == "POST" and is_second_form and isinstance(content, dict):
            parameters = self._known.parameters(names[0])
            wrong = [name for name in content if name not in (*parameters, "oauth_token")]
            lacking = [name for name, is_needed in parameters.items() if is_needed and name not in content]
            if wrong or lacking:
                problem = f"does not take {wrong[0][:40]!r}" if wrong else f"needs {lacking[0]!r}"
                return 422, f"The endpoint /{names[0]} {problem}. It takes {', '.join(parameters) or 'nothing'}."
        return None

    @staticmethod
    def _find_unknown_id(content: object, name: str, known: Collection[int], what: str) -> tuple[int, str] | None:
        value = content.get(name) if isinstance(content, dict) else None
        if value is None:
            return None
        if not _is_whole(value):
            return 422, f"{name} is a whole number, not {str(value)[:40]!r}."
        return None if value in known else _missing(what)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _missing(what: str) -> tuple[int, str]:
    return 404, f"There is no such {what} here."
