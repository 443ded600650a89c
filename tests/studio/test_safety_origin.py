"""The guard of origins: who may start and read what from a browser."""

from __future__ import annotations

import json

import pytest

from studio.safety.flags import parse_flags
from studio.safety.origin import OriginGuard, OriginRule
from tests.studio.echo_application import JOIN, UPLOAD, Echo, ask

# --- origin ---------------------------------------------------------------------------------


def origin_guard(echo, **rule):
    return OriginGuard(echo, OriginRule(**{"hosts": frozenset({"stepwise.lan"}), **rule}))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:3000",
        "http://127.0.0.1",
        "nonsense",
        "http://evil.example@127.0.0.1:78600",
        "http://[",
        "http://127.0.0.1:7860.evil.example",
    ],
)
def test_a_foreign_origin_is_refused(origin, method):
    echo = Echo()
    status, _, body = ask(origin_guard(echo), method=method, origin=origin)
    assert status == 403 and echo.calls == 0
    assert "not accepted here" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:7860", "http://127.0.0.1:7860"),
        ("localhost:7860", "http://localhost:7860"),
        ("Stepwise.LAN", "http://stepwise.lan"),
        ("stepwise.lan:443", "https://stepwise.lan"),
        ("[::1]:7860", "http://[::1]:7860"),
    ],
)
def test_the_own_origin_is_let_through(host, origin):
    assert ask(origin_guard(Echo()), host=host, origin=origin)[0] == 200


def test_programs_without_an_origin_are_let_through():
    for path in (JOIN, UPLOAD, "/login"):
        assert ask(origin_guard(Echo()), path=path)[0] == 200
    assert ask(origin_guard(Echo()), "/gradio_api/queue/data", "GET")[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        (JOIN, "POST", "no-cors"),
        (JOIN, "POST", "navigate"),
        ("/gradio_api/queue/data", "GET", "no-cors"),
        ("/gradio_api/queue/data", "GET", "navigate"),
        ("/gradio_api/heartbeat/x", "GET", "no-cors"),
        ("/config", "GET", "no-cors"),
        ("/gradio_api/file=/x.png", "GET", "no-cors"),
        ("/stepwise/results/x", "GET", "no-cors"),
    ],
)
def test_what_another_site_starts_is_refused(site, path, method, mode):
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
    assert ask(origin_guard(Echo()), path, method, **headers)[0] == 403


@pytest.mark.parametrize("path", ["/", "/compare", "/gradio_api/file=/x.png"])
def test_a_link_from_another_site_may_be_followed(path):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    guard = origin_guard(Echo())
    assert ask(guard, path, "GET", referer="https://news.example/", **headers)[0] == 200


def test_a_foreign_referer_is_refused_where_nothing_else_tells():
    guard = origin_guard(Echo())
    assert ask(guard, referer="http://evil.example/form")[0] == 403
    assert ask(guard, referer="http://127.0.0.1:7860/?x")[0] == 200


def test_a_foreign_websocket_is_closed():
    guard = origin_guard(Echo())
    assert ask(guard, kind="websocket", origin="http://evil.example")[0] == 1008
    assert ask(guard, kind="websocket", origin="http://127.0.0.1:7860")[0] == 200


def test_a_rebound_name_is_refused():
    status, _, body = ask(origin_guard(Echo()), "/", "GET", host="evil.example:7860")
    assert status == 403 and b"--allow-host" in body
    assert ask(origin_guard(Echo()), "/", "GET", host=None)[0] == 403
    assert ask(origin_guard(Echo(), hosts=None), "/", "GET", host="any.example")[0] == 200


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:7860", "192.168.1.7:7860"])
def test_addresses_and_localhost_are_not_names(host):
    assert ask(origin_guard(Echo()), "/", "GET", host=host)[0] == 200


def test_a_proxy_may_tell_the_name_it_is_known_by():
    guard = origin_guard(Echo())
    known = {"origin": "https://art.example", "x-forwarded-host": "art.example"}
    assert ask(guard, **known)[0] == 200
    assert ask(guard, origin="https://art.example")[0] == 403
    rule = parse_flags(["--root-path", "https://art.example/studio"], {}).build_origin_rule()
    assert ask(OriginGuard(Echo(), rule), origin="https://art.example")[0] == 200


def test_the_answer_permits_no_other_site_to_read():
    reflected = [
        (b"Access-Control-Allow-Origin", b"http://evil.example"),
        (b"access-control-allow-credentials", b"true"),
        (b"content-type", b"text/plain"),
    ]
    headers = ask(origin_guard(Echo(headers=reflected)))[1]
    assert list(headers) == [b"content-type"]


def test_a_trusted_origin_may_call_and_read():
    guard = origin_guard(Echo(), trusted=frozenset({"https://lab.example"}))
    status, headers, _ = ask(guard, origin="https://lab.example")
    assert status == 200
    assert headers[b"access-control-allow-origin"] == b"https://lab.example"
    assert ask(guard, origin="http://lab.example")[0] == 403


def test_the_host_is_checked_where_nobody_signs_in():
    assert parse_flags([], {}).build_origin_rule().hosts is not None
    rule = parse_flags(["--allow-host", "Studio.Lan"], {}).build_origin_rule()
    assert "studio.lan" in rule.hosts
    assert parse_flags(["--listen", "--auth", "a:b"], {}).build_origin_rule().hosts is None
