"""A token bucket for each client address."""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from urllib.parse import parse_qs

from studio.safety.asgi import App, Receive, Scope, Send, get_api_route, refuse
from studio.safety.limits import ClientLimits

__all__ = ["RateGuard", "TokenBuckets", "get_client_key"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_STEP = re.compile(r"/stepwise/[^/]+/jobs/[^/]+/steps/\d+/?\Z")

_FRAME = re.compile(r"/stepwise/[^/]+/jobs/[^/]+/frame/?\Z")


class TokenBuckets:
    """Limits rates by buckets that hold `burst` tokens and gain `per_second`.

    Args:
        burst: tokens in a full bucket, at least 1.
        per_second: tokens gained a second, above 0.
        capacity: buckets kept; the longest unused one is dropped first.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        burst: float,
        per_second: float,
        capacity: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._burst, self._per_second = burst, per_second
        self._capacity, self._clock = capacity, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str) -> float:
        """Takes one token.

        Args:
            key: whose bucket.

        Returns:
            0 where there was a token, else the seconds until there is one.
        """
        time = self._clock()
        level, last_time = self._levels.pop(key, (self._burst, time))
        level = min(self._burst, level + (time - last_time) * self._per_second)
        granted = level >= 1.0
        self._levels[key] = (level - 1.0 if granted else level, time)
        if len(self._levels) > self._capacity:
            self._levels.popitem(last=False)
        return 0.0 if granted else (1.0 - level) / self._per_second


def get_client_key(scope: Scope) -> str:
    """Return the address that a bucket belongs to.

    Args:
        scope: of the request.

    Returns:
        The IPv4 address, or the /64 network of an IPv6 address: one person holds 2^64 of those.
    """
    host = (scope.get("client") or ("unknown", 0))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return f"{int(address) >> 64:x}::/64"
    return host


def _is_decoded(scope: Scope) -> bool:
    """Whether a request is for a step of a run through the model's decoder: see studio/ui/live_routes.py."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return bool(_STEP.search(scope["path"])) and "1" in query.get("sharp", ())


class RateGuard:
    """Answers 429 to an address that asks for more work than a person can.

    Counted are the requests that make the server work: everything that changes state, the deep
    links, which write a file, and the steps of a run that are to be decoded sharply, which takes
    the device. Pages, pictures and event streams are not, and neither are the frames of live mode:
    a new one takes the place of the one that waits, so that more of them are no more work.

    Args:
        app: what is guarded.
        limits: the size of the buckets.
        clock: seconds, never going back.
    """

    def __init__(self, app: App, limits: ClientLimits, clock: Callable[[], float] = time.monotonic):
        self._app = app
        self._work = TokenBuckets(limits.burst, limits.per_second, limits.addresses, clock)
        self._login = TokenBuckets(limits.login_burst, limits.login_per_second, limits.addresses, clock)

    def _choose_buckets(self, scope: Scope) -> TokenBuckets | None:
        if scope["type"] == "websocket":
            return self._work
        if scope["type"] != "http":
            return None
        if scope["method"] in _SAFE:
            return self._work if get_api_route(scope) == "deep_link" or _is_decoded(scope) else None
        if _FRAME.search(scope["path"]):
            return None
        if get_api_route(scope) is None and scope["path"].rstrip("/").endswith("/login"):
            return self._login
        return self._work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        buckets = self._choose_buckets(scope)
        wait = buckets.take(get_client_key(scope)) if buckets is not None else 0.0
        if not wait:
            await self._app(scope, receive, send)
            return
        seconds = max(1, math.ceil(wait))
        detail = f"Too many requests from this address. Wait {seconds} s and try again."
        retry = (b"retry-after", str(seconds).encode())
        await refuse(scope, send, 429, detail, [retry])
