"""Where people sign in, each sees, stops and deletes their own, and an admin everything."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError, StoreError
from studio.jobs.history import JobHistory
from studio.jobs.job import Job
from studio.results.owners import KEY_FILE
from studio.results.store import Store
from studio.results.visible import VisibleResults
from studio.safety.flags import parse_flags
from studio.safety.owner import LOGIN
from studio.safety.people import EVERYBODY, People

ROOT = Path(__file__).resolve().parents[2]
REQUEST = {"request": {"prompt": "a fox"}}
LOGINS = ("ann", "bob", "eve")


def picture(size=32):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))


def scope(login=None, host="203.0.113.5"):
    return {"headers": [], "client": (host, 1), LOGIN: login}


# Persons.


def test_a_login_owns_what_it_made_and_an_admin_everything():
    people = People(True, frozenset(["eve"]))
    ann, eve, stranger = (people.person(scope(name)) for name in ("ann", "eve", None))
    assert ann.owns(ann.owner) and not ann.owns(eve.owner) and not ann.owns("")
    assert eve.owns(ann.owner) and eve.owns("")
    assert not stranger.owns(stranger.owner) and not stranger.owns("") and not stranger.owns(ann.owner)
    assert not people.person(None).owns("")  # no request is known: nobody with any rights
    assert EVERYBODY.person(None).owns("") and EVERYBODY.person(scope()).owns("login ann")


def test_the_flags_say_who_is_an_admin():
    two = ["--auth", "ann:1", "--auth", "eve:2"]
    assert parse_flags([*two, "--admin", "eve"], {}).people == People(True, frozenset(["eve"]))
    assert parse_flags(two, {}).people == People(True)
    assert parse_flags(["--auth", "ann:1"], {}).people == People(True, frozenset(["ann"]))
    assert parse_flags([*two, "--share-results"], {}).people.share_results
    assert parse_flags([], {}).people == EVERYBODY
    with pytest.raises(SettingsError, match="is not a login"):
        parse_flags([*two, "--admin", "mallory"], {})
    with pytest.raises(SettingsError, match="sign in"):
        parse_flags(["--share-results"], {})


def test_a_job_of_somebody_else_is_as_unknown_as_none():
    history, job = JobHistory(), Job("text_to_image", None, "login ann")
    history.add(job)
    people = People(True, frozenset(["eve"]))
    for name in ("ann", "eve"):
        assert history.get(job.id, people.person(scope(name)).owns) is job
    with pytest.raises(SettingsError) as unknown:
        history.get("none", people.person(scope("bob")).owns)
    with pytest.raises(SettingsError) as hidden:
        history.get(job.id, people.person(scope("bob")).owns)
    assert str(hidden.value) == str(unknown.value)


# Results.


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


def test_results_are_listed_read_deleted_and_restored_by_their_owner_alone(store):
    ann, bob = (VisibleResults(store, f"login {name}") for name in ("ann", "bob"))
    hers = store.save(picture(), REQUEST, owner="login ann")
    nobodys = store.save(picture(), REQUEST)
    assert (
        [one.id for one in ann.list()] == [hers.id] and bob.list() == [] and ann.count_kinds() == {"text_to_image": 1}
    )
    assert {one.id for one in VisibleResults(store).list()} == {hers.id, nobodys.id}
    for result in (hers, nobodys):
        for act in (bob.get, bob.delete, bob.restore, bob.remove):
            with pytest.raises(StoreError, match="There is no result"):
                act(result.id)
    assert ann.delete(hers.id).trashed and [one.id for one in ann.list(trashed=True)] == [hers.id]
    assert bob.list(trashed=True) == [] and bob.empty_trash() == (0, 0)
    assert ann.empty_trash() == (1, hers.size) and VisibleResults(store, "").list() == []


def test_shared_results_are_read_by_all_and_deleted_by_their_owner(store):
    hers = store.save(picture(), REQUEST, owner="login ann")
    bob = VisibleResults(store, "login bob", reads_all=True)
    assert bob.get(hers.id).id == hers.id and len(bob.list()) == 1
    for act in (bob.delete, bob.restore, bob.remove):
        with pytest.raises(StoreError, match="somebody else"):
            act(hers.id)
    store.delete(hers.id)
    assert bob.list(trashed=True) == []
    with pytest.raises(StoreError, match="There is no result"):
        bob.get(hers.id)


def test_an_owner_is_a_pseudonym_that_a_new_index_finds_again(store):
    hers = store.save(picture(), REQUEST, owner="login ann")
    clip = store.save_bytes(b"clip", ".mp4", REQUEST, kind="video", owner="login ann")
    assert b"ann" not in hers.path.read_bytes() and len(hers.owner) == 16 and hers.owner == clip.owner
    for path in store.folder.glob("index.sqlite*"):
        path.unlink()
    again = Store(store.folder)
    assert again.reconcile().adopted == 2
    assert {one.id for one in VisibleResults(again, "login ann").list()} == {hers.id, clip.id}
    (store.folder / KEY_FILE).unlink()
    assert VisibleResults(Store(store.folder), "login ann").list() == []


@pytest.mark.parametrize("folder", ["ui", "api", "page"])
def test_pages_and_endpoints_read_results_only_as_somebody_sees_them(folder):
    calls = {"get", "list", "kinds", "delete", "restore", "remove", "empty_trash", "oldest"}
    wrong = []
    for path in (ROOT / "studio" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in calls:
                owner = node.func.value
                if isinstance(owner, ast.Attribute) and owner.attr in ("store", "_store"):
                    wrong.append(f"{path.name}:{node.lineno}")
    # A job's own results, after the job was found on behalf of whoever asks.
    assert not [one for one in wrong if not one.startswith("running.py")]


# A real server with three logins.


class Visitor:
    """Somebody who has signed in."""

    def __init__(self, url, name):
        self.name, self.web = name, httpx.Client(base_url=url, timeout=60, trust_env=False)
        assert self.web.post("/login", data={"username": name, "password": f"{name}-1"}).status_code == 200

    def begin(self, name, *data):
        return self.web.post(f"/gradio_api/call/{name}", json={"data": list(data)}).json()["event_id"]

    def finish(self, name, event):
        return self.web.get(f"/gradio_api/call/{name}/{event}").text

    def call(self, name, *data):
        lines = self.finish(name, self.begin(name, *data)).strip().split("\n")
        return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("people")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logins = base / "logins"
    logins.write_text("".join(f"{name}:{name}-1\n" for name in LOGINS))
    folders = [part for kind in ("models", "outputs", "temp") for part in (f"--{kind}-folder", str(base / kind))]
    command = [sys.executable, "app.py", "--port", str(port), "--auth-file", str(logins), "--admin", "eve", *folders]
    command += ["--audit-log", str(base / "audit")]
    log = base / "log"
    with log.open("w") as stream:
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=stream, stderr=subprocess.STDOUT)
    try:
        until = time.time() + 120
        while "runs at" not in log.read_text():
            assert process.poll() is None and time.time() < until, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        lines = [json.loads(line) for line in (base / "audit").read_text().splitlines()]
        assert not any("-1" in json.dumps(line) and "password" in json.dumps(line) for line in lines)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def visitors(server):
    signed_in = {name: Visitor(server, name) for name in LOGINS}
    yield signed_in
    for visitor in signed_in.values():
        visitor.web.close()


@pytest.fixture(scope="module")
def made(visitors):
    """A finished picture of ann's: her own answer to /generate."""
    kind, values = visitors["ann"].call("generate", "a fox", {"num_inference_steps": 2, "seed": 1})
    assert kind == "complete", values
    return values[0]


def listed(visitor):
    kind, values = visitor.call("gallery", "", "", 100, "", "", False, "newest")
    assert kind == "complete"
    return [one["id"] for one in values[0]["results"]]


def test_nobody_lists_or_fetches_what_somebody_else_made(visitors, made):
    (result,) = made["cells"][0]["results"]
    path = made["images"][0]["path"]
    addresses = (f"/stepwise/results/{result}", f"/stepwise/results/{result}/small", f"/gradio_api/file={path}")
    for name, sees in (("ann", True), ("bob", False), ("eve", True)):
        assert (result in listed(visitors[name])) is sees
        for address in addresses:
            assert (visitors[name].web.get(address).status_code == 200) is sees, (name, address)
    assert visitors["bob"].call("gallery", "", "", 20, result, "", False, "newest")[0] == "error"


def test_nobody_deletes_what_somebody_else_made(visitors, made):
    (result,) = made["cells"][0]["results"]
    for action in ("delete", "restore", "remove", "star"):
        assert visitors["bob"].call("gallery_change", action, [result])[0] == "error"
    assert visitors["bob"].call("gallery_change", "empty", [])[1][0]["removed"] == 0
    assert visitors["eve"].call("gallery_change", "delete", [result])[1][0]["changed"] == [result]
    for visitor in visitors.values():
        for address in (f"/stepwise/results/{result}", f"/gradio_api/file={made['images'][0]['path']}"):
            assert visitor.web.get(address).status_code == 404
    statuses = {name: visitors[name].web.get(f"/stepwise/trash/{result}").status_code for name in LOGINS}
    assert statuses == {"ann": 200, "bob": 404, "eve": 200}
    assert visitors["ann"].call("gallery_change", "restore", [result])[1][0]["changed"] == [result]


def test_nobody_watches_or_stops_a_run_of_somebody_else(visitors):
    ann, bob = visitors["ann"], visitors["bob"]
    event = ann.begin("generate", "a long fox", {"num_inference_steps": 200, "batch_size": 4, "seed": 1})
    with ann.web.stream("GET", f"/gradio_api/call/generate/{event}") as stream:
        job = next(json.loads(line[6:])[0]["job"] for line in stream.iter_lines() if line.startswith("data: [{"))
        assert bob.call("cancel", job)[0] == "error"
        for verb, path in (("GET", "events"), ("GET", "steps/1"), ("POST", "stop")):
            answer = bob.web.request(verb, f"/stepwise/text_to_image/jobs/{job}/{path}")
            assert answer.status_code == 422 and "no longer in memory" in answer.json()["detail"]
        assert bob.web.get(f"/gradio_api/call/generate/{event}").status_code == 404
        assert bob.web.get(f"/gradio_api/queue/data?session_hash={event}").status_code == 404
        body = {"session_hash": event, "fn_index": 0, "event_id": event}
        assert bob.web.post("/gradio_api/cancel", json=body).status_code == 404
        assert visitors["eve"].call("cancel", job)[1][0]["cancelled"] is True
    until = time.time() + 60
    while ann.call("cancel", job)[1][0]["cancelled"]:
        assert time.time() < until
        time.sleep(0.1)
    assert ann.call("cancel", job)[1][0] == {"job": job, "cancelled": False, "status": "cancelled"}


def test_who_did_what_stands_in_the_audit_log(server, visitors, tmp_path_factory):
    (audit,) = tmp_path_factory.getbasetemp().glob("people0/audit")
    with httpx.Client(base_url=server, timeout=30, trust_env=False) as stranger:
        assert stranger.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
        mistyped = {"username": (None, "wrong-field"), "password": (None, "")}
        assert stranger.post("/login", files=mistyped).status_code in (400, 422)
        form = {"username": (None, " bob "), "password": (None, "bob-1")}  # as the page sends it: multipart
        assert stranger.post("/login", files=form).status_code == 200
        assert stranger.post("/logout").status_code < 400
        assert stranger.get("/gradio_api/info").status_code == 401
        assert stranger.get("/healthz").text == "ok\n" and stranger.get("/readyz").text == "ready\n"
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    events = {(line["event"], line["who"], line.get("admin", False)) for line in lines}
    assert {("sign-in refused", "login ann", False), ("sign-in refused", "", False)} <= events
    assert {("sign-in", f"login {name}", False) for name in LOGINS} | {("sign-out", "login bob", False)} <= events
    assert ("sign-in", "", False) not in events
    assert {("delete", "login eve", True), ("restore", "login ann", False)} <= events
    assert ("cancel", "login eve", True) in events and ("refusal", "", False) in events
    assert "wrong" not in audit.read_text() and "a long fox" not in audit.read_text()


def test_the_figures_are_prometheuss_and_for_admins(visitors):
    pytest.importorskip("prometheus_client")
    text = visitors["bob"].web.get("/metrics").text  # from this very machine
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures["stepwise_evaluations_total"]) > 0 and float(figures["stepwise_device_seconds_total"]) > 0
    assert float(figures["stepwise_resident_bytes"]) > 1e7
    forwarded = {"x-forwarded-for": "203.0.113.7"}
    assert visitors["bob"].web.get("/metrics", headers=forwarded).status_code == 403
    assert visitors["eve"].web.get("/metrics", headers=forwarded).status_code == 200
