"""What a finished picture leads to, one click each: the other tabs with its settings, its seed, the picture itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from pipelines.core.types import is_whole
from studio.jobs.job import Job
from studio.results.search import COMPARISON, extract_settings
from studio.ui import markup
from studio.ui.asking import list_visible_results
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.outputs import in_order

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.ui.page_context import PageContext

__all__ = ["ResultActions", "variations"]

VARIATIONS, STRENGTH = 4, 0.25
_TABS = {"edit": "edit", "animate": "animate", "compare": "compare", "variations": "compare"}
_OPEN = "upscale"
"""The button that opens what stands below the row and runs it."""

_LABELS = {
    "edit": ("Edit", "Open it in the tab Edit, as the source"),
    "animate": (
        "Animate",
        "Set it in motion in the tab Video: as the first frame of a clip, or by a walk to the next seed and back",
    ),
    "upscale": ("Upscale", "Enlarge it by the network that is chosen below, and compare before and after"),
    "variations": ("Variations", f"Draw {VARIATIONS} pictures around this seed, side by side"),
    "compare": ("Compare", "Open its settings and seed in the tab Compare"),
    "copy-seed": ("Copy seed", "Copy the seed of the picture that is shown"),
    "copy-image": ("Copy image", "Copy the picture that is shown"),
    "download": ("Download", "Save the picture that is shown"),
}
_ON_LOAD = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button || window.stepwise.copied(button)) return;
  trigger('click', { action: button.dataset.act, result: window.stepwise.shownResult(button) });
});
"""


class ResultActions:
    """Lays out a row of buttons under a picture, in the present layout context; the page shows it when a picture is
    finished.

    Args:
        studio: for the stored results.
        context: of the page; the tabs that receive are asked for when all stand.
        prefix: begins the ids.
    """

    def __init__(self, studio: Studio, context: PageContext, prefix: str):
        self._studio, self._context = studio, context
        buttons = "".join(
            f'<button type="button" class="sw-act" data-act="{action}" title="{markup.escape(title)}">{label}</button>'
            for action, (label, title) in _LABELS.items()
        )
        group = f'<div class="sw-result-acts" role="group" aria-label="What to do with this picture">{buttons}</div>'
        self.row = gr.HTML(group, elem_id=f"{prefix}-acts", elem_classes="sw-acts-block", js_on_load=_ON_LOAD)

    def wire(
        self, session: gr.BrowserState, job: Callable[[Any], Job | None], notice: gr.HTML, upscale: gr.Accordion
    ) -> None:
        """Connect the row, when all tabs stand.

        Args:
            session: what the browser remembers of the tab's run.
            job: of what it remembers; the results of no other are taken.
            notice: where it is said what went wrong.
            upscale: is opened for the button Upscale, whose run the page's script then asks for.
        """
        receivers = {key: self._context.receive[key] for key in set(_TABS.values()) if key in self._context.receive}

        def act(remembered: object, event: gr.EventData) -> Data:
            data = event._data or {}
            action, result = str(data.get("action", "")), str(data.get("result", ""))
            if action == _OPEN:
                return {notice: "", upscale: gr.Accordion(open=True)}
            running = job(remembered)
            if action not in _TABS or running is None or result not in _results(running):
                return {notice: markup.notice("This picture is no longer in memory. The gallery has it.")}
            try:
                record = list_visible_results(self._studio).get(result)
                values, words = as_one_picture(extract_settings(record) or {}, record.metadata.get("figures"))
                if words and action == "variations":
                    return {notice: markup.notice(words)}
                values = variations(values) if action == "variations" else values
                updates = receivers[_TABS[action]].updates(values)
            except StepwiseError as error:
                return {notice: markup.notice(str(error))}
            return {
                notice: markup.notice(words, "news"),
                **updates,
                self._context.tabs: gr.Tabs(selected=_TABS[action]),
            }

        outputs = set().union(*(receiver.outputs for receiver in receivers.values()))
        filled_event = self.row.click(
            act, [session], in_order([notice, upscale, self._context.tabs, *outputs]), **PLUMBING
        )
        filled_event.then(None, js="() => window.stepwise.runWanted()", **PLUMBING)


def _results(job: Job) -> set[str]:
    return {result for cell in job.view().cells for result in cell.results}


def as_one_picture(values: Mapping[str, Any], figures: object) -> tuple[dict[str, Any], str]:
    """Return the settings of a picture without the search that found it, for tabs that make it anew.

    Args:
        values: fields of a Request.
        figures: of the stored result.

    Returns:
        The settings, with the seed that makes the picture alone where there is one; and what to tell the person where
        there is none.
    """
    if values.get("search", {}).get("key", "none") == "none":
        return dict(values), ""
    alone = {**values, "search": {"key": "none"}}
    search = figures.get("search") if isinstance(figures, Mapping) else None
    seed = search.get("seed") if isinstance(search, Mapping) else None
    if is_whole(seed):
        return {**alone, "seed": int(seed)}, ""
    return (
        alone,
        "A search found this picture, and no seed alone makes it: the seed is the one that the search began with.",
    )


def variations(values: Mapping[str, object]) -> dict[str, Any]:
    """Return a picture's settings as a comparison of pictures whose noise is turned a little towards further noises.

    Args:
        values: fields of a Request, its seed fixed. Its first noise stays; the second is another in each picture.
    """
    first = secrets.randbelow(2**31)
    seeds = ", ".join(str(first + place) for place in range(VARIATIONS))
    grid = {"x": {"field": "variation_seed", "values": seeds}, "equal": "steps", "reference": False}
    return {**values, "variation_strength": STRENGTH, COMPARISON: grid}
