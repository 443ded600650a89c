"""Each guard around an application of a few lines, without gradio and without a network."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from pipelines.core.errors import PictureError, SettingsError
from studio.safety.asgi import header
from studio.safety.bodies import BodyGuard
from studio.safety.files import FileGuard, ServedFolders, blocked_around, blocked_paths
from studio.safety.flags import parse_flags
from studio.safety.headers import HeaderGuard, security_headers
from studio.safety.limits import Limits
from studio.safety.origin import OriginGuard, OriginRule
from studio.safety.owner import owner_of
from studio.safety.payloads import PayloadGuard, check_payload
from studio.safety.rate import RateGuard, TokenBuckets, client_key
from studio.safety.signin import SignInGuard
from studio.safety.temp import TempFolder
from studio.safety.uploads import UploadGuard, check_picture, check_upload

JOIN = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"


class Echo:
    """Answers 200 with the body it got, and counts."""

    def __init__(self, answer: bytes | None = None, headers=()):
        self.calls, self.answer, self.headers = 0, answer, list(headers)

    async def __call__(self, scope, receive, send):
        self.calls += 1
        body = b""
        if scope["type"] == "http":
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
        start = {"type": "http.response.start", "status": 200, "headers": self.headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.answer or body})


def ask(app, path=JOIN, method="POST", chunks=(b"",), client="10.0.0.1", kind="http", query=b"", **headers):
    """One request; header names with _ for -. Returns status, headers and body."""
    sent = []
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)} for i, chunk in enumerate(chunks)
    ] + [{"type": "http.disconnect"}]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    pairs = {"host": "127.0.0.1:7860", **{k.replace("_", "-"): v for k, v in headers.items()}}
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "client": (client, 5000),
        "query_string": query,
        "headers": [(k.encode(), v.encode()) for k, v in pairs.items() if v is not None],
    }
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None, {}, b""
    if kind == "websocket":
        return sent[0].get("code", 200), {}, b""
    body = b"".join(m.get("body", b"") for m in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


def picture(width=8, height=8, kind="PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, kind)
    return stream.getvalue()


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
    rule = parse_flags(["--root-path", "https://art.example/studio"], {}).origin_rule()
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
    assert parse_flags([], {}).origin_rule().hosts is not None
    rule = parse_flags(["--allow-host", "Studio.Lan"], {}).origin_rule()
    assert "studio.lan" in rule.hosts
    assert parse_flags(["--listen", "--auth", "a:b"], {}).origin_rule().hosts is None


# --- rate -----------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_bucket_empties_and_fills():
    clock, echo = Clock(), Echo()
    guard = RateGuard(echo, Limits(burst=3, per_second=2.0), clock)
    assert [ask(guard)[0] for _ in range(4)] == [200, 200, 200, 429]
    clock.now += 0.5
    assert [ask(guard)[0] for _ in range(2)] == [200, 429]
    clock.now += 1e6
    assert [ask(guard)[0] for _ in range(4)] == [200, 200, 200, 429]
    assert echo.calls == 7


def test_a_refusal_says_how_long_to_wait():
    guard = RateGuard(Echo(), Limits(burst=1, per_second=0.25), Clock())
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
    guard = RateGuard(Echo(), Limits(burst=1), Clock())
    assert [ask(guard, path, method)[0] for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("path", ["/", "/gradio_api/queue/data", "/gradio_api/file=/x.png"])
def test_reading_is_not_counted(path):
    guard = RateGuard(Echo(), Limits(burst=1), Clock())
    assert [ask(guard, path, "GET")[0] for _ in range(9)] == [200] * 9


def test_steps_that_are_decoded_are_counted_and_the_small_ones_of_the_scrubber_are_not():
    guard = RateGuard(Echo(), Limits(burst=2), Clock())
    step = "/root/stepwise/text_to_image/jobs/xyz/steps/7"
    assert [ask(guard, step, "GET")[0] for _ in range(9)] == [200] * 9
    assert [
        ask(guard, step, "GET", query=query)[0] for query in (b"sharp=0", b"", b"sharp=1", b"a=2&sharp=1", b"sharp=%31")
    ] == [200, 200, 200, 200, 429]


def test_passwords_have_a_bucket_of_their_own():
    guard = RateGuard(Echo(), Limits(burst=50, login_burst=2), Clock())
    assert [ask(guard, "/login")[0] for _ in range(3)] == [200, 200, 429]
    assert ask(guard)[0] == 200
    assert ask(guard, "/root/login/")[0] == 429


def test_one_address_does_not_stop_another():
    guard = RateGuard(Echo(), Limits(burst=1), Clock())
    statuses = [ask(guard, client=client)[0] for client in ("10.0.0.1", "10.0.0.2", "10.0.0.1")]
    assert statuses == [200, 200, 429]


def test_addresses_of_one_ipv6_network_share():
    keys = {client_key({"client": (host, 1)}) for host in ("2001:db8::1", "2001:db8::ffff:2")}
    assert len(keys) == 1
    assert client_key({"client": ("2001:db8:0:1::1", 1)}) not in keys
    assert client_key({"client": None}) == "unknown"


def test_the_buckets_are_bounded():
    buckets = TokenBuckets(1, 1.0, capacity=10, clock=Clock())
    for number in range(1000):
        buckets.take(str(number))
    assert len(buckets) == 10
    assert buckets.take("999") > 0


def test_fifty_people_at_once_on_one_machine_are_let_through():
    guard = RateGuard(Echo(), Limits(), Clock())
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
        seen.append(owner_of(scope, "claimed"))
        await Echo()(scope, receive, send)

    guard = SignInGuard(app, lambda scope: header(scope, "cookie"))
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
    assert owner_of(scope, "tab") == owner and len(owner_of(scope, "x" * 10_000)) < 100


# --- bodies ---------------------------------------------------------------------------------


def test_an_announced_size_is_refused_before_it_is_read():
    echo = Echo()
    guard = BodyGuard(echo, Limits(body_bytes=100))
    status, headers, body = ask(guard, content_length="101")
    assert status == 413 and echo.calls == 0 and b"larger" in body
    assert b"connection" not in headers
    assert ask(guard, chunks=(b"x" * 100,), content_length="100")[0] == 200
    assert ask(guard, content_length="-5")[0] == 413


def test_a_size_that_is_not_announced_is_counted():
    guard = BodyGuard(Echo(), Limits(body_bytes=100))
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

    status, _, body = ask(BodyGuard(swallows, Limits(body_bytes=1)), chunks=(b"xx",))
    assert status == 413 and b"oops" not in body


def test_an_upload_has_a_cap_of_its_own_and_a_bare_sentence():
    guard = BodyGuard(Echo(), Limits(upload_bytes=1000, body_bytes=10))
    assert ask(guard, UPLOAD, chunks=(b"x" * 900,))[0] == 200
    status, headers, body = ask(guard, UPLOAD, chunks=(b"x" * 70_000,))
    assert status == 413 and headers[b"content-type"].startswith(b"text/plain")
    assert body.startswith(b"The request is larger")


def test_other_errors_pass():
    async def breaks(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(BodyGuard(breaks, Limits()))


# --- payloads -------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    for name in ("temp/abc", "outputs", "assets", "secret"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "temp/abc/in.png").write_bytes(picture())
    (tmp_path / "outputs/out.png").write_bytes(picture())
    (tmp_path / "outputs/index.sqlite").write_bytes(b"db")
    (tmp_path / "assets/example.png").write_bytes(picture())
    (tmp_path / "secret/key.png").write_bytes(b"key")
    (tmp_path / "temp/.stepwise-temporary").touch()
    os.symlink(tmp_path / "secret/key.png", tmp_path / "temp/link.png")
    os.symlink(tmp_path / "secret", tmp_path / "outputs/linked")
    return ServedFolders(tmp_path / "temp", tmp_path / "outputs", (tmp_path / "assets",))


def file_data(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def nested(record):
    return {"data": [1, None, {"layers": [record]}], "fn_index": 0}


def test_an_uploaded_file_may_be_named(folders, tmp_path):
    path = tmp_path / "temp/abc/in.png"
    for url in (None, f"http://127.0.0.1:7860/gradio_api/file={path}", f"/gradio_api/file={path}"):
        check_payload(nested(file_data(path, url=url)), folders, Limits())
    check_payload(nested(file_data(tmp_path / "assets/example.png")), folders, Limits())


@pytest.mark.parametrize(
    "path",
    [
        "http://127.0.0.1:1/x.png",
        "https://example.org/x.png",
        "HTTP://x/y.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "{0}/secret/key.png",
        "{0}/temp/link.png",
        "{0}/temp/../secret/key.png",
        "{0}/outputs/out.png",
        "{0}/temp/.stepwise-temporary",
        "{0}/temp/missing.png",
        "in.png",
        "{0}/temp/abc",
        "",
        "x\0y",
        "/" + "x" * 5000,
    ],
)
def test_any_other_path_is_refused(folders, tmp_path, path):
    bare = {"path": path.format(tmp_path)}
    for record in (file_data(bare["path"]), bare):
        with pytest.raises(SettingsError, match="not uploaded here"):
            check_payload(nested(record), folders, Limits())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x.png",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "ftp://x/y",
        "http://x/gradio_api/file=/etc/passwd",
        "http://x/gradio_api/file=http://y/z",
        "http://[",
    ],
)
def test_an_address_beside_a_path_is_refused(folders, tmp_path, url):
    record = file_data(tmp_path / "temp/abc/in.png", url=url)
    with pytest.raises(SettingsError):
        check_payload(nested(record), folders, Limits())


def test_text_is_left_alone(folders):
    content = {"data": ["see https://example.org/x.png", "/etc/passwd", {"url": "https://x.org"}]}
    check_payload(content, folders, Limits())


def test_a_picture_inside_the_request_is_checked(folders):
    def data_url(data, kind="image/png"):
        return {"path": None, "url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}

    check_payload(data_url(picture()), folders, Limits())
    with pytest.raises(PictureError, match="megapixels"):
        check_payload(data_url(picture(60, 60)), folders, Limits(picture_pixels=3599))
    with pytest.raises(PictureError, match="not a readable picture"):
        check_payload(data_url(b"%!PS-Adobe-3.0 EPSF-3.0"), folders, Limits())
    with pytest.raises(PictureError, match="Use PNG"):
        check_payload(data_url(b"<html>", "text/html"), folders, Limits())


def test_the_guard_answers_and_replays(folders):
    echo = Echo()
    guard = PayloadGuard(echo, folders, Limits())
    fine = json.dumps({"data": ["x" * 300_000]}).encode()
    assert ask(guard, chunks=(fine[:100], fine[100:]))[2] == fine
    assert ask(guard)[0] == 200
    endless = (b'{"values": [NaN]}', b'{"data": [{"seed": 1e999}]}', b"-Infinity")
    for bad in (json.dumps(nested(file_data("http://x/y"))).encode(), b"{", b"[" * 200_000, *endless):
        for kind in ("application/json", "text/plain", None):
            status, _, body = ask(guard, chunks=(bad,), content_type=kind)
            assert status == 400 and json.loads(body)["detail"]
    assert echo.calls == 2
    assert ask(guard, UPLOAD, chunks=(b"{",), content_type="multipart/form-data; x")[0] == 200


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["temp/abc/in.png", "outputs/out.png", "assets/example.png"])
def test_ours_is_served_and_cannot_run(folders, tmp_path, name):
    status, headers, _ = ask(FileGuard(Echo(), folders), f"/gradio_api/file={tmp_path / name}", "GET")
    assert status == 200 and headers[b"content-security-policy"] == b"sandbox"


@pytest.mark.parametrize(
    "path",
    [
        "{0}/secret/key.png",
        "{0}/temp/link.png",
        "{0}/outputs/linked/key.png",
        "/etc/passwd",
        "{0}/outputs/../secret/key.png",
        "{0}/outputs/index.sqlite",
        "{0}/temp/.stepwise-temporary",
        "{0}/outputs",
        "app.py",
        "requirements.txt",
        "http://127.0.0.1:1/x.png",
        "https://example.org/x.png",
        "https:/example.org/x.png",
        "",
        "x\0y",
        "..\\app.py",
    ],
)
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/", "/p/gradio_api/file="])
def test_nothing_else_is_served(folders, tmp_path, path, route):
    echo = Echo()
    status, _, _ = ask(FileGuard(echo, folders), route + path.format(tmp_path), "GET")
    assert status == 403 and echo.calls == 0


@pytest.mark.parametrize(
    "route",
    [
        "proxy=https://x.hf.space/a",
        "vibe-edit/",
        "vibe-code",
        "undo-vibe-edit",
        "process_recording",
        "dev/reload",
        "run-history/records",
        "vibe-starter-queries",
        "runs",
    ],
)
def test_routes_that_nobody_needs_are_closed(folders, route):
    assert ask(FileGuard(Echo(), folders), f"/gradio_api/{route}")[0] == 404


def test_other_routes_pass(folders):
    for path in ("/", JOIN, UPLOAD, "/assets/index.js", "/gradio_api/run/x"):
        assert ask(FileGuard(Echo(), folders), path)[0] == 200


def test_everything_around_a_kept_folder_is_blocked(tmp_path):
    for name in ("a/b/keep", "a/b/other", "a/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    os.symlink(tmp_path, tmp_path / "loop")
    around = blocked_around(tmp_path, [tmp_path / "a/b/keep"])
    assert {str(path.relative_to(tmp_path)) for path in around} == {"a/b/other", "a/c", "d", "file"}
    assert blocked_around(tmp_path / "d", [tmp_path]) == []
    assert blocked_around(tmp_path / "d", [tmp_path / "a"]) == [tmp_path / "d"]


def test_the_source_tree_is_blocked_but_not_its_examples(tmp_path, monkeypatch):
    source = tmp_path / "source"
    for name in ("studio", "assets"):
        (source / name).mkdir(parents=True)
    (source / "app.py").touch()
    monkeypatch.chdir(source)
    served = ServedFolders(tmp_path / "temp", tmp_path / "outputs", (source / "assets",))
    blocked = blocked_paths(served, source)
    assert {str(source / "studio"), str(source / "app.py")} <= set(blocked)
    assert not any((source / "assets").is_relative_to(path) for path in blocked)


# --- uploads --------------------------------------------------------------------------------


def test_a_picture_is_measured_before_it_is_decoded():
    assert check_picture(io.BytesIO(picture(30, 20)), 600) == (30, 20)
    with pytest.raises(PictureError, match="megapixels"):
        check_picture(io.BytesIO(picture(30, 20)), 599)
    header = bytearray(picture(8, 8))
    header[16:24] = (30_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(PictureError, match="megapixels"):
        check_picture(io.BytesIO(bytes(header)), 50_000_000)
    header[16:24] = (40_000).to_bytes(4, "big") + (1).to_bytes(4, "big")
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(PictureError, match="No side"):
        check_picture(io.BytesIO(bytes(header)), 50_000_000)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", b"<script>alert(1)</script>"),
        ("model.safetensors", b"\x80\x04pickle"),
        ("picture.png", b"\x89PNG\r\n\x1a\n"),
        ("picture.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("clip.mp4", b"\0\0\0\x1cftypavif"),
        ("empty.png", b""),
    ],
)
def test_the_content_counts_not_the_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PictureError, match="not a readable picture"):
        check_upload(path, Limits())


def test_clips_and_pictures_are_taken(tmp_path):
    for name, content in {
        "a": picture(kind="WEBP"),
        "b": picture(kind="JPEG"),
        "c": b"\0\0\0\x1cftypisom",
        "d": b"\x1a\x45\xdf\xa3\0\0\0\0",
    }.items():
        (tmp_path / name).write_bytes(content)
        check_upload(tmp_path / name, Limits())
    with pytest.raises(PictureError, match="MiB"):
        check_upload(tmp_path / "a", Limits(upload_bytes=10))


def upload_guard(tmp_path, names, stored=lambda count: True, **limits):
    answer = json.dumps([str(tmp_path / name) for name in names]).encode()
    return UploadGuard(Echo(answer), Limits(**limits), tmp_path, stored)


def test_a_refused_upload_is_deleted(tmp_path):
    (tmp_path / "good.png").write_bytes(picture())
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    status, _, body = ask(upload_guard(tmp_path, ["good.png", "bad.png"]), UPLOAD)
    assert status == 415 and body.startswith(b"The file is not a readable picture")
    assert not list(tmp_path.iterdir())


def test_an_accepted_upload_is_answered_and_counted(tmp_path):
    counted = []
    (tmp_path / "good.png").write_bytes(picture())
    guard = upload_guard(tmp_path, ["good.png"], lambda count: counted.append(count) or True)
    status, _, body = ask(guard, UPLOAD)
    assert status == 200 and json.loads(body) == [str(tmp_path / "good.png")]
    assert counted == [0, len(picture())]


def test_uploads_stop_before_the_disk_is_full(tmp_path):
    status, _, body = ask(upload_guard(tmp_path, [], free_bytes=10**18), UPLOAD)
    assert status == 507 and b"disk is full" in body
    status, _, body = ask(upload_guard(tmp_path, [], stored=lambda count: False), UPLOAD)
    assert status == 507 and b"temporary folder is full" in body


# --- temporary files ------------------------------------------------------------------------


def temp_folder(root: Path, later: float, keep=tuple, **limits) -> TempFolder:
    return TempFolder(root, Limits(**limits), clock=lambda: time.time() + later, keep=keep)


def test_old_files_and_empty_folders_go_and_others_stay(tmp_path):
    root, outside = tmp_path / "temp", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("mine")
    folder = temp_folder(root, 0.0)
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"xxxx")
    os.symlink(outside, root / "a/link")
    os.symlink(outside / "precious.txt", root / "link.txt")
    assert folder.prune().files == 0
    done = temp_folder(root, 1e6, temp_age=1e5).prune()
    assert done.files == 3
    assert [path.name for path in root.iterdir()] == [".stepwise-temporary"]
    assert (outside / "precious.txt").read_text() == "mine"


def test_a_copy_of_an_old_file_is_not_old(tmp_path):
    folder = temp_folder(tmp_path / "temp", 0.0, temp_age=100.0)
    path = tmp_path / "temp/copy.png"
    path.touch()
    os.utime(path, (1e9, 1e9))
    assert folder.prune().files == 0


def test_the_oldest_go_until_the_rest_fits(tmp_path):
    root = tmp_path / "temp"
    temp_folder(root, 0.0)
    for number in range(5):
        (root / str(number)).write_bytes(b"x" * 100)
        time.sleep(0.02)
    kept = str(root / "0")
    done = temp_folder(root, 1000.0, temp_bytes=250, keep=lambda: {kept}).prune()
    assert sorted(p.name for p in root.glob("[0-9]")) == ["0", "4"]
    assert (done.files, done.freed, done.left) == (3, 300, 200)
    assert temp_folder(root, 0.0, temp_bytes=50).prune().files == 0  # too young


def test_many_uploads_prune_by_themselves_and_then_stop(tmp_path):
    root = tmp_path / "temp"
    folder = temp_folder(root, 1000.0, temp_bytes=800)
    (root / "old").write_bytes(b"x" * 801)
    assert folder.add(90)
    assert (root / "old").exists()
    assert folder.add(90)
    assert not (root / "old").exists()
    young = temp_folder(root, 0.0, temp_bytes=800)
    (root / "new").write_bytes(b"x" * 801)
    assert not young.add(801)


def test_the_thread_prunes_again_and_ends(tmp_path):
    folder = temp_folder(tmp_path / "temp", 1e6)
    folder.start(every=0.02)
    (tmp_path / "temp/late").touch()
    until = time.time() + 5
    while (tmp_path / "temp/late").exists() and time.time() < until:
        time.sleep(0.01)
    folder.stop()
    assert not (tmp_path / "temp/late").exists()


# --- headers --------------------------------------------------------------------------------


def test_every_answer_carries_the_headers():
    theirs = [(b"Referrer-Policy", b"unsafe-url"), (b"x-kept", b"1")]
    guard = HeaderGuard(Echo(headers=theirs), security_headers("'self' https://huggingface.co"))
    _, headers, _ = ask(guard, "/", "GET")
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"referrer-policy"] == b"same-origin"
    assert b"Referrer-Policy" not in headers and headers[b"x-kept"] == b"1"
    policy = headers[b"content-security-policy"]
    assert b"frame-ancestors 'self' https://huggingface.co" in policy
    assert b"connect-src 'self'" in policy
    contained = dict(security_headers("'self'", contain=False))
    assert contained[b"content-security-policy"] == b"frame-ancestors 'self'"
