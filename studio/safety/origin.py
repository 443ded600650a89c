"""No other site may read or drive this one.

A browser sends requests to 127.0.0.1 on behalf of any page that is open in it, and sends our
cookies with them. It says who asks: `Origin`, `Sec-Fetch-Site`, `Referer`. Programs send none
of the three and are let through. Gradio itself reflects any origin, with credentials, on every
host but localhost, and answers a form sent by another site.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from studio.safety.asgi import App, Message, Receive, Scope, Send, get_api_route, get_header, refuse

__all__ = ["OriginGuard", "OriginRule", "is_loopback", "parse_host_name", "parse_site"]

_FOREIGN = frozenset({"cross-site", "same-site"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}


@dataclass(frozen=True)
class OriginRule:
    """Decides who counts as ourselves.

    Args:
        hosts: names that the Host header may carry, without a port; None for any. An address
            in digits always may, since a rebound name is never one.
        sites: `host:port` under which the page is known besides the Host header (a proxy).
        trusted: whole origins, such as `https://example.org`, that may call us from a browser.
    """

    hosts: frozenset[str] | None = None
    sites: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this very machine.

    Args:
        host: without a port; an IPv6 address with or without brackets.

    Returns:
        True for localhost, 127.0.0.0/8 and ::1.
    """
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def parse_host_name(authority: str) -> str:
    """Parse the name in a Host header.

    Args:
        authority: `name`, `name:port` or `[address]:port`.

    Returns:
        The name in lower case, without port, brackets and trailing dot; empty where malformed.
    """
    try:
        return (urlsplit(f"//{authority}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def parse_site(url: str) -> str:
    """Parse the `host:port` of an address, comparable with a Host header.

    Args:
        url: an absolute address or an origin. `null` and nonsense give an empty string.

    Returns:
        Host and port in lower case; the port is left out where it is the scheme's own.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    site = parts.netloc.rpartition("@")[2].lower()
    return site.removesuffix(_DEFAULT_PORTS.get(parts.scheme.lower(), " "))


def _strip_default_port(authority: str) -> str:
    return authority.lower().removesuffix(":80").removesuffix(":443")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class OriginGuard:
    """Refuses what another site asks for, and takes back gradio's permission to read.

    Args:
        app: what is guarded.
        rule: who counts as ourselves.
    """

    def __init__(self, app: App, rule: OriginRule):
        self._app, self._rule = app, rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        reason = self._find_host_problem(scope) or self._find_origin_problem(scope)
        if reason:
            await refuse(scope, send, 403, reason)
            return
        await self._app(scope, receive, self._strip_cors(scope, send))

    def _find_host_problem(self, scope: Scope) -> str | None:
        hosts = [value for key, value in scope["headers"] if key.lower() == b"host"]
        if len(hosts) > 1:
            return "The request names two hosts."
        if self._rule.hosts is None:
            return None
        name = parse_host_name(hosts[0].decode("latin-1")) if hosts else ""
        if name in self._rule.hosts or _is_address(name) or is_loopback(name):
            return None
        return (
            f"This server does not answer to the name {name[:80]!r}. "
            "Open it under its own address, or start it with --allow-host."
        )

    def _own_sites(self, scope: Scope) -> set[str]:
        # A page of another site cannot set X-Forwarded-Host without a preflight, which it is
        # refused; a proxy in front of us does set it.
        names: Iterable[str | None] = (get_header(scope, "host"), get_header(scope, "x-forwarded-host"))
        sites = {_strip_default_port(name.split(",")[0].strip()) for name in names if name}
        return sites | self._rule.sites

    def _is_own(self, scope: Scope, url: str) -> bool:
        site = parse_site(url)
        return bool(site) and site in self._own_sites(scope)

    def _find_origin_problem(self, scope: Scope) -> str | None:
        origin = get_header(scope, "origin")
        if origin is not None:
            if origin in self._rule.trusted or self._is_own(scope, origin):
                return None
            return _describe_refusal(origin)
        if self._is_visit(scope):
            return None
        referer = get_header(scope, "referer")
        if referer and _parse_origin(referer) in self._rule.trusted:
            return None
        if get_header(scope, "sec-fetch-site") in _FOREIGN:
            return "Requests from another site are not accepted here."
        if referer and not self._is_own(scope, referer):
            return _describe_refusal(_parse_origin(referer))
        return None

    @staticmethod
    def _is_visit(scope: Scope) -> bool:
        """A person following a link to a page or a picture: the only thing others may start."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return False
        mode = get_header(scope, "sec-fetch-mode")
        route = get_api_route(scope)
        return mode in (None, "navigate") and (route is None or route.startswith("file="))

    def _strip_cors(self, scope: Scope, send: Send) -> Send:
        origin = get_header(scope, "origin")
        trusted = origin if origin in self._rule.trusted else None

        async def send_with_rule(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _rewrite_cors(message.get("headers", ()), trusted)
            await send(message)

        return send_with_rule


def _describe_refusal(origin: str) -> str:
    return (
        f"Requests from {origin[:80]!r} are not accepted here. "
        "If it is your own proxy, start the server with --trust-origin."
    )


def _parse_origin(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"


def _rewrite_cors(headers: Iterable[tuple[bytes, bytes]], trusted: str | None) -> list:
    """The answer's headers with our own rule of who may read it."""
    decided = (b"access-control-allow-origin", b"access-control-allow-credentials")
    filtered = [
        (key, value)
        for key, value in headers
        if not key.lower().startswith(b"access-control-") or (trusted and key.lower() not in decided)
    ]
    if trusted:
        filtered += [
            (decided[0], trusted.encode("latin-1")),
            (decided[1], b"true"),
            (b"vary", b"Origin"),
        ]
    return filtered
