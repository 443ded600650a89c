"""What must be in the environment before gradio is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from importlib.util import find_spec
from pathlib import Path

from pipelines.core.errors import StepwiseError
from studio.jobs.threads import let_threads_sleep
from studio.safety.gradio_stubs import skip_stubs
from studio.safety.temp import claim_folder

__all__ = ["EnvironmentOrderError", "prepare_environment"]

_FIXED = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SSR_MODE": "False",
    # Gradio keeps a record of each of the last ten thousand events, and computes a table over all of them at every
    # event's end; nothing here shows it.
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}

# Each of these changes the server from outside our flags: a tunnel, folders to serve, an editor of the
# source code, the tools of the page to any agent, unguarded servers on further ports.
_REMOVED = (
    "GRADIO_SHARE",
    "GRADIO_ALLOWED_PATHS",
    "GRADIO_VIBE_MODE",
    "GRADIO_WATCH_DIRS",
    "GRADIO_LOCAL_DEV_MODE",
    "GRADIO_MCP_SERVER",
    "GRADIO_NUM_WORKERS",
    "GRADIO_PROFILING",
    "GRADIO_HISTORY_BUCKET",
)

_PROXIES = tuple(name for kind in ("all", "http", "https") for name in (f"{kind}_proxy", f"{kind}_proxy".upper()))

_LOOPBACK = "localhost,127.0.0.1,::1"


class EnvironmentOrderError(StepwiseError):
    """Says that Gradio was imported before its environment was prepared."""


def prepare_environment(temp: Path, environ: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Keeps gradio and the model hub from talking to anybody, and gives gradio its folder.

    Args:
        temp: the folder for gradio's uploads and copies; made here.
        environ: to be changed; default: that of this process.

    Returns:
        The changed environment.

    Raises:
        EnvironmentOrderError: gradio has been imported already and has read other settings.
        StoreError: the folder holds files of something else, or cannot be made.
    """
    environ = os.environ if environ is None else environ
    temp = claim_folder(temp)
    is_ready = environ.get("GRADIO_TEMP_DIR") == str(temp)
    if environ is os.environ and "gradio" in sys.modules and not is_ready:
        raise EnvironmentOrderError(
            "gradio was imported before prepare_environment() was called. "
            "Call it first, in app.py, and import the page after it."
        )
    environ.update(_FIXED)
    let_threads_sleep(environ)
    if environ is os.environ:
        skip_stubs()
    environ["GRADIO_TEMP_DIR"] = str(temp)
    environ["GRADIO_EXAMPLES_CACHE"] = str(temp / "examples")
    for name in (*_REMOVED, *_find_socks_proxies(environ)):
        environ.pop(name, None)
    # Gradio asks its own server over HTTP whether it is up; a proxy would not find it.
    for name in ("NO_PROXY", "no_proxy"):
        exceptions = environ.get(name, "")
        if _LOOPBACK not in exceptions:
            environ[name] = f"{exceptions},{_LOOPBACK}".lstrip(",")
    return environ


def _find_socks_proxies(environ: Mapping[str, str]) -> list[str]:
    """Variables that name a SOCKS proxy without the package that httpx needs: gradio then cannot be imported."""
    variables = [name for name in _PROXIES if environ.get(name, "").lower().startswith("socks")]
    if not variables or find_spec("socksio") is not None:
        return []
    print(
        f"{', '.join(variables)} names a SOCKS proxy, which needs a package that is not installed, and is left out. "
        "Run: pip install 'httpx[socks]'",
        file=sys.stderr,
    )
    return variables
