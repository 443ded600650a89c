"""The progress of an upload ends with the upload."""

from __future__ import annotations

import asyncio

import pytest
from gradio.route_utils import FileUploadProgress, FileUploadProgressNotTrackedError

from studio.server.upload_progress import UploadProgressGuard
from tests.studio.echo_application import ask

UPLOAD, PROGRESS = "/gradio_api/upload", "/gradio_api/upload_progress"


class Gradio:
    """Tracks uploads as gradio's parser of forms does; the body "broken" is broken off."""

    def __init__(self):
        self.statuses = FileUploadProgress()

    async def __call__(self, scope, receive, send):
        upload = scope["query_string"].decode().removeprefix("upload_id=")
        status = 200
        if scope["path"] == UPLOAD:
            self.statuses.append(upload, "a.png", b"abc")
            if (await receive())["body"] == b"broken":
                raise ConnectionError
            self.statuses.set_done(upload)
        else:
            try:
                await asyncio.wait_for(self.statuses.is_tracked(upload), 0.01)
                self.statuses.stop_tracking(upload)
            except (TimeoutError, asyncio.TimeoutError):
                status = 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def gradio():
    return Gradio()


@pytest.fixture
def guard(gradio):
    return UploadProgressGuard(gradio, gradio.statuses, capacity=2)


def test_an_upload_that_was_broken_off_is_tracked_no_more(gradio, guard):
    with pytest.raises(ConnectionError):
        ask(guard, UPLOAD, query=b"upload_id=a", chunks=(b"broken",))
    with pytest.raises(FileUploadProgressNotTrackedError):
        gradio.statuses.is_done("a")  # so gradio's stream of it ends
    assert not gradio.statuses._statuses and not gradio.statuses._signals


def test_a_finished_one_is_remembered_until_it_was_read_or_others_have_finished_after_it(gradio, guard):
    for name in (b"a", b"b"):
        ask(guard, UPLOAD, query=b"upload_id=" + name)
    assert ask(guard, PROGRESS, "GET", query=b"upload_id=a")[0] == 200
    assert set(gradio.statuses._statuses) == set(gradio.statuses._signals) == {"b"}
    for name in (b"c", b"d"):
        ask(guard, UPLOAD, query=b"upload_id=" + name)
    assert set(gradio.statuses._statuses) == set(gradio.statuses._signals) == {"c", "d"}


def test_an_unknown_one_leaves_nothing_behind(gradio, guard):
    assert ask(guard, PROGRESS, "GET", query=b"upload_id=nobody")[0] == 404
    assert ask(guard, PROGRESS, "GET", query=b"upload_id=" + b"x" * 5000)[0] == 404
    assert not gradio.statuses._signals
