"""The page's first document without what the browser does not read, and without what it can tell by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["SERVER_ONLY", "describe_for_browser", "shorten_page_document"]

SERVER_ONLY = frozenset(
    {"api_info", "api_info_as_input", "api_info_as_output", "example_inputs", "skip_api", "component_class_id"}
)
"""Parts of a component's description for `/info` and for components that are not Gradio's own: a third of it all."""

_OWN = frozenset({"elem_id"})
"""Properties that differ among components that are otherwise alike."""

_FILL = """(config => {
    const {kinds, ...rest} = config, page = rest.page[""];
    rest.components = config.components.map(([id, kind, own]) => {
        const like = structuredClone(kinds[kind]);
        return {...like, id, props: {...like.props, ...own}};
    });
    page.components = rest.components.map(one => one.id);
    page.dependencies = rest.dependencies.map(one => one.id);
    rest.dependencies = (class extends Array {}).from(rest.dependencies);
    return {...rest, layout: page.layout};
})"""
"""Puts back what `describe_for_browser` left out.

The events stand in an array of a kind of its own: Svelte wraps plain arrays, and what is in them, in proxies that tell
it of changes, and Gradio's script reads each event once for each component.
"""


def describe_for_browser(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Shorten a page's configuration.

    Components that are alike but for their ids, such as a sampler's settings in five tabs, are described once.

    Args:
        config: as Gradio sends it, plain: of one page, whose layout and ids stand in it twice.

    Returns:
        The shorter configuration, and the name of a function of the page's script that fills it up. Of any other
        configuration, such as that of several pages, the whole and "".
    """
    if not _is_one_page(config):
        return config, ""
    kinds: dict[str, int] = {}
    components = [_describe_component(one, kinds) for one in config["components"]]
    page = {name: value for name, value in config["page"][""].items() if name not in ("components", "dependencies")}
    rest = {name: value for name, value in config.items() if name != "layout"}
    return {**rest, "components": components, "kinds": [json.loads(kind) for kind in kinds], "page": {"": page}}, _FILL


def _describe_component(component: Mapping[str, Any], kinds: dict[str, int]) -> list[Any]:
    """The id of a component, the place of its kind, and what is its own; a new kind is added."""
    like = {name: value for name, value in component.items() if name not in SERVER_ONLY and name != "id"}
    own = {name: value for name, value in like["props"].items() if name in _OWN}
    like["props"] = {name: value for name, value in like["props"].items() if name not in _OWN}
    return [component["id"], kinds.setdefault(json.dumps(like), len(kinds)), own]


def _is_one_page(config: Mapping[str, Any]) -> bool:
    page = config.get("page", {}).get("", {})
    return (
        len(config["page"]) == 1
        and page.get("layout") == config.get("layout")
        and all(page.get(part) == [one["id"] for one in config[part]] for part in ("components", "dependencies"))
    )


def shorten_page_document() -> None:
    """Have Gradio write the shorter configuration into the page's document; further calls change nothing.

    `/config`, which programs read, stays as it is.
    """
    from gradio import routes

    filters: dict[str, Callable[[Any], Any]] = routes.templates.env.filters
    write = filters["toorjson"]
    if getattr(write, "is_shortened", False):
        return

    def write_shortened(value: object) -> Any:
        if not (isinstance(value, Mapping) and {"components", "dependencies", "page"} <= value.keys()):
            return write(value)
        written = write(value)
        shorter, fill = describe_for_browser(json.loads(written))
        return type(written)(f"{fill}({write(shorter)})") if fill else written

    write_shortened.is_shortened = True  # type: ignore[attr-defined]
    filters["toorjson"] = write_shortened
