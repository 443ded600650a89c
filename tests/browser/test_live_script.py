"""assets/js/live.js with forms.js alone: the server's answers are the test's own, and come when the test wants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

SCRIPTS = Path(__file__).resolve().parents[2] / "assets" / "js"
# live.js asks forms.js whether a run that was begun by a click is still wanted.
SCRIPT = "\n".join((SCRIPTS / name).read_text() for name in ("forms.js", "live.js"))
SITE = "http://studio.test"
RUN = "() => { window.ran = stepwise.run('t', 'root', ['fox', {job: 'before'}]); }"
STOP = "() => stepwise.stop('t', {job: 'before'})"


class Server:
    """Answers the page; a run is answered when `answer` is called."""

    def __init__(self, page):
        self.asked, self.waiting, self.page = [], None, page
        page.route(f"{SITE}/**", self._route)
        page.goto(SITE)

    def _route(self, route):
        path = route.request.url.removeprefix(SITE)
        if path == "/":
            body = f"<body><div id='root'></div><script>{SCRIPT}</script></body>"
            return route.fulfill(body=body, content_type="text/html")
        self.asked.append(path)
        if path.endswith("/run"):
            self.waiting = route
            return None
        if path.endswith("/events"):
            said = json.dumps({"status": "cancelled", "final": True, "notice": "", "parts": {}})
            return route.fulfill(body=f"data: {said}\n\n", content_type="text/event-stream")
        return route.fulfill(json={})

    def wait_for_run(self):
        for _ in range(1_000):
            if self.waiting is not None:
                return
            self.page.wait_for_timeout(10)
        raise AssertionError(f"No run was asked for in 10 s, only {self.asked}.")

    def answer(self, status, content):
        waiting, self.waiting = self.waiting, None
        waiting.fulfill(status=status, json=content)
        self.page.evaluate("() => window.ran")
        self.page.wait_for_timeout(100)

    def stopped(self):
        return [path for path in self.asked if path.endswith("/stop")]


@pytest.fixture
def server(chromium):
    context = chromium.new_context()
    yield Server(context.new_page())
    context.close()


def test_a_stop_before_the_job_has_an_id_stops_it_as_soon_as_it_has(server):
    server.page.evaluate(RUN)
    server.wait_for_run()
    server.page.evaluate(STOP)
    assert server.stopped() == []  # the run before this one is none of its business
    server.answer(200, {"session": {"job": "new"}})
    assert server.stopped() == ["/stepwise/t/jobs/new/stop"]


def test_a_stop_of_a_run_that_was_refused_does_not_reach_the_next_one(server):
    server.page.evaluate(RUN)
    server.wait_for_run()
    server.page.evaluate(STOP)
    server.answer(422, {"detail": "The queue is full."})
    server.page.evaluate(RUN)
    server.wait_for_run()
    server.answer(200, {"session": {"job": "next"}})
    assert server.stopped() == []
    server.page.evaluate(STOP)
    assert server.stopped() == ["/stepwise/t/jobs/next/stop"]
