"""The drop zone that takes over a picture's settings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gradio as gr

from studio.infotext import Restored
from studio.ui.controls import elem_id
from studio.ui.untrusted_settings import accepted

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["Restore", "build_restore", "settings_of"]


@dataclasses.dataclass(frozen=True)
class Restore:
    """The section and the component that receives a file, untouched so that its texts can be read."""

    section: gr.Accordion
    picture: gr.Image


def build_restore(prefix: str) -> Restore:
    """The folded section, in the present layout context.

    The page's script also hands it what is dropped elsewhere on the tab.
    """
    with gr.Accordion("Settings from a picture", open=False, elem_classes="sw-restore") as section:
        gr.HTML(
            "<p class='sw-hint'>Drop a picture made here, or by A1111, Forge, ComfyUI, InvokeAI or SwarmUI. Its "
            "settings are taken over; models are never loaded by its word alone.</p>"
        )
        picture = gr.Image(
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            label="Picture with settings",
            show_label=False,
            buttons=[],
            height=120,
            placeholder="Drop or choose a picture",
            elem_id=elem_id(prefix, "restore"),
            elem_classes="sw-drop",
        )
    return Restore(section, picture)


def settings_of(studio: Studio, path: str, model: str) -> Restored | None:
    """What an uploaded picture says about its making: only what a Request, the caps, the tables and the model accept.

    Args:
        studio: reads the picture and knows the caps.
        path: the server's own temporary file of the upload.
        model: key of the model that is chosen; the picture's own is never chosen by its word.

    Returns:
        Values for the form with a note for everything left out; None when there are no settings.

    Raises:
        PictureError: the file is no picture.
    """
    restored = studio.read_picture(path)
    return None if restored is None else _with_named(accepted(restored, studio, model), studio, model)


def _with_named(restored: Restored, studio: Studio, model: str) -> Restored:
    """With the LoRAs that a picture of ours names and the shelf offers, and a word on what else it names."""
    if restored.source != "stepwise":  # another program's names mean other files: its notes say them
        return restored
    offered, most, notes = studio.loras(model), studio.limits.max_loras, list(restored.notes)
    if restored.model not in ("", model):
        known = next((entry.label for entry in studio.models() if entry.key == restored.model), "")
        notes.append(
            f"The picture was made with {known}: choose that model to make it again."
            if known
            else f"The picture was made with the model {restored.model!r}, which is not here."
        )
    missing = [repr(lora["name"]) for lora in restored.loras if lora["name"] not in offered]
    if missing:
        names, verb = " and ".join(missing), "is" if len(missing) == 1 else "are"
        notes.append(f"LoRAs were left out: {names} {verb} not in the models folder, or not for this model.")
    kept = [dict(lora) for lora in restored.loras if lora["name"] in offered]
    if len(kept) > most:
        notes.append(f"Of its {len(kept)} LoRAs the first {most} were taken over.")
    return dataclasses.replace(restored, values={**restored.values, "loras": kept[:most]}, notes=notes)
