"""Finding results, and the settings in them that another tab or program can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.types import METHODS, Request
from studio.results.store import Record, Store

__all__ = ["COMPARISON", "FIXED_SEED", "SHARED", "existing", "find", "model_label", "reusable", "without_model"]

COMPARISON, SHARED = "comparison", "comparison_base"
"""Under which `reusable` gives a comparison, and the settings that its cells share, which no single cell has."""

FIXED_SEED = "fixed"
"""What `reusable` gives as "seed_mode": the seed stands beside it."""

_CHUNK = 1000


def find(
    store: Store, text: str, kind: str, count: int, trashed: bool = False, before: str = ""
) -> tuple[Sequence[Record], bool]:
    """The newest results, and whether there are more of them.

    Args:
        store: of the results.
        text: words of the prompt.
        kind: only these; "" for all.
        count: at most so many.
        trashed: those in the trash instead.
        before: id of the last result of the page before this one; "" for the first page.
    """
    found: list[Record] = []
    while len(found) <= count:
        wanted = min(_CHUNK, count + 1 - len(found))
        page = store.list(wanted, found[-1].id if found else before or None, kind or None, text, trashed=trashed)
        found.extend(page)
        if len(page) < wanted:
            break
    return found[:count], len(found) > count


def reusable(record: Record) -> dict[str, Any] | None:
    """The settings that made a result, as fields of a Request with its seed fixed; None where it carries none.

    Beside them stand "animate", "edit", "quantize" or "comparison", the settings of the tab that made it, and "picture",
    the file of a still one. What the file says is checked like any other input: nothing that a Request refuses passes;
    what stands beside, the tab that takes it over checks by its own list.
    """
    values = record.metadata.get("request")
    if not isinstance(values, Mapping) or not values.get("prompt"):
        return None
    try:
        plain = Request.parse(values).to_json()
    except (StepwiseError, TypeError, ValueError):  # of another task, another version, or by hand
        return None
    return {**plain, "seed_mode": FIXED_SEED, **_own(record)}


def without_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a result without its model, and without what fits that model alone."""
    kept = {name: value for name, value in values.items() if name not in ("model", "loras", *METHODS)}
    return {**kept, SHARED: without_model(kept[SHARED])} if SHARED in kept else kept


def _own(record: Record) -> dict[str, Any]:
    """The settings of the tab that made a result, by the tab's name for them, and its picture."""
    figures = record.metadata.get("figures")
    figures = figures if isinstance(figures, Mapping) else {}
    more = {name: figures[name] for name in ("edit", "quantize") if isinstance(figures.get(name), Mapping)}
    more |= _comparison(figures.get(COMPARISON) or record.metadata.get(COMPARISON))
    weights = figures.get("quantization")
    if "quantize" not in more and isinstance(weights, Mapping):  # of a version that kept each cell's own method alone
        more["quantize"] = {"variants": [{name: value for name, value in weights.items() if name != "model"}]}
    if "animate" in record.metadata:
        more["animate"] = record.metadata["animate"]
    elif record.path.suffix in (".png", ".jpg", ".webp"):
        more["picture"] = str(record.path)
    return more


def _comparison(made: Any) -> dict[str, Any]:
    if not isinstance(made, Mapping):
        return {}
    try:
        return {COMPARISON: made, SHARED: Request.parse(made["base"]).to_json()}
    except (StepwiseError, TypeError, ValueError, KeyError):  # of another version, or by hand
        return {}


def existing(store: Store, chosen: Any) -> Sequence[Record]:
    """The results of these ids, which come from a browser; what exists no more is left out.

    Raises:
        SettingsError: none of them exists.
    """
    found = []
    for one in list(dict.fromkeys(map(str, chosen)))[:10_000] if isinstance(chosen, (list, tuple)) else []:
        try:
            found.append(store.get(one))
        except StepwiseError:
            continue
    if not found:
        raise SettingsError("Nothing is chosen, or it is there no more. Tick some results first.")
    return found


def model_label(record: Record, catalog: Mapping[str, Any]) -> str:
    """The name of the model that made a result; "" where it does not say."""
    values = record.metadata.get("request")
    key = str(values.get("model", "")) if isinstance(values, Mapping) else ""
    return catalog[key].label if key in catalog else key[:80]
