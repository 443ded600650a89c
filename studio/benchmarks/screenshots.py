"""Takes the screenshots of README and docs, of a running studio: `python -m studio.benchmarks.screenshots URL`.

Chromium and Playwright (tests/requirements.txt) are needed.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["PICTURES", "main"]

OUT = Path(__file__).resolve().parents[2] / "assets" / "screenshots"
WIDTH, HEIGHT = 1440, 900
QUALITY = 88
_FLAGS = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")
_DONE = "() => [...document.querySelectorAll('[data-status=done]')].some(one => one.offsetParent)"
_LOADED = "() => [...document.images].every(one => !one.offsetParent || one.naturalWidth)"


def _finish(page: Page) -> None:
    """Press the visible tab's run and wait for its end."""
    page.locator("button.sw-run:visible").first.click()
    page.wait_for_function(_DONE)


def _show_text_to_image(page: Page) -> None:
    page.click("#t2i-example-duck")
    page.wait_for_function("() => document.querySelector('#t2i-prompt textarea').value.includes('duck')")
    _finish(page)


def _show_compare(page: Page) -> None:
    page.click("#tab-compare-button")
    _finish(page)


def _show_edit(page: Page) -> None:
    """Show the mask of an example, before its run."""
    page.click("#tab-edit-button")
    page.locator("#edit-examples").get_by_role("button", name="Inpaint a bus").click()
    page.wait_for_selector("#edit-pointing [data-mask=clear]:not([disabled])")


def _show_quantize(page: Page) -> None:
    page.click("#tab-quantize-button")
    _finish(page)


PICTURES: dict[str, tuple[bool, Callable[[Page], None]]] = {
    "text-to-image": (False, _show_text_to_image),
    "compare": (True, _show_compare),
    "edit": (False, _show_edit),
    "quantize": (True, _show_quantize),
}
"""Name of each file to whether it is of the dark theme, and what is done on the page before it is taken."""


def take(page: Page, url: str, name: str) -> bytes:
    """Open the page and return one of the `PICTURES` as a WebP file."""
    is_dark, show = PICTURES[name]
    page.goto(f"{url}/?__theme={'dark' if is_dark else 'light'}")
    page.wait_for_selector("button.sw-run:visible")
    page.wait_for_function(_LOADED)
    show(page)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # what is drawn after the end: captions, plots
    page.wait_for_function(_LOADED)
    page.evaluate("() => { document.activeElement?.blur(); scrollTo(0, 0); }")
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        stream = io.BytesIO()
        picture.convert("RGB").save(stream, "WEBP", quality=QUALITY, method=6)
    return stream.getvalue()


def main() -> int:
    """Take the pictures and write the files."""
    parser = argparse.ArgumentParser(prog="python -m studio.benchmarks.screenshots", description=__doc__)
    parser.add_argument("url", help="of a running studio with an empty results folder")
    parser.add_argument("--only", choices=PICTURES, nargs="+", default=list(PICTURES), help="these pictures alone")
    flags = parser.parse_args()
    from playwright.sync_api import sync_playwright  # a tool of the tests, which the studio runs without

    with sync_playwright() as playwright:
        executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        for name in flags.only:
            context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
            page = context.new_page()
            page.set_default_timeout(180_000)
            content = take(page, flags.url.rstrip("/"), name)
            (OUT / f"{name}.webp").write_bytes(content)
            print(f"{name}.webp: {len(content) / 1000:.0f} kB")
            context.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
