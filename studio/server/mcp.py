"""The MCP server of `--mcp`: agents find the public endpoints as tools at /gradio_api/mcp/, and nothing else.

Gradio serves it; the page's own events are private, so they are no tools, and every guard of the page stands before it.
"""

from __future__ import annotations

from importlib.util import find_spec

from pipelines.core.errors import SettingsError

__all__ = ["PATH", "check_mcp"]

PATH = "/gradio_api/mcp/"
"""Where it speaks streamable HTTP."""


def check_mcp() -> None:
    """Whether the optional package is there.

    Raises:
        SettingsError: it is not, and the command that installs it.
    """
    if find_spec("mcp") is None:
        raise SettingsError("--mcp needs a package that is not installed. Run: pip install -r requirements-mcp.txt")
