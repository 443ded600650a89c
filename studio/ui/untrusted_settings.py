"""Settings that a picture or a link brings: only what this studio, its caps and the chosen model accept."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pipelines.controls import ENSEMBLES, SLIDERS
from pipelines.core.errors import StepwiseError
from pipelines.core.registry import Table, parse_settings
from pipelines.core.types import Choice, Request, Traits
from pipelines.models.steering_entry import ADAPTER, CONTROLNET, T2I_ADAPTER
from studio.infotext import Restored
from studio.ui.form import TABLES

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["accept_restored"]


def accept_restored(restored: Restored, studio: Studio, model: str) -> Restored:
    """Return untrusted settings as far as a Request, the caps, the tables and the model accept them.

    Args:
        restored: what a picture or a link says.
        studio: knows the caps.
        model: key of the model that is chosen.
    """
    limits = studio.limits
    side = (limits.min_side, limits.max_side)
    caps = {"num_inference_steps": (1, limits.max_steps), "batch_size": (1, limits.max_batch)}
    restored = restored.within({**caps, "width": side, "height": side})
    request_values = Request.parse(restored.values).to_json()
    values, notes = {name: request_values[name] for name in restored.values}, list(restored.notes)
    equality = restored.equality
    traits = studio.traits(model)
    for name in [name for name in TABLES if name in values]:
        if reason := _explain_refusal(TABLES[name], Choice.parse(values[name]), traits):
            del values[name]
            notes.append(f"The {name} was not loaded. {reason}")
            equality = ""
    _find_vae(restored, values, notes, studio, model)
    _drop_missing_steering(values, notes, studio, model)
    _drop_missing_companions(values, notes, studio, model)
    _drop_missing_sliders(values, notes, studio, model)
    equality = equality if ("vae" in values) == ("vae" in restored.values) else ""
    return dataclasses.replace(restored, values=values, notes=notes, equality=equality)


def _find_vae(restored: Restored, values: dict[str, Any], notes: list[str], studio: Studio, model: str) -> None:
    """Put the VAE that is here in the place of a program's name for it; it leaves the values where none is."""
    choice = Choice.parse(values.get("vae", "own"))
    if choice.key != "file" or "vae" not in values:
        return
    name = _strip_file_name(str(choice.settings.get("name", "")))
    fitting = {_strip_file_name(vae.path.name): vae.key for vae in studio.vaes(model)}
    fitting |= {vae.key: vae.key for vae in studio.vaes(model)}
    if name in fitting:
        values["vae"] = {"key": "file", "name": fitting[name]}
        if restored.source != "stepwise":
            notes.append(f"The VAE {fitting[name]} was chosen by its name. Whether it is the same file is not known.")
        return
    del values["vae"]
    notes.append(
        f"The picture names the VAE {str(choice.settings.get('name', ''))[:80]!r}, which is not in the models folder "
        "or does not fit this model: the chosen one stays."
    )


_STEERING = {
    "control": (CONTROLNET, "ControlNet"),
    "t2i_adapter": (T2I_ADAPTER, "T2I-Adapter"),
    "image_prompt": (ADAPTER, "IP-Adapter"),
}


def _drop_missing_steering(values: dict[str, Any], notes: list[str], studio: Studio, model: str) -> None:
    """Take out what reads a picture where it or its picture is not here, with a sentence each."""
    for field, (what, words) in _STEERING.items():
        settings = Choice.parse(values.get(field, "none")).settings
        if not settings:
            continue
        here = [one.key for one in studio.steering(model, what)]
        names = [str(settings.get(name, "")) for name in ("model", "second") if name == "model" or settings.get(name)]
        pictures = [str(settings.get("picture", "")), str(settings.get("second_picture", ""))][: len(names)]
        if missing := [name for name in names if name not in here]:
            why = f"{missing[0][:80]!r} is not in the models folder, or not for this model"
        elif not all(studio.given.has(picture) for picture in pictures):
            why = "its picture is not here"
        else:
            continue
        values[field] = {"key": "none"}
        notes.append(f"The {words} was left out: {why}.")


def _drop_missing_companions(values: dict[str, Any], notes: list[str], studio: Studio, model: str) -> None:
    """Take out further models of which one is not here or cannot stand beside the chosen one, with a sentence."""
    ensemble = ENSEMBLES.build(Choice.parse(values.get("ensemble", "none")))
    here = {entry.key for entry in studio.companions(model)} if ensemble else set()
    missing = (
        [key for key in (ensemble.settings.second, ensemble.settings.third) if key and key not in here]
        if ensemble
        else []
    )
    if missing:
        values["ensemble"] = {"key": "none"}
        notes.append(
            f"The further models were left out: {missing[0][:80]!r} is not here, or has another latent space than the "
            "chosen model."
        )


def _drop_missing_sliders(values: dict[str, Any], notes: list[str], studio: Studio, model: str) -> None:
    """Take out sliders whose directions are not here or are of another model, with a sentence."""
    sliders = SLIDERS.build(Choice.parse(values.get("sliders", "none")))
    if sliders is not None and sliders.settings.file not in studio.directions(model):
        values["sliders"] = {"key": "none"}
        notes.append(
            f"The sliders were left out: {sliders.settings.file[:80]!r} is not in the models folder, or not for this "
            "model."
        )


def _strip_file_name(name: str) -> str:
    """A file's name without folders and suffix, which programs write differently."""
    return name.replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors").removesuffix(".pt").casefold()


def _explain_refusal(table: Table, choice: Choice, traits: Traits | None) -> str:
    """Why a picture's method cannot be taken over, as a sentence; empty when it can."""
    try:
        method = table[choice.key]
        parse_settings(method.settings, choice.settings, method.label)
        if traits:
            method.require_fit(traits)
    except StepwiseError as error:
        return str(error)
    return ""
