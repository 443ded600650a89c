"""Starts the page behind its guards, and stops it cleanly."""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import SettingsError, StoreError
from studio.jobs.heap import set_start_aside
from studio.jobs.threads import let_the_worker_through
from studio.models.model_list import RUNNING
from studio.results.files import NAME
from studio.safety.asgi import Scope, get_header
from studio.safety.audit import AuditGuard
from studio.safety.bodies import FORM_ROOM
from studio.safety.environment import prepare_environment
from studio.safety.files import ServedFolders, list_blocked_paths
from studio.safety.known import KnownGuard
from studio.safety.launch_settings import LaunchSettings
from studio.safety.protect import protect
from studio.safety.refusals import RefusalGuard
from studio.safety.sessions import SESSIONS_KEPT, SessionGuard
from studio.safety.signout import SignOutGuard
from studio.safety.temp import TempFolder
from studio.server.connections import limited_connections
from studio.server.known import list_known
from studio.server.mcp import PATH as MCP_PATH
from studio.server.mcp import check_mcp, sign_agents_in
from studio.server.page_document import shorten_page_document
from studio.server.picture_cache import write_pictures_whole
from studio.server.shared_config import share_session_config
from studio.server.stopping import Stopping, let_streams_end
from studio.server.upload_progress import UploadProgressGuard

if TYPE_CHECKING:
    from gradio import Blocks
    from gradio.routes import App

    from studio.backend import Studio

__all__ = ["run_server", "serve"]

_JOB_SECONDS, _STREAM_SECONDS, _GRACE_SECONDS = 2.0, 1.0, 1
"""How long a stop waits: for the running job to end, for clients to be informed, and for connections to close."""

_POLL_SECONDS = 0.05

_PAGE_SECONDS = 1.5
"""For a browser that opens with the page to draw it alone; docs/benchmarks.md has what more and less of it costs."""

_SOURCE = Path(__file__).resolve().parents[2]


def serve(demo: Blocks, settings: LaunchSettings, studio: Studio | None = None, **launch_kwargs: object) -> None:
    """Shows the page until Ctrl+C or a termination signal.

    Args:
        demo: the page.
        settings: of the command line. `prepare_environment(settings.temp)` was called with it
            before gradio was imported.
        studio: behind the page: it says who may see which result.
        launch_kwargs: of `Blocks.launch`: theme, css, js, head, favicon_path and the like.

    Raises:
        SystemExit: 2 after one sentence, where it cannot be started.
    """
    with Stopping() as stopping:
        try:
            with run_server(demo, settings, studio, **launch_kwargs) as url:
                get_ready = functools.partial(_get_ready, studio, getattr(demo, "opens_on", ""))
                threading.Thread(target=get_ready, name="stepwise-ready", daemon=True).start()
                print(f"Stepwise runs at {url} (Ctrl+C stops it).", flush=True)
                if studio is not None and (missing := studio.release.explain_missing()):
                    print(missing, flush=True)
                if settings.mcp:
                    print(f"Agents speak MCP at {url.rstrip('/')}{MCP_PATH}", flush=True)
                stopping.wait()
                if studio is not None:
                    studio.stop(_JOB_SECONDS)
                    let_streams_end(demo, _STREAM_SECONDS)
        except (SettingsError, StoreError) as error:
            print(f"app.py: {error}", file=sys.stderr)
            raise SystemExit(2) from None


def _get_ready(studio: Studio | None, opens_on: str) -> None:
    """Import what the page did without, and load the model that it opens on: the first run finds both."""
    time.sleep(_PAGE_SECONDS)
    let_the_worker_through()  # the page may be asked for meanwhile
    try:
        if studio is not None and opens_on:
            studio.load_default(opens_on)
            while (transfer := studio.model_list.get_transfer(opens_on)) is not None and transfer.status == RUNNING:
                time.sleep(_POLL_SECONDS)
    finally:
        set_start_aside()


@contextmanager
def run_server(
    demo: Blocks, settings: LaunchSettings, studio: Studio | None = None, **launch_kwargs: Any
) -> Iterator[str]:
    """Shows the page as long as the block lasts.

    Args:
        demo: the page.
        settings: as for `serve`.
        studio: as for `serve`.
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
    launch_options = _build_launch_options(settings, folders)
    clash = sorted(launch_options.keys() & launch_kwargs.keys())
    if clash:
        raise SettingsError(f"launch() may not be given {', '.join(clash)}: the flags decide.")
    _check_address(settings)
    if settings.mcp:
        check_mcp()
        sign_agents_in()
    prepare_environment(settings.temp)
    temp = TempFolder(settings.temp, settings.limits, keep=_list_built_files(demo).copy)
    app = _build_guarded_app(settings, folders, temp, studio)
    app.router.routes.extend(getattr(demo, "routes", ()))  # gradio's come after, and its last takes every path
    if studio is not None:
        from studio.server.health import health_routes  # late: importing this module imports no web framework

        app.router.routes.extend(health_routes(studio))
    share_session_config()
    shorten_page_document()
    write_pictures_whole()
    demo.queue(max_size=settings.max_queue, api_open=False)
    _send_in_place(settings.outputs)
    temp.start()
    # The server reads it when it starts. Nobody's word is taken by default: see `trusted_proxies`.
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(settings.trusted_proxies)
    try:
        with limited_connections(settings.limits, _GRACE_SECONDS):
            _, url, public = demo.launch(_app=app, **launch_options, **launch_kwargs)
        yield public or url
    finally:
        demo.close(verbose=False)
        temp.stop()


def _send_in_place(outputs: Path) -> None:
    """Have gradio send results from where they are: a copy in its temporary folder would outlive a deletion, and could
    be fetched by anybody who knows its name."""
    from gradio import set_static_paths

    set_static_paths([outputs])


def _list_built_files(demo: Blocks) -> set[str]:
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
        raise SettingsError(f"{host!r} is not an address of this machine. Check --host.") from error
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


def _build_guarded_app(
    settings: LaunchSettings, folders: ServedFolders, temp: TempFolder, studio: Studio | None
) -> App:
    """Gradio's application with the guards outside everything that gradio adds itself.

    `launch(_app=)` is how `gradio.Server` hands in its application. Middleware given in any
    other way ends up inside gradio's CORS answer.
    """
    from gradio.routes import App, ORJSONResponse, file_upload_statuses
    from starlette.requests import cookie_parser

    class GuardedApp(App):
        def build_middleware_stack(self) -> Any:
            stack: Any = KnownGuard(RefusalGuard(super().build_middleware_stack()), list_known(self.get_blocks()))
            stack = UploadProgressGuard(stack, file_upload_statuses)
            stack = SignOutGuard(SessionGuard(stack, self.forget_session))
            pages = [page[0] for page in self.get_blocks().pages]
            logins = settings.credentials.users

            def note(app: Any) -> Any:
                return AuditGuard(app, studio.audit, studio.tally.count_refusal, logins) if studio else app

            may_read = readable(studio) if studio else (lambda *_: True)
            return protect(stack, settings, folders, temp, self.login, pages, may_read=may_read, note=note)

        def login(self, scope: Scope) -> str | None:
            cookies = cookie_parser(get_header(scope, "cookie") or "")
            names = (f"access-token-{self.cookie_id}", f"access-token-unsecure-{self.cookie_id}")
            users = (self.tokens.get(cookies.get(name)) for name in names)
            return next((name for name in users if name is not None), None)

        def forget_session(self, session: str) -> None:
            states = self.state_holder
            states.delete_state(session)
            with states.lock:
                states.session_data.pop(session, None)
                states.time_last_used.pop(session, None)
            queue = self.get_blocks()._queue
            if not queue.pending_event_ids_session.get(session):  # else an event of it still has something to say
                queue.pending_event_ids_session.pop(session, None)
                queue.pending_messages_per_session.pop(session, None)

    return GuardedApp(default_response_class=ORJSONResponse)


def readable(studio: Studio) -> Callable[[Scope, Path], bool]:
    """Say whether whoever sent a request may fetch a file of the results by its path, as gradio_client does."""

    def may_read(scope: Scope, path: Path) -> bool:
        name = NAME.match(path.name)
        if name is None:
            return not studio.people.are_separate
        try:
            return studio.results(studio.people.person(scope)).get(name[1]).trashed is None
        except StoreError:
            return False

    return may_read


def _bracket(host: str) -> str:
    """The host as gradio wants it: it makes an address of the page's from it, in which IPv6 stands in brackets."""
    bare = host.strip("[]")
    return f"[{bare}]" if ":" in bare else bare


def _build_launch_options(settings: LaunchSettings, folders: ServedFolders) -> dict[str, Any]:
    """What `launch` is given by the flags and by nobody else."""
    settings.outputs.mkdir(parents=True, exist_ok=True)  # it must be there to stay unblocked
    return {
        "server_name": _bracket(settings.host),
        "server_port": settings.port,
        "share": settings.share,
        "auth": settings.credentials.check if settings.credentials else None,
        "root_path": settings.root_path or None,
        "allowed_paths": [str(settings.outputs), *map(str, folders.assets)],
        "blocked_paths": list_blocked_paths(folders, _SOURCE),
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
        # Or Gradio asks for the first page itself and gives up after three seconds, which a busy machine may need
        # longer.
        "_frontend": False,
    }
