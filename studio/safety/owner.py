"""Whose job it is, for the limit on each person's jobs: said by the server, since whoever asks could say anything."""

from __future__ import annotations

from studio.safety.asgi import Scope, get_header
from studio.safety.origin import is_loopback
from studio.safety.rate import get_client_key

__all__ = ["LOGIN", "derive_owner"]

LOGIN = "stepwise.login"
"""Where a request's scope holds the name of whoever has signed in."""

_LONGEST_CLAIM = 64


def derive_owner(scope: Scope, claimed: str) -> str:
    """Derive an opaque id of whoever asks, never empty.

    It is the login, or without one the address that the rate limit counts. Only at this very machine, where nobody is
    kept out by a limit anyway, the claimed id tells browser tabs and programs apart. Whoever comes through a proxy
    here is from elsewhere.

    Args:
        scope: of the request.
        claimed: what the page or the program calls itself.
    """
    if login := scope.get(LOGIN):
        return f"login {login}"
    address = get_client_key(scope)
    host = (scope.get("client") or ("unknown", 0))[0]
    if is_loopback(host) and get_header(scope, "x-forwarded-for") is None:
        return f"{address} {claimed[:_LONGEST_CLAIM]}"
    return address
