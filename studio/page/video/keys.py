"""The key prompts of a walk as components: two to six rows of a prompt and a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import SettingsError
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING, build_elem_id
from studio.ui.outputs import in_order

__all__ = ["MOST", "KeyRows", "build_key_rows"]

MOST = 6
"""Keys on the page; programs may give more."""


@dataclasses.dataclass(frozen=True)
class KeyRows:
    """Lays out the keys after the first, which is the form's own prompt and seed; made by `build_key_rows`.

    Attributes:
        section: all of it, shown for a walk.
        rows, prompts, seeds: of the second key and so on.
        count: how many keys are shown, the first counted; 2 to 6.
        more, fewer: the buttons.
    """

    section: gr.Column
    rows: tuple[gr.Row, ...]
    prompts: tuple[gr.Textbox, ...]
    seeds: tuple[gr.Textbox, ...]
    count: gr.Number
    more: gr.Button
    fewer: gr.Button

    @property
    def inputs(self) -> set[Component]:
        """Return everything that holds a value."""
        return {*self.prompts, *self.seeds, self.count}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that `updates` may change."""
        return {*self.inputs, *self.rows, self.more, self.fewer}

    def read_keys(self, data: Mapping[Any, object]) -> list[dict[str, Any]]:
        """Read the shown rows as the task takes them; what is left empty is the first key's.

        Raises:
            SettingsError: a seed that is no whole number.
        """
        rows = zip(self.prompts[: self._count(data) - 1], self.seeds, strict=False)
        return [_parse_key(data[prompt], data[seed]) for prompt, seed in rows]

    def _count(self, data: Mapping[Block, Any]) -> int:
        return min(max(int(data[self.count] or 2), 2), MOST)

    def updates(self, keys: Sequence[Mapping[str, object]]) -> Data:
        """Map each component to the update that shows these keys."""
        others = [key if isinstance(key, Mapping) else {} for key in keys][: MOST - 1]
        updates = self._show_count(max(2, len(others) + 1))
        for place, (prompt, seed) in enumerate(zip(self.prompts, self.seeds, strict=True)):
            key = others[place] if place < len(others) else {}
            updates |= {prompt: str(key.get("prompt", "")), seed: str(key.get("seed", ""))}
        return updates

    def _show_count(self, count: int) -> Data:
        return {
            self.count: count,
            **{row: gr.update(visible=place + 2 <= count) for place, row in enumerate(self.rows)},
            self.more: gr.update(interactive=count < MOST),
            self.fewer: gr.update(interactive=count > 2),
        }

    def wire(self) -> None:
        """Connect the buttons, once, inside the Blocks."""
        outputs = {self.count, *self.rows, self.more, self.fewer}
        for button, step in ((self.more, 1), (self.fewer, -1)):
            button.click(
                lambda data, step=step: self._show_count(min(max(self._count(data) + step, 2), MOST)),
                inputs={self.count},
                outputs=in_order(outputs),
                **PLUMBING,
            )


def _parse_key(prompt: object, seed: object) -> dict[str, Any]:
    key: dict[str, Any] = {"prompt": prompt} if str(prompt or "").strip() else {}
    text = str(seed or "").strip()
    if not text:
        return key
    if not text.isdecimal():
        raise SettingsError(
            f"The seed of a keyframe is {text[:80]!r}. Give a whole number, or leave it empty for the first keyframe's."
        )
    return {**key, "seed": int(text)}


def build_key_rows(prefix: str, keys: Sequence[Mapping[str, Any]], max_prompt: int) -> KeyRows:
    """Build the rows in the present layout context, the first `keys` of them shown.

    Args:
        prefix: begins every component's id.
        keys: shown at first, after the form's own.
        max_prompt: characters of a prompt.
    """
    rows, prompts, seeds = [], [], []
    with gr.Column(elem_classes="sw-keys", min_width=0) as section:
        for place in range(MOST - 1):
            key = keys[place] if place < len(keys) else {}
            with gr.Row(elem_classes="sw-key", visible=place < max(1, len(keys))) as row:
                name = f"Prompt {place + 2}"
                prompts.append(
                    gr.Textbox(
                        key.get("prompt", ""),
                        label=name,
                        placeholder="as the first",
                        lines=1,
                        max_lines=4,
                        scale=3,
                        min_width=0,
                        max_length=max_prompt,
                        elem_id=build_elem_id(prefix, "key", str(place + 2)),
                    )
                )
                seeds.append(
                    gr.Textbox(
                        str(key.get("seed", "")),
                        label="Seed",
                        placeholder="as the first",
                        max_lines=1,
                        scale=1,
                        min_width=0,
                        elem_id=build_elem_id(prefix, "key", str(place + 2), "seed"),
                    )
                )
            rows.append(row)
        with gr.Row(elem_classes="sw-key-buttons"):
            more = gr.Button("Add a prompt", size="sm", min_width=0, elem_id=build_elem_id(prefix, "key-more"))
            fewer = gr.Button(
                "Remove the last",
                size="sm",
                min_width=0,
                interactive=len(keys) > 1,
                elem_id=build_elem_id(prefix, "key-fewer"),
            )
        count = gr.Number(max(2, len(keys) + 1), precision=0, visible=False)
    return KeyRows(section, tuple(rows), tuple(prompts), tuple(seeds), count, more, fewer)
