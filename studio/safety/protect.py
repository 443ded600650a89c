"""Every guard around one application."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from studio.safety.asgi import App, Scope
from studio.safety.bodies import BodyGuard
from studio.safety.compress import CompressPage
from studio.safety.events import EventGuard
from studio.safety.files import FileGuard, ServedFolders
from studio.safety.headers import HeaderGuard, build_security_headers
from studio.safety.launch_settings import LaunchSettings
from studio.safety.origin import OriginGuard
from studio.safety.page_cache import PageCache
from studio.safety.payloads import PayloadGuard
from studio.safety.rate import RateGuard
from studio.safety.signin import SignInGuard
from studio.safety.temp import TempFolder
from studio.safety.uploads import UploadGuard

__all__ = ["protect"]


def protect(
    app: App,
    settings: LaunchSettings,
    folders: ServedFolders,
    temp: TempFolder,
    login: Callable[[Scope], str | None],
    pages: Collection[str] = (),
    clock: Callable[[], float] = time.monotonic,
    may_read: Callable[[Scope, Path], bool] = lambda *_: True,
    note: Callable[[App], App] = lambda app: app,
) -> App:
    """Puts every guard around an application, the cheapest refusal outermost.

    Every guard is plain ASGI, so that event streams pass through unbuffered.

    Args:
        app: gradio's, or any other ASGI application with gradio's routes.
        settings: of the command line.
        folders: which files may leave or be named.
        temp: the folder of the uploads.
        login: the name of whoever sent a request, None for somebody who has not signed in; asked
            only where the settings name logins.
        pages: paths of the page's further pages, where gradio shows its login page.
        clock: of the rate limit, in seconds.
        may_read: whether whoever sent a request may see a file of the results.
        note: puts what writes down refusals around all guards.

    Returns:
        The guarded application.
    """
    limits = settings.limits
    app = PageCache(CompressPage(app))
    if settings.credentials:
        app = EventGuard(app)
    app = UploadGuard(app, limits, temp.root, temp.add, temp.reserve)
    app = PayloadGuard(app, folders, limits, may_read)
    app = BodyGuard(app, limits)
    app = FileGuard(app, folders, may_read)
    if settings.credentials:
        app = SignInGuard(app, login, pages)
    app = RateGuard(app, limits, clock)
    app = OriginGuard(app, settings.build_origin_rule())
    headers = build_security_headers(settings.frame_ancestors, settings.is_contained)
    return HeaderGuard(note(app), headers)
