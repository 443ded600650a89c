"""The guards of rates, logins, bodies and headers, each around an application that echoes."""

from __future__ import annotations

import json

import pytest

from studio.safety.asgi import get_header
from studio.safety.bodies import BodyGuard
from studio.safety.headers import HeaderGuard, build_security_headers
from studio.safety.limits import ClientLimits
from studio.safety.owner import derive_owner
from studio.safety.rate import RateGuard, TokenBuckets, get_client_key
from studio.safety.signin import SignInGuard
from tests.studio.echo_application import JOIN, UPLOAD, Echo, ask

# --- rate -----------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_bucket_empties_and_fills():
    clock, echo = Clock(), Echo()
    guard = RateGuard(echo, ClientLimits(burst=3, per_second=2.0), clock)
    assert [ask(guard)[0] for _ in range(4)] == [200, 200, 200, 429]
    clock.now += 0.5
    assert [ask(guard)[0] for _ in range(2)] == [200, 429]
    clock.now += 1e6
    assert [ask(guard)[0] for _ in range(4)] == [200, 200, 200, 429]
    assert echo.calls == 7


def test_a_refusal_says_how_long_to_wait():
    guard = RateGuard(Echo(), ClientLimits(burst=1, per_second=0.25), Clock())
    ask(guard)
    status, headers, body = ask(guard)
    assert status == 429 and headers[b"retry-after"] == b"4"
    assert "Wait 4 s" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (JOIN, "POST"),
        (UPLOAD, "POST"),
        ("/prefix/gradio_api/call/x", "POST"),
        ("/gradio_api/call/v2/x", "POST"),
        ("/gradio_api/run/x", "POST"),
        ("/gradio_api/api/x", "POST"),
        ("/gradio_api/component_server", "POST"),
        ("/gradio_api/deep_link", "GET"),
    ],
)
def test_work_is_counted(path, method):
    guard = RateGuard(Echo(), ClientLimits(burst=1), Clock())
    assert [ask(guard, path, method)[0] for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("path", ["/", "/gradio_api/queue/data", "/gradio_api/file=/x.png"])
def test_reading_is_not_counted(path):
    guard = RateGuard(Echo(), ClientLimits(burst=1), Clock())
    assert [ask(guard, path, "GET")[0] for _ in range(9)] == [200] * 9


def test_frames_of_live_mode_are_not_counted_and_everything_else_that_it_says_is():
    guard = RateGuard(Echo(), ClientLimits(burst=1), Clock())
    assert [ask(guard, "/root/stepwise/live/jobs/xyz/frame", "POST")[0] for _ in range(9)] == [200] * 9
    assert [ask(guard, "/root/stepwise/live/jobs/xyz/say", "POST")[0] for _ in range(2)] == [200, 429]


def test_steps_that_are_decoded_are_counted_and_the_small_ones_of_the_scrubber_are_not():
    guard = RateGuard(Echo(), ClientLimits(burst=2), Clock())
    step = "/root/stepwise/text_to_image/jobs/xyz/steps/7"
    assert [ask(guard, step, "GET")[0] for _ in range(9)] == [200] * 9
    assert [
        ask(guard, step, "GET", query=query)[0] for query in (b"sharp=0", b"", b"sharp=1", b"a=2&sharp=1", b"sharp=%31")
    ] == [200, 200, 200, 200, 429]


def test_passwords_have_a_bucket_of_their_own():
    guard = RateGuard(Echo(), ClientLimits(burst=50, login_burst=2), Clock())
    assert [ask(guard, "/login")[0] for _ in range(3)] == [200, 200, 429]
    assert ask(guard)[0] == 200
    assert ask(guard, "/root/login/")[0] == 429


def test_one_address_does_not_stop_another():
    guard = RateGuard(Echo(), ClientLimits(burst=1), Clock())
    statuses = [ask(guard, client=client)[0] for client in ("10.0.0.1", "10.0.0.2", "10.0.0.1")]
    assert statuses == [200, 200, 429]


def test_addresses_of_one_ipv6_network_share():
    keys = {get_client_key({"client": (host, 1)}) for host in ("2001:db8::1", "2001:db8::ffff:2")}
    assert len(keys) == 1
    assert get_client_key({"client": ("2001:db8:0:1::1", 1)}) not in keys
    assert get_client_key({"client": None}) == "unknown"


def test_the_buckets_are_bounded():
    buckets = TokenBuckets(1, 1.0, capacity=10, clock=Clock())
    for number in range(1000):
        buckets.take(str(number))
    assert len(buckets) == 10
    assert buckets.take("999") > 0


def test_fifty_people_at_once_on_one_machine_are_let_through():
    guard = RateGuard(Echo(), ClientLimits(), Clock())
    assert {ask(guard)[0] for _ in range(200)} == {200}


# --- logins ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "is_open"),
    [
        ("/", True),
        ("/login", True),
        ("/login/", True),
        ("/assets/index.js", True),
        ("/gradio_api/startup-events", True),
        ("/own/route", False),
        ("/gradio_api/mcp/", False),
        ("/stepwise/results/x", False),
        ("/gradio_api/heartbeat/s", False),
        (JOIN, False),
        ("/monitoring/x", False),
        ("/assets", False),
        ("//own", False),
        ("/compare", True),
        ("/compare/x", False),
    ],
)
def test_only_the_login_page_is_open(path, is_open):
    guard = SignInGuard(Echo(), lambda scope: False, ["", "compare"])
    assert ask(guard, path, "GET")[0] == (200 if is_open else 401)
    assert ask(guard, path, kind="websocket")[0] == (200 if is_open else 1008)
    assert ask(SignInGuard(Echo(), lambda scope: True), path, "GET")[0] == 200


def test_who_has_signed_in_is_noted_for_whoever_answers():
    seen = []

    async def app(scope, receive, send):
        seen.append(derive_owner(scope, "claimed"))
        await Echo()(scope, receive, send)

    guard = SignInGuard(app, lambda scope: get_header(scope, "cookie"))
    assert ask(guard, client="127.0.0.1", cookie="ann")[0] == ask(guard, client="10.0.0.9", cookie="ann")[0] == 200
    assert ask(guard, client="10.0.0.9", cookie="bob")[0] == 200
    assert seen == ["login ann", "login ann", "login bob"]


@pytest.mark.parametrize(
    ("client", "headers", "owner"),
    [
        ("127.0.0.1", {}, "127.0.0.1 tab"),
        ("::1", {}, "0::/64 tab"),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.9"}, "127.0.0.1"),  # a proxy that nobody named: all share one
        ("203.0.113.9", {"x-forwarded-for": "203.0.113.9"}, "203.0.113.9"),
        ("203.0.113.9", {}, "203.0.113.9"),
        ("2001:db8::7", {}, "20010db800000000::/64"),
        (None, {}, "unknown"),
    ],
)
def test_an_owner_is_an_address_and_a_claim_counts_at_this_machine_only(client, headers, owner):
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"client": client and (client, 1), "headers": pairs}
    assert derive_owner(scope, "tab") == owner and len(derive_owner(scope, "x" * 10_000)) < 100


# --- bodies ---------------------------------------------------------------------------------


def test_an_announced_size_is_refused_before_it_is_read():
    echo = Echo()
    guard = BodyGuard(echo, ClientLimits(body_bytes=100))
    status, headers, body = ask(guard, content_length="101")
    assert status == 413 and echo.calls == 0 and b"larger" in body
    assert b"connection" not in headers
    assert ask(guard, chunks=(b"x" * 100,), content_length="100")[0] == 200
    assert ask(guard, content_length="-5")[0] == 413


def test_a_size_that_is_not_announced_is_counted():
    guard = BodyGuard(Echo(), ClientLimits(body_bytes=100))
    assert ask(guard, chunks=(b"x" * 60, b"x" * 60))[0] == 413
    assert ask(guard, chunks=(b"x" * 50, b"x" * 50))[2] == b"x" * 100


def test_whatever_the_application_answers_to_a_broken_off_body_is_replaced():
    async def swallows(scope, receive, send):
        try:
            await receive()
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"oops"})
            raise

    status, _, body = ask(BodyGuard(swallows, ClientLimits(body_bytes=1)), chunks=(b"xx",))
    assert status == 413 and b"oops" not in body


def test_an_upload_has_a_cap_of_its_own_and_a_bare_sentence():
    guard = BodyGuard(Echo(), ClientLimits(upload_bytes=1000, body_bytes=10))
    assert ask(guard, UPLOAD, chunks=(b"x" * 900,))[0] == 200
    status, headers, body = ask(guard, UPLOAD, chunks=(b"x" * 70_000,))
    assert status == 413 and headers[b"content-type"].startswith(b"text/plain")
    assert body.startswith(b"The request is larger")


def test_other_errors_pass():
    async def breaks(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(BodyGuard(breaks, ClientLimits()))


# --- headers --------------------------------------------------------------------------------


def test_every_answer_carries_the_headers():
    theirs = [(b"Referrer-Policy", b"unsafe-url"), (b"x-kept", b"1")]
    guard = HeaderGuard(Echo(headers=theirs), build_security_headers("'self' https://huggingface.co"))
    _, headers, _ = ask(guard, "/", "GET")
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"referrer-policy"] == b"same-origin"
    assert b"Referrer-Policy" not in headers and headers[b"x-kept"] == b"1"
    policy = headers[b"content-security-policy"]
    assert b"frame-ancestors 'self' https://huggingface.co" in policy
    assert b"connect-src 'self'" in policy
    contained = dict(build_security_headers("'self'", contain=False))
    assert contained[b"content-security-policy"] == b"frame-ancestors 'self'"
