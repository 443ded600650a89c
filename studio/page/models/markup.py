"""The HTML of the models' tab: cards, the memory bar, the list of LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines.models.catalog_folder import EmbeddingEntry, LoraEntry, UpscalerEntry
from pipelines.models.entry import CatalogEntry
from studio.models.memory_segments import DeviceRow
from studio.models.model_list import DOWNLOAD, LOAD, Segment, Transfer
from studio.ui.markup import escape, prose
from studio.ui.presentation import format_file_size, format_licence

__all__ = [
    "FAMILIES",
    "Card",
    "build_card",
    "build_cards",
    "build_embedding_list",
    "build_lora_list",
    "build_memory",
    "build_memory_bar",
]

FAMILIES = {"sd": "Stable Diffusion", "sdxl": "SDXL", "sd3": "SD 3", "flux": "FLUX", "stock": "Other pipelines"}
KINDS = {"image": "Pictures", "video": "Video"}

Card = tuple[CatalogEntry, bool, bool, Transfer | None]
"""An entry, whether it is here, whether it is in memory, and what is on its way for it."""

Fits = Callable[[CatalogEntry, bool], tuple[str, str]]
"""From an entry and whether it is here to how it suits this machine: see `machine_fit.describe_fit`."""


def _say_nothing(entry: CatalogEntry, is_here: bool) -> tuple[str, str]:
    return "", ""


NONE = (
    '<div class="sw-cells-empty"><p class="sw-empty-title">No model matches</p>'
    "<p>Choose another family, kind or state.</p></div>"
)


def build_cards(cards: Sequence[Card], fits: Fits = _say_nothing, recommended: str = "") -> str:
    """Build the catalog as a grid of cards.

    Args:
        cards: of the models that are shown.
        fits: says how a model suits this machine.
        recommended: key of the model that is marked.
    """
    parts = [build_card(*one, fits(*one[:2]), one[0].key == recommended) for one in cards]
    return f'<ul class="sw-models">{"".join(parts)}</ul>' if cards else NONE


def build_card(
    entry: CatalogEntry,
    is_here: bool,
    is_loaded: bool,
    transfer: Transfer | None,
    fit: tuple[str, str] = ("", ""),
    is_recommended: bool = False,
) -> str:
    """Build one model's card: what it is, where it is, how it suits this machine, and what can be done with it."""
    place, state = _describe_place(entry, is_here, is_loaded)
    licence = escape(format_licence(entry.licence) or ("not stated" if entry.local else "not confirmed"))
    if entry.licence_url.startswith("https://"):
        licence = f'<a href="{escape(entry.licence_url)}" target="_blank" rel="noreferrer">{licence}</a>'
    facts = [
        ("Family", escape(FAMILIES.get(entry.family, entry.family))),
        ("Type", KINDS.get(entry.kind, entry.kind)),
        ("Size", escape(format_file_size(entry.size_bytes) or "–")),
        ("License", licence),
    ]
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    gate = '<span class="sw-gated">license to accept</span>' if entry.gated else ""
    mark = '<span class="sw-recommended">recommended here</span>' if is_recommended else ""
    fitting = f'<p class="sw-model-fit" data-fit="{fit[0]}">{escape(fit[1])}</p>' if fit[1] else ""
    note = f'<p class="sw-model-note">{prose(entry.notes)}</p>' if entry.notes and not entry.problem else ""
    problem_class = "sw-model-note" if entry.is_addition else "sw-model-problem"
    problem = f'<p class="{problem_class}">{prose(entry.problem)}</p>' if entry.problem else ""
    return (
        f'<li class="sw-model" data-key="{escape(entry.key)}" data-state="{state}"><h3>{escape(entry.label)}</h3>'
        f'<p class="sw-where"><i aria-hidden="true"></i><span>{place}</span>{mark}{gate}</p>'
        f'<dl class="sw-figures">{rows}</dl>'
        f"{fitting}{note}{problem}{_build_progress(transfer)}"
        f'<p class="sw-model-acts">{_build_buttons(entry, is_here, is_loaded, transfer)}</p></li>'
    )


def _describe_place(entry: CatalogEntry, is_here: bool, is_loaded: bool) -> tuple[str, str]:
    if entry.is_addition:
        return "Used with a model", "here"
    if entry.problem:
        return "Cannot be used", "problem"
    if is_loaded:
        return "In memory", "loaded"
    return ("On this machine", "here") if is_here else ("Not downloaded", "hub")


def _build_progress(transfer: Transfer | None) -> str:
    if transfer is None or transfer.status == "done":
        return ""
    if transfer.status == "failed":
        return f'<p class="sw-model-problem" role="alert">{prose(transfer.message)}</p>'
    if transfer.status == "cancelled":
        return (
            f'<p class="sw-model-note" role="status">The {transfer.what} was cancelled; '
            "the downloaded part is kept.</p>"
        )
    share = 100 * transfer.done / transfer.total if transfer.total else 0
    size = (
        f" {format_file_size(transfer.done) or '0 MB'} of {format_file_size(transfer.total)}" if transfer.total else ""
    )
    phase = transfer.stage or ("Preparing" if transfer.what == DOWNLOAD else "Loading")
    return (
        f'<div class="sw-progress" data-status="{"running" if transfer.total else "loading"}">'
        f'<div class="sw-bar" role="progressbar" '
        f'aria-label="{escape(phase)}" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}">'
        f'<i style="width:{share:.1f}%"></i></div>'
        f"<p><span>{escape(phase)}</span><span>{escape(size.strip())}</span></p></div>"
    )


def _build_buttons(entry: CatalogEntry, is_here: bool, is_loaded: bool, transfer: Transfer | None) -> str:
    def build_button(action: str, words: str) -> str:
        return (
            f'<button type="button" class="sw-act" data-action="{action}" data-id="{escape(entry.key)}" '
            f'aria-label="{words} {escape(entry.label)}">{words}</button>'
        )

    if entry.problem:
        return ""
    if transfer is not None and transfer.status == "running":
        return build_button("cancel", "Cancel")
    use = build_button("use", "Use")
    if is_loaded:
        return use + build_button("release", "Unload")
    return use + build_button(LOAD, "Load") if is_here else build_button(DOWNLOAD, "Download")


def build_memory(devices: Sequence[DeviceRow], label: Callable[[str], str]) -> str:
    """Show each device's name, its memory and how what models may take of it is shared out.

    Args:
        devices: of `model_list.list_devices`.
        label: model key to its name.
    """
    return "".join(
        f'<p class="sw-hint sw-device">{escape(_describe_device(row))}</p>'
        f"{build_memory_bar(row.segments, row.limit, label)}"
        for row in devices
    )


def _describe_device(row: DeviceRow) -> str:
    name = f"{row.name} ({row.device})" if ":" in row.device else row.name
    if row.memory is None:
        return name
    return f"{name}: {_format_size(row.memory.free)} free of {_format_size(row.memory.total)}"


def build_memory_bar(segments: Sequence[Segment], limit: int, label: Callable[[str], str]) -> str:
    """Show how the memory that models may take is shared out.

    Args:
        segments: of `model_list.list_memory_segments`.
        limit: bytes that models may take.
        label: model key to its name.
    """
    used_bytes = sum(one.bytes for one in segments)
    names = [" and ".join(label(key) for key in one.models) or "Unloading" for one in segments]
    parts = "".join(
        f'<i data-hue="{place % 6}" style="width:{100 * one.bytes / limit:.2f}%"></i>'
        for place, one in enumerate(segments)
    )
    legend = "".join(
        f'<li><i data-hue="{place % 6}" aria-hidden="true">'
        f"</i>{escape(name)}: {_format_size(one.bytes)}{', in use' if one.in_use else ''}</li>"
        for place, (name, one) in enumerate(zip(names, segments, strict=True))
    )
    summary = (
        f"{_format_size(used_bytes)} of {_format_size(limit)} used by models"
        if segments
        else f"No model is in memory; they may use {_format_size(limit)}"
    )
    return (
        f'<div class="sw-memory" data-used="{used_bytes}"><p class="sw-memory-summary">{escape(summary)}</p>'
        f'<div class="sw-memory-bar" role="img" aria-label="{escape(summary)}">{parts}</div><ul>{legend}</ul></div>'
    )


def _format_size(count: int) -> str:
    return format_file_size(count) or "0 MB"


def build_lora_list(loras: Sequence[LoraEntry]) -> str:
    """List the LoRAs of the models folder, with what is wrong with the unusable ones."""
    if not loras:
        return (
            '<p class="sw-hint">No LoRA yet. Put a <code>.safetensors</code> file into the folder '
            "<code>loras</code> of the models folder, and rescan.</p>"
        )
    return _build_table("LoRA", [(one, one.label, one.family) for one in loras])


def build_embedding_list(embeddings: Sequence[EmbeddingEntry]) -> str:
    """List the embeddings, under the names by which a prompt takes them; nothing where there is none."""
    rows = [(one, f"embedding:{one.key}", one.family) for one in embeddings]
    return _build_table("Embedding", rows) if rows else ""


def build_upscaler_list(upscalers: Sequence[UpscalerEntry]) -> str:
    """Build the table of the upscalers, under the names by which Upscale takes them."""
    return _build_table("Upscaler", [(one, one.key, "") for one in upscalers]) if upscalers else ""


def _build_table(what: str, entries: Sequence[tuple[LoraEntry | EmbeddingEntry | UpscalerEntry, str, str]]) -> str:
    rows = "".join(
        f'<tr data-key="{escape(one.key)}"><th scope="row">{escape(label)}</th>'
        f"<td>{escape(FAMILIES.get(family, '') or 'any')}</td>"
        f"<td>{_format_size(one.size_bytes)}</td><td>{prose(one.problem) or 'ready'}</td></tr>"
        for one, label, family in entries
    )
    return (
        f'<div class="sw-scroll" tabindex="0" role="region" aria-label="{what}s"><table><thead><tr>'
        f'<th scope="col">{what}</th>'
        f'<th scope="col">Family</th><th scope="col">Size</th><th scope="col">State</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
