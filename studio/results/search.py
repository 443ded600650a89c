"""Finding results, and the settings in them that another tab or program can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.types import METHODS, Request
from studio.results.options import EVERYTHING, ListOptions
from studio.results.store import Record
from studio.results.visible import VisibleResults

__all__ = [
    "COMPARISON",
    "FIXED_SEED",
    "SHARED",
    "drop_model",
    "extract_settings",
    "find",
    "get_existing",
    "get_model_label",
]

COMPARISON, SHARED = "comparison", "comparison_base"
"""Under which `extract_settings` gives a comparison, and the settings that its cells share and no single cell has."""

FIXED_SEED = "fixed"
"""What `extract_settings` gives as "seed_mode": the seed stands beside it."""

_CHUNK = 1000


def find(
    store: VisibleResults,
    text: str,
    kind: str,
    count: int,
    trashed: bool = False,
    before: str = "",
    options: ListOptions = EVERYTHING,
) -> tuple[Sequence[Record], bool]:
    """Find the first results of an order, and whether there are more of them.

    Args:
        store: the results as whoever asks sees them.
        text: words of the prompt.
        kind: only these; "" for all.
        count: at most so many.
        trashed: those in the trash instead.
        before: id of the last result of the page before this one; "" for the first page.
        options: what else narrows the list, and its order.
    """
    results: list[Record] = []
    while len(results) <= count:
        num_wanted = min(_CHUNK, count + 1 - len(results))
        last = results[-1].id if results else before or None
        page = store.list(num_wanted, last, kind or None, text, trashed=trashed, options=options)
        results.extend(page)
        if len(page) < num_wanted:
            break
    return results[:count], len(results) > count


def extract_settings(record: Record) -> dict[str, Any] | None:
    """Extract the settings that made a result, as fields of a Request with its seed fixed; None where it carries none.

    Beside them stand "animate", "edit", "quantize" or "comparison", the settings of the tab that made it, and
    "picture", the file of a still one. What the file says is checked like any other input: nothing that a Request
    refuses passes; what stands beside, the tab that takes it over checks by its own list.
    """
    values = record.metadata.get("request")
    if not isinstance(values, Mapping) or not values.get("prompt"):
        return None
    try:
        request_values = Request.parse(values).to_json()
    except (StepwiseError, TypeError, ValueError):  # of another task, another version, or by hand
        return None
    return {**request_values, "seed_mode": FIXED_SEED, **_extract_tab_values(record)}


def drop_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a result without its model, and without what fits that model alone."""
    shared_values = {name: value for name, value in values.items() if name not in ("model", "loras", *METHODS)}
    return {**shared_values, SHARED: drop_model(shared_values[SHARED])} if SHARED in shared_values else shared_values


def _extract_tab_values(record: Record) -> dict[str, Any]:
    """The settings of the tab that made a result, by the tab's name for them, and its picture."""
    figures = record.metadata.get("figures")
    figures = figures if isinstance(figures, Mapping) else {}
    tab_values = {name: figures[name] for name in ("edit", "quantize") if isinstance(figures.get(name), Mapping)}
    tab_values |= _extract_comparison(figures.get(COMPARISON) or record.metadata.get(COMPARISON))
    weights = figures.get("quantization")
    if "quantize" not in tab_values and isinstance(
        weights, Mapping
    ):  # of a version that kept each cell's own method alone
        tab_values["quantize"] = {"variants": [{name: value for name, value in weights.items() if name != "model"}]}
    if "animate" in record.metadata:
        tab_values["animate"] = record.metadata["animate"]
    elif record.path.suffix in (".png", ".jpg", ".webp"):
        tab_values["picture"] = str(record.path)
    return tab_values


def _extract_comparison(comparison: object) -> dict[str, Any]:
    if not isinstance(comparison, Mapping):
        return {}
    try:
        return {COMPARISON: comparison, SHARED: Request.parse(comparison["base"]).to_json()}
    except (StepwiseError, TypeError, ValueError, KeyError):  # of another version, or by hand
        return {}


def get_existing(store: VisibleResults, ids: object) -> Sequence[Record]:
    """Return the results of these ids, which come from a browser; what exists no more is left out.

    Raises:
        SettingsError: none of them exists.
    """
    results = []
    for result_id in list(dict.fromkeys(map(str, ids)))[:10_000] if isinstance(ids, (list, tuple)) else []:
        try:
            results.append(store.get(result_id))
        except StepwiseError:
            continue
    if not results:
        raise SettingsError("Nothing is selected, or it was deleted. Select some results first.")
    return results


def get_model_label(record: Record, catalog: Mapping[str, Any]) -> str:
    """Return the name of the model that made a result; "" where it does not say."""
    values = record.metadata.get("request")
    key = str(values.get("model", "")) if isinstance(values, Mapping) else ""
    return catalog[key].label if key in catalog else key[:80]
