"""The HTML of the models' tab: cards, the memory bar, the shelf of LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines.models.catalog_folder import LoraEntry
from pipelines.models.entry import CatalogEntry
from studio.models.model_list import DOWNLOAD, LOAD, Errand, Segment
from studio.ui.markup import escape
from studio.ui.presentation import file_size

__all__ = ["FAMILIES", "Card", "card", "cards", "lora_list", "memory_bar"]

FAMILIES = {"sd": "Stable Diffusion", "sdxl": "SDXL", "sd3": "SD 3", "flux": "FLUX", "stock": "Other pipelines"}
KINDS = {"image": "Pictures", "video": "Video"}

Card = tuple[CatalogEntry, bool, bool, Errand | None]
"""An entry, whether it is here, whether it is in memory, and what is on its way for it."""

NONE = (
    '<div class="sw-cells-empty"><p class="sw-empty-title">No model is like this</p>'
    "<p>Choose another family, kind or place.</p></div>"
)


def cards(shown: Sequence[Card]) -> str:
    """The catalog as a grid of cards."""
    return f'<ul class="sw-models">{"".join(card(*one) for one in shown)}</ul>' if shown else NONE


def card(entry: CatalogEntry, here: bool, loaded: bool, errand: Errand | None) -> str:
    """One model: what it is, where it is, and what can be done with it."""
    where, state = _where(entry, here, loaded)
    licence = escape(entry.licence or ("not stated" if entry.local else "not confirmed"))
    if entry.licence_url.startswith("https://"):
        licence = f'<a href="{escape(entry.licence_url)}" target="_blank" rel="noreferrer">{licence}</a>'
    facts = [
        ("Family", escape(FAMILIES.get(entry.family, entry.family))),
        ("Makes", KINDS.get(entry.kind, entry.kind)),
        ("Size", escape(file_size(entry.size_bytes) or "–")),
        ("Licence", licence),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    gate = '<span class="sw-gated">licence to accept</span>' if entry.gated else ""
    note = f'<p class="sw-model-note">{escape(entry.notes)}</p>' if entry.notes and not entry.problem else ""
    problem = f'<p class="sw-model-problem">{escape(entry.problem)}</p>' if entry.problem else ""
    return (
        f'<li class="sw-model" data-key="{escape(entry.key)}" data-state="{state}"><h3>{escape(entry.label)}</h3>'
        f'<p class="sw-where"><i aria-hidden="true"></i><span>{where}</span>{gate}</p>'
        f'<dl class="sw-figures">{listed}</dl>'
        f'{note}{problem}{_progress(errand)}<p class="sw-model-acts">{_buttons(entry, here, loaded, errand)}</p></li>'
    )


def _where(entry: CatalogEntry, here: bool, loaded: bool) -> tuple[str, str]:
    if entry.problem:
        return "Cannot be used", "problem"
    if loaded:
        return "In memory", "loaded"
    return ("On this machine", "here") if here else ("To be fetched", "hub")


def _progress(errand: Errand | None) -> str:
    if errand is None or errand.status == "done":
        return ""
    if errand.status == "failed":
        return f'<p class="sw-model-problem" role="alert">{escape(errand.message)}</p>'
    if errand.status == "cancelled":
        return f'<p class="sw-model-note" role="status">The {errand.what} was cancelled; what has arrived is kept.</p>'
    share = 100 * errand.done / errand.total if errand.total else 0
    size = f" {file_size(errand.done) or '0 MB'} of {file_size(errand.total)}" if errand.total else ""
    stage = errand.stage or ("Looking it up" if errand.what == DOWNLOAD else "Loading")
    return (
        f'<div class="sw-progress" data-status="{"running" if errand.total else "loading"}">'
        f'<div class="sw-bar" role="progressbar" '
        f'aria-label="{escape(stage)}" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}">'
        f'<i style="width:{share:.1f}%"></i></div>'
        f"<p><span>{escape(stage)}</span><span>{escape(size.strip())}</span></p></div>"
    )


def _buttons(entry: CatalogEntry, here: bool, loaded: bool, errand: Errand | None) -> str:
    def button(action: str, words: str) -> str:
        return (
            f'<button type="button" class="sw-act" data-action="{action}" data-id="{escape(entry.key)}" '
            f'aria-label="{words} {escape(entry.label)}">{words}</button>'
        )

    if entry.problem:
        return ""
    if errand is not None and errand.status == "running":
        return button("cancel", "Cancel")
    use = button("use", "Use") if entry.kind == "image" else ""
    if loaded:
        return use + button("release", "Release")
    return use + button(LOAD, "Load") if here else button(DOWNLOAD, "Download")


def memory_bar(segments: Sequence[Segment], limit: int, label: Callable[[str], str]) -> str:
    """How the memory that models may take is shared out.

    Args:
        segments: of `model_list.memory_of`.
        limit: bytes that models may take.
        label: model key to its name.
    """
    used = sum(one.bytes for one in segments)
    names = [" and ".join(label(key) for key in one.models) or "Being freed" for one in segments]
    parts = "".join(
        f'<i data-hue="{place % 6}" style="width:{100 * one.bytes / limit:.2f}%"></i>'
        for place, one in enumerate(segments)
    )
    legend = "".join(
        f'<li><i data-hue="{place % 6}" aria-hidden="true">'
        f"</i>{escape(name)}: {_size(one.bytes)}{', in use' if one.in_use else ''}</li>"
        for place, (name, one) in enumerate(zip(names, segments, strict=True))
    )
    told = (
        f"{_size(used)} of {_size(limit)} hold models"
        if segments
        else f"No model is in memory; {_size(limit)} are kept for them"
    )
    return (
        f'<div class="sw-memory" data-used="{used}"><p class="sw-memory-told">{escape(told)}</p>'
        f'<div class="sw-memory-bar" role="img" aria-label="{escape(told)}">{parts}</div><ul>{legend}</ul></div>'
    )


def _size(count: int) -> str:
    return file_size(count) or "0 MB"


def lora_list(loras: Sequence[LoraEntry]) -> str:
    """The LoRAs of the models folder, with what is wrong with the unusable ones."""
    if not loras:
        return (
            '<p class="sw-hint">No LoRA yet. Put a <code>.safetensors</code> file into the folder '
            "<code>loras</code> of the models "
            "folder, and look again.</p>"
        )
    rows = "".join(
        f'<tr data-key="{escape(one.key)}"><th scope="row">{escape(one.label)}</th>'
        f"<td>{escape(FAMILIES.get(one.family, '') or 'any')}</td>"
        f"<td>{_size(one.size_bytes)}</td><td>{escape(one.problem) or 'ready'}</td></tr>"
        for one in loras
    )
    return (
        '<div class="sw-scroll" tabindex="0" role="region" aria-label="LoRAs"><table><thead><tr>'
        '<th scope="col">LoRA</th>'
        f'<th scope="col">Family</th><th scope="col">Size</th><th scope="col">State</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
