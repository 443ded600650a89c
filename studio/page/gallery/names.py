"""The pattern of the names under which results are downloaded; the browser keeps it."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.results.file_names import LONGEST_PATTERN, TOKENS, check_pattern
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING
from studio.ui.outputs import in_order

__all__ = ["NamePattern"]


class NamePattern:
    """Lays out a fold with the pattern, in the present layout context.

    The page's script keeps what is typed and puts it into the addresses of downloads (assets/js/results.js).
    """

    def __init__(self) -> None:
        with gr.Accordion("File names of downloads", open=False, elem_id="gal-names-fold"):
            words = " ".join(f"{{{token}}}" for token in TOKENS)
            self.text = gr.Textbox(
                "",
                label="Pattern",
                info=f"For downloads in every tab and for archives; empty takes the result's id. Words: {words}",
                placeholder="{date} {prompt} {seed}",
                max_lines=1,
                max_length=LONGEST_PATTERN,
                elem_id="gal-names",
            )

    def wire(self, demo: gr.Blocks, say: Callable[[str, str], Data], outputs: set[Block]) -> None:
        """Show the pattern that the browser keeps, and say what is wrong with it.

        Args:
            demo: the page.
            say: from a sentence and its kind to the updates that show it.
            outputs: what those updates change.
        """

        def check(pattern: object) -> Data:
            try:
                check_pattern(str(pattern or ""))
            except StepwiseError as error:
                return say(str(error), "problem")
            return dict.fromkeys(outputs, gr.skip())

        self.text.blur(check, [self.text], in_order(outputs), **PLUMBING)
        demo.load(None, outputs=[self.text], js="() => stepwise.nameFiles()", **PLUMBING)
