"""The real app in a process of its own, and a real Chromium to drive it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
STARTS_WITHIN = 90.0
DESKTOP, PHONE = (1440, 900), (390, 844)


@pytest.fixture(scope="session")
def app_home(tmp_path_factory) -> Path:
    """The folder in which the app has its models, outputs and temporary files."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def app_url(app_home) -> Iterator[str]:
    """`python app.py` on a free port with empty folders, ready to be opened."""
    home = app_home
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = [part for name in ("models", "outputs", "temp") for part in (f"--{name}-folder", str(home / name))]
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_DATA_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port), "--no-browser", *folders],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
    reader.start()
    try:
        yield _ready(process, f"http://127.0.0.1:{port}", said)
    finally:
        process.terminate()
        process.wait(20)
        reader.join(5)
        process.stdout.close()


def _ready(process: subprocess.Popen, url: str, said: list[str]) -> str:
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return url
        except OSError:
            time.sleep(0.3)
    raise RuntimeError("the app did not start:\n" + "".join(said))


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A headless Chromium without any address of its own.

    Playwright keeps an event loop running in this thread until it is closed, so it must not outlive the module:
    tests elsewhere start loops of their own.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not executable:
        pytest.skip("there is no Chromium on this machine; install it, or name it in $CHROMIUM")
    sync_api.expect.set_options(timeout=60_000)  # milliseconds: other work may share the machine
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def pick() -> Callable:
    """Choose from a dropdown as a person does: `pick(page, "#edit-edit", "Inpaint")`.

    Opens the list, types `typed` where it can be searched, and clicks the option. An update of the page may close the
    list in between: then it is opened again, until `within` seconds have passed.
    """

    def choose(page, dropdown: str, name: str, typed: str = "", within: float = 60.0, each: float = 5.0) -> None:
        from playwright.sync_api import TimeoutError

        field, until = page.locator(f"{dropdown} input"), time.monotonic() + within
        while True:
            field.click()
            if typed:
                field.fill(typed)
            try:
                page.locator("li[role=option]").filter(has_text=name).first.click(timeout=1000 * each)
                return
            except TimeoutError:
                if time.monotonic() > until:
                    raise
                field.blur()

    return choose


@pytest.fixture
def hold() -> Callable:
    """Hold back a request of the page, as a busy server does: `answer = hold(page, act)` asks, `answer()` goes on."""

    def hold_back(page, act: Callable[[], None]) -> Callable[[], None]:
        held: list = []
        is_busy = [True]
        page.route("**/gradio_api/run/**", lambda route: held.append(route) if is_busy[0] else route.fallback())
        act()
        while not held:
            page.wait_for_timeout(50)
        is_busy[0] = False

        def go_on() -> None:
            for route in held:
                with page.expect_response(lambda response, route=route: response.request == route.request):
                    route.continue_()
            page.wait_for_timeout(400)  # the page shows it

        return go_on

    return hold_back


@pytest.fixture
def visit(app_url, chromium) -> Iterator[Callable]:
    """Open the page as a new person: `visit(size=DESKTOP, dark=False)` gives a Playwright page."""
    contexts = []

    def open_page(size: tuple[int, int] = DESKTOP, dark: bool = False):
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{app_url}/?__theme={'dark' if dark else 'light'}")
        page.wait_for_selector(".sw-run")
        return page

    yield open_page
    for context in contexts:
        context.close()
