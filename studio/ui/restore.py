"""The drop zone that takes over a picture's settings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gradio as gr

from pipelines.requests.wildcards import escape_wildcards
from studio.infotext import Restored
from studio.infotext.fields import NAMED_LORAS
from studio.ui.controls import build_elem_id
from studio.ui.untrusted_settings import accept_restored

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["Restore", "adopt_own_names", "build_restore", "read_settings"]

PROMPTS = ("prompt", "negative_prompt")


@dataclasses.dataclass(frozen=True)
class Restore:
    """Holds the section and the component that receives a file, untouched so that its texts can be read."""

    section: gr.Accordion
    picture: gr.Image


def build_restore(prefix: str) -> Restore:
    """Build the folded section, in the present layout context.

    The page's script also hands it what is dropped elsewhere on the tab.
    """
    with gr.Accordion("Settings from a picture", open=False, elem_classes="sw-restore") as section:
        gr.HTML(
            "<p class='sw-hint'>Drop a picture made here, or by A1111, Forge, SD.Next, ComfyUI, InvokeAI, SwarmUI, "
            "Fooocus, NovelAI, Draw Things or Civitai. Its settings are loaded; the model stays the one "
            "that you chose.</p>"
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
            elem_id=build_elem_id(prefix, "restore"),
            elem_classes="sw-drop",
        )
    return Restore(section, picture)


def read_settings(studio: Studio, path: str, model: str) -> Restored | None:
    """Read what an uploaded picture says about its making: only what a Request, the caps, the tables and the model
    accept.

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
    if restored is None:
        return None
    accepted = accept_restored(restored, studio, model)
    if restored.source == "stepwise":
        return adopt_own_names(accepted, studio, model)
    return _adopt_foreign_names(_set_own_rules(accepted), studio, model)


def _set_own_rules(restored: Restored) -> Restored:
    """Choose this studio's rules for a picture of no rules that are known, whatever the last one had."""
    if "made_like" in restored.values or not {"seed", "sampler", "num_inference_steps"} & restored.values.keys():
        return restored
    note = "Made like is this studio: whose rules the picture was made by is not known."
    return dataclasses.replace(
        restored, values={**restored.values, "made_like": {"key": "here"}}, notes=[*restored.notes, note]
    )


def _adopt_foreign_names(restored: Restored, studio: Studio, model: str) -> Restored:
    """Another program's settings: its prompts literal, for wildcards are drawn; LoRAs of the same names chosen."""
    prompts = {name: escape_wildcards(restored.values[name]) for name in PROMPTS if name in restored.values}
    names_by_plain_name = {_strip_name(name): name for name in studio.loras(model)}
    loras = [
        {**lora, "name": names_by_plain_name[_strip_name(lora["name"])]}
        for lora in restored.loras
        if _strip_name(lora["name"]) in names_by_plain_name
    ][: studio.limits.max_loras]
    if not loras:
        return dataclasses.replace(restored, values=restored.values | prompts)
    missing_names = [
        repr(lora["name"]) for lora in restored.loras if _strip_name(lora["name"]) not in names_by_plain_name
    ]
    notes = [note for note in restored.notes if not note.startswith(NAMED_LORAS)]
    chosen_names = ", ".join(f"{lora['name']!r} at {lora['weight']:g}" for lora in loras)
    notes.append(f"LoRAs were chosen by their names: {chosen_names}. Whether they are the same files is not known.")
    if missing_names:
        notes.append(f"LoRAs were left out, since no file here has their names: {', '.join(missing_names)}.")
    return dataclasses.replace(restored, values={**restored.values, **prompts, "loras": loras}, notes=notes)


def _strip_name(name: str) -> str:
    """A LoRA's name without folders and suffix, which programs write differently."""
    return name.replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors").casefold()


def adopt_own_names(restored: Restored, studio: Studio, model: str) -> Restored:
    """With the LoRAs that a picture of ours names and the list offers, and a word on what else it names."""
    lora_names, max_loras, notes = studio.loras(model), studio.limits.max_loras, list(restored.notes)
    if restored.model not in ("", model):
        label = next((entry.label for entry in studio.models() if entry.key == restored.model), "")
        notes.append(
            f"The picture was made with {label}: choose that model to make it again."
            if label
            else f"The picture was made with the model {restored.model!r}, which is not here."
        )
    missing_names = [repr(lora["name"]) for lora in restored.loras if lora["name"] not in lora_names]
    if missing_names:
        names, verb = " and ".join(missing_names), "is" if len(missing_names) == 1 else "are"
        notes.append(f"LoRAs were left out: {names} {verb} not in the models folder, or not for this model.")
    loras = [dict(lora) for lora in restored.loras if lora["name"] in lora_names]
    if len(loras) > max_loras:
        notes.append(f"Of its {len(loras)} LoRAs the first {max_loras} were loaded.")
    return dataclasses.replace(restored, values={**restored.values, "loras": loras[:max_loras]}, notes=notes)
