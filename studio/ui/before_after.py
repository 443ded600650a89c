"""A frame in which a picture changes while it is made, and then lies over what it was made of, with a slider."""

from __future__ import annotations

from studio.ui import markup
from studio.ui.live_routes import Parts
from studio.ui.viewer import BLANK

__all__ = ["build_frame", "show_only"]


def build_frame(prefix: str, empty: str) -> str:
    """Build the frame as HTML.

    Args:
        prefix: begins every id.
        empty: HTML that stands there before the first run.
    """
    return f"""<div class="sw-frame">
  <div class="sw-empty" id="{prefix}-empty">{empty}</div>
  <div class="sw-hero" id="{prefix}-picture" hidden>
    <img id="{prefix}-hero" src="{BLANK}" alt="The picture at this step"></div>
  <div class="sw-lens sw-slider" data-two id="{prefix}-slider" hidden>
    <img id="{prefix}-before" src="{BLANK}" alt="Before"><img id="{prefix}-after" src="{BLANK}" alt="After">
    <input type="range" min="0" max="100" step="0.5" value="50" data-lens aria-label="How much of the source shows">
  </div>
  <div class="sw-tools" id="{prefix}-tools" hidden>
    <a id="{prefix}-download" class="sw-tool" href="#" download title="Download">{markup.ICON_DOWNLOAD}<span
      class="sw-away">Download</span></a>
    <button type="button" class="sw-tool" data-fullscreen title="Full screen">{markup.ICON_FULLSCREEN}<span
      class="sw-away">Full screen</span></button>
  </div>
</div>"""


def show_only(visible: str) -> Parts:
    """Show one of what lies in the frame ("empty", "picture", "slider"), and hide the others."""
    return {name: {"hidden": None if name == visible else ""} for name in ("empty", "picture", "slider", "tools")}
