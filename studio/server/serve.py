"""Starts the page behind its guards, and stops it cleanly."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import SettingsError, StoreError
from studio.safety.asgi import Scope, header
from studio.safety.bodies import FORM_ROOM
from studio.safety.environment import prepare_environment
from studio.safety.files import ServedFolders, blocked_paths
from studio.safety.flags import LaunchSettings
from studio.safety.protect import protect
from studio.safety.refusals import RefusalGuard
from studio.safety.sessions import SESSIONS_KEPT, SessionGuard
from studio.safety.temp import TempFolder
from studio.server.mcp import PATH as MCP_PATH
from studio.server.mcp import check_mcp

if TYPE_CHECKING:
    from gradio import Blocks
    from gradio.routes import App

__all__ = ["running", "serve"]

_SOURCE = Path(__file__).resolve().parents[2]


def serve(demo: Blocks, settings: LaunchSettings, **launch_kwargs: Any) -> None:
    """Shows the page until Ctrl+C or a termination signal.

    Args:
        demo: the page.
        settings: of the command line. `prepare_environment(settings.temp)` was called with it
            before gradio was imported.
        launch_kwargs: of `Blocks.launch`: theme, css, js, head, favicon_path and the like.

    Raises:
        SystemExit: 2 after one sentence, where it cannot be started.
    """
    stopping = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    try:
        with running(demo, settings, **launch_kwargs) as url:
            print(f"Stepwise runs at {url} (Ctrl+C stops it).", flush=True)
            if settings.mcp:
                print(f"Agents speak MCP at {url.rstrip('/')}{MCP_PATH}", flush=True)
            # With a timeout, since on Windows a bare wait does not notice Ctrl+C.
            while not stopping.wait(0.5):
                pass
    except KeyboardInterrupt:
        pass
    except (SettingsError, StoreError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def running(demo: Blocks, settings: LaunchSettings, **launch_kwargs: Any) -> Iterator[str]:
    """Shows the page as long as the block lasts.

    Args:
        demo: the page.
        settings: as for `serve`.
        launch_kwargs: as for `serve`.

    Yields:
        The address of the page.

    Raises:
        SettingsError: the address cannot be used, or `launch_kwargs` names what the settings
            decide.
        StoreError: the temporary folder cannot be used.
        EnvironmentOrderError: gradio was imported before its environment was prepared.
    """
    assets = tuple(path for path in (_SOURCE / "assets",) if path.is_dir())
    folders = ServedFolders(settings.temp, settings.outputs, assets)
    decided = _decided(settings, folders)
    clash = sorted(decided.keys() & launch_kwargs.keys())
    if clash:
        raise SettingsError(f"launch() may not be given {', '.join(clash)}: the flags decide.")
    _check_address(settings)
    if settings.mcp:
        check_mcp()
    prepare_environment(settings.temp)
    temp = TempFolder(settings.temp, settings.limits, keep=_built_files(demo).copy)
    app = _guarded_app(settings, folders, temp)
    app.router.routes.extend(getattr(demo, "routes", ()))  # gradio's come after, and its last takes every path
    demo.queue(max_size=settings.max_queue, api_open=False)
    temp.start()
    # The server reads it when it starts. Nobody's word is taken by default: see `trusted_proxies`.
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(settings.trusted_proxies)
    try:
        _, url, public = demo.launch(_app=app, **decided, **launch_kwargs)
        yield public or url
    finally:
        demo.close(verbose=False)
        temp.stop()


def _built_files(demo: Blocks) -> set[str]:
    """Files of the page itself, its examples and first values: shown as long as it runs."""
    blocks = list(demo.blocks.values())
    return set().union(*(block.temp_files | block.keep_in_cache for block in blocks))


def _check_address(settings: LaunchSettings) -> None:
    """Tries the address, since gradio tries a hundred ports for five seconds each."""
    host = settings.host.strip("[]")
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError as error:
        raise SettingsError(f"{host!r} is no address of this machine. Check --host.") from error
    if settings.port is None:
        return
    try:
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # as the server does; elsewhere it means something else
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address[0], settings.port, *address[2:]))
    except OSError as error:
        raise SettingsError(
            f"Port {settings.port} cannot be used: {error.strerror}. Choose another with --port."
        ) from error


def _guarded_app(settings: LaunchSettings, folders: ServedFolders, temp: TempFolder) -> App:
    """Gradio's application with the guards outside everything that gradio adds itself.

    `launch(_app=)` is how `gradio.Server` hands in its application. Middleware given in any
    other way ends up inside gradio's CORS answer.
    """
    from gradio.routes import App, ORJSONResponse
    from starlette.requests import cookie_parser

    class GuardedApp(App):
        def build_middleware_stack(self) -> Any:
            stack = SessionGuard(RefusalGuard(super().build_middleware_stack()), self.forget_session)
            pages = [page[0] for page in self.get_blocks().pages]
            return protect(stack, settings, folders, temp, self.login, pages)

        def login(self, scope: Scope) -> str | None:
            cookies = cookie_parser(header(scope, "cookie") or "")
            names = (f"access-token-{self.cookie_id}", f"access-token-unsecure-{self.cookie_id}")
            found = (self.tokens.get(cookies.get(name)) for name in names)
            return next((name for name in found if name is not None), None)

        def forget_session(self, session: str) -> None:
            states = self.state_holder
            states.delete_state(session)
            with states.lock:
                states.session_data.pop(session, None)
                states.time_last_used.pop(session, None)

    return GuardedApp(default_response_class=ORJSONResponse)


def _decided(settings: LaunchSettings, folders: ServedFolders) -> dict[str, Any]:
    """What `launch` is given by the flags and by nobody else."""
    settings.outputs.mkdir(parents=True, exist_ok=True)  # it must be there to stay unblocked
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "share": settings.share,
        "auth": settings.credentials.check if settings.credentials else None,
        "root_path": settings.root_path or None,
        "allowed_paths": [str(settings.outputs), *map(str, folders.assets)],
        "blocked_paths": blocked_paths(folders, _SOURCE),
        # Gradio's own cap stands behind ours, so that the sentence is always ours.
        "max_file_size": settings.limits.upload_bytes + FORM_ROOM,
        "inbrowser": settings.browser,
        "mcp_server": settings.mcp,
        "ssr_mode": False,
        "num_workers": 0,
        "state_session_capacity": SESSIONS_KEPT,
        "run_history": False,
        "enable_monitoring": False,
        "show_error": False,
        "strict_cors": True,
        "prevent_thread_lock": True,
        "quiet": True,
        # Or Gradio asks for the first page itself and gives up after three seconds, which a busy machine may need longer.
        "_frontend": False,
    }
