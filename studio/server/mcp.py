"""The MCP server of `--mcp`: agents find the public endpoints as tools at /gradio_api/mcp/, and nothing else.

Gradio serves it; the page's own events are private, so they are no tools, and every guard of the page stands before it.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from pipelines.core.errors import SettingsError

__all__ = ["PATH", "check_mcp", "sign_agents_in"]

PATH = "/gradio_api/mcp/"
"""Where it speaks streamable HTTP."""

_MAJOR = "1"
_CLIENTS = 32
"""Agents whose connections to the page are kept; the longest silent is forgotten first."""


def check_mcp() -> None:
    """Raise an error unless the optional package is there, in a version that gradio speaks.

    Raises:
        SettingsError: it is not, and the command that installs it.
    """
    if find_spec("mcp") is None:
        raise SettingsError("--mcp needs a package that is not installed. Run: pip install -r requirements-mcp.txt")
    if (installed_version := version("mcp")).partition(".")[0] != _MAJOR:
        raise SettingsError(
            f"--mcp needs version {_MAJOR} of the package mcp, and {installed_version} is installed. "
            "Run: pip install -r requirements-mcp.txt"
        )


def sign_agents_in() -> None:
    """Have each agent's calls run under the login of its own request; further calls change nothing.

    Gradio calls the page through one client for all agents, which has signed in nowhere: with `--auth` every tool was
    refused.
    """
    from gradio.mcp import GradioMCPServer
    from gradio_client import Client

    if getattr(GradioMCPServer, "_signs_in", False):
        return
    original = GradioMCPServer._get_or_create_client

    def get_client(self: Any) -> Client:
        request = self.mcp_server.request_context.request
        cookie = request.headers.get("cookie", "") if request is not None else ""
        if not cookie or self.local_url is None:
            return original(self)
        clients: OrderedDict[str, Client] = self.__dict__.setdefault("_clients_by_cookie", OrderedDict())
        client = clients.pop(cookie, None) or Client(
            self.local_url,
            download_files=False,
            verbose=False,
            analytics_enabled=False,
            ssl_verify=False,
            headers={"x-gradio-user": "mcp", "cookie": cookie},
            _skip_components=False,
        )
        clients[cookie] = client
        while len(clients) > _CLIENTS:
            clients.popitem(last=False)
        return client

    patched: Any = GradioMCPServer
    patched._get_or_create_client = get_client
    patched._signs_in = True
