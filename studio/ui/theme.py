"""The page's look: colors, type and shapes. System fonts only; nothing comes from another host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.colors import Color

__all__ = ["ASSETS", "build_theme", "launch_values"]

ASSETS = Path(__file__).resolve().parents[2] / "assets"

_TEAL = Color(
    c50="#eefaf8",
    c100="#d3f2ed",
    c200="#a8e4db",
    c300="#74d0c4",
    c400="#3fb5a8",
    c500="#17988c",
    c600="#0f766e",
    c700="#0d625c",
    c800="#0e4f4b",
    c900="#0f403d",
    c950="#062725",
    name="teal",
)
_STONE = Color(
    c50="#fafaf8",
    c100="#f4f4f1",
    c200="#e6e6e1",
    c300="#d2d3cc",
    c400="#9b9d95",
    c500="#6b6e66",
    c600="#53564f",
    c700="#3a3d38",
    c800="#232622",
    c900="#181a18",
    c950="#101211",
    name="stone",
)
_TEXT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_CODE = ("ui-monospace", "SF Mono", "Cascadia Code", "Menlo", "Consolas", "monospace")


def build_theme() -> gr.themes.Base:
    """Warm neutral paper by day, near-black by night, one teal accent."""
    look = gr.themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=_STONE,
        text_size=gr.themes.sizes.text_md,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=_TEXT,
        font_mono=_CODE,
    )
    return look.set(**_list_surfaces(), **_list_controls())


def _list_surfaces() -> dict[str, str]:
    return {
        "body_background_fill": "#f4f4f1",
        "body_background_fill_dark": "#101211",
        "body_text_color": "#1b1d1a",
        "body_text_color_dark": "#eceee9",
        "body_text_color_subdued": "#5a5d55",
        "body_text_color_subdued_dark": "#a6aaa2",
        "background_fill_primary": "#ffffff",
        "background_fill_primary_dark": "#181a18",
        "background_fill_secondary": "#fafaf8",
        "background_fill_secondary_dark": "#1d201d",
        "border_color_primary": "#e0e0da",
        "border_color_primary_dark": "#2f332f",
        "block_background_fill": "transparent",
        "block_background_fill_dark": "transparent",
        "block_border_width": "0px",
        "block_padding": "0",
        "block_shadow": "none",
        "block_label_background_fill": "transparent",
        "block_label_background_fill_dark": "transparent",
        "block_title_text_color": "#1b1d1a",
        "block_title_text_color_dark": "#eceee9",
        "block_title_text_weight": "550",
        "block_title_text_size": "0.86rem",
        "block_info_text_color": "#5a5d55",
        "block_info_text_color_dark": "#a6aaa2",
        "block_info_text_size": "0.8rem",
        "panel_background_fill": "transparent",
        "panel_background_fill_dark": "transparent",
        "panel_border_width": "0px",
        "layout_gap": "16px",
        "form_gap_width": "0px",
    }


def _list_controls() -> dict[str, str]:
    return {
        "input_background_fill": "#ffffff",
        "input_background_fill_dark": "#141614",
        "input_border_color": "#c9cac3",
        "input_border_color_dark": "#3a3e39",
        "input_border_width": "1px",
        "input_border_color_focus": "#0f766e",
        "input_border_color_focus_dark": "#3fb5a8",
        "input_placeholder_color": "#6b6e66",
        "input_placeholder_color_dark": "#8d918a",
        "input_shadow": "none",
        "input_shadow_focus": "0 0 0 3px rgb(23 152 140 / 18%)",
        "slider_color": "#0f766e",
        "slider_color_dark": "#3fb5a8",
        "checkbox_background_color_selected": "#0f766e",
        "checkbox_background_color_selected_dark": "#17988c",
        "checkbox_border_color": "#9b9d95",
        "checkbox_border_color_dark": "#53564f",
        "button_primary_background_fill": "#0f766e",
        "button_primary_background_fill_dark": "#3fb5a8",
        "button_primary_background_fill_hover": "#0d625c",
        "button_primary_background_fill_hover_dark": "#5cc7bb",
        "button_primary_text_color": "#ffffff",
        "button_primary_text_color_dark": "#062725",
        "button_secondary_background_fill": "#ffffff",
        "button_secondary_background_fill_dark": "#1f221f",
        "button_secondary_background_fill_hover": "#f0f0ec",
        "button_secondary_background_fill_hover_dark": "#2a2e2a",
        "button_secondary_border_color": "#c9cac3",
        "button_secondary_border_color_dark": "#3a3e39",
        "button_secondary_text_color": "#1b1d1a",
        "button_secondary_text_color_dark": "#eceee9",
        "button_border_width": "1px",
        "button_transition": "background-color 120ms, border-color 120ms",
    }


def launch_values() -> dict[str, Any]:
    """Return what `Blocks.launch` needs for the page to look and behave as designed: its theme, styles, script and
    icon."""
    script = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ASSETS / "js").glob("*.js")))
    return {
        "theme": build_theme(),
        "css_paths": sorted((ASSETS / "css").glob("*.css")),
        "head": f'<meta name="color-scheme" content="light dark"><script>{script}</script>',
        "favicon_path": ASSETS / "favicon.svg",
        "footer_links": [],
    }
