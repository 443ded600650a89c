"""Which models can be run beside another one, and what of their files is then loaded."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import SettingsError
from pipelines.core.leases import PartKey
from pipelines.models.assembly import assemble_model
from pipelines.models.catalog import Catalog
from pipelines.models.entry import CatalogEntry
from pipelines.models.plan import Plan
from pipelines.models.vaes import read_vae_facts

if TYPE_CHECKING:
    from pipelines.families.base import Family

__all__ = [
    "add_companions",
    "explain_companion_misfit",
    "explain_guidance",
    "find_companions",
    "joined",
]

_FAMILIES = frozenset({"sd", "sdxl", "sd3", "flux"})
_SHARED = frozenset({"vae", "tiny_vae"})
"""Parts that only the first model is asked for."""


def explain_companion_misfit(entry: CatalogEntry, first: CatalogEntry) -> str:
    """Say why a model cannot be run beside another one, as a sentence; "" where nothing speaks against it.

    Args:
        entry: of the companion.
        first: of the model that it is to stand beside.
    """
    if entry.problem:
        return entry.problem
    for one in (first, entry):
        if one.family not in _FAMILIES or one.kind != "image":
            return f"{one.label} does not run in the studio's own loop, step by step. Choose another model."
    if entry.quantized or entry.lora:
        what = "is quantized" if entry.quantized else "comes with a LoRA"
        return f"{entry.label} {what}, and stands beside no other model so. Choose it as the first one."
    own, theirs = read_vae_facts(first), read_vae_facts(entry)
    if any(mine is None or other is None for mine, other in zip(_list_facts(own), _list_facts(theirs), strict=True)):
        # What is not on this machine yet tells its kind alone.
        return "" if entry.family == first.family else _write_misfit(entry, first)
    return "" if own == theirs else _write_misfit(entry, first)


def _list_facts(facts: Any) -> list[float | None]:
    return [facts.channels or None, facts.factor or None, facts.scaling]


def _write_misfit(entry: CatalogEntry, first: CatalogEntry) -> str:
    return f"{entry.label} and {first.label} have different latent spaces. Choose models that share a VAE."


def find_companions(catalog: Catalog, keys: Iterable[str], first: CatalogEntry) -> list[CatalogEntry]:
    """Find models by their keys and check that they can be run beside another one.

    Args:
        catalog: of all models.
        keys: of the companions.
        first: of the model that they are to stand beside.

    Raises:
        UnknownMethodError: there is none of a key.
        SettingsError: one does not fit.
    """
    found = [catalog[key] for key in keys]
    for entry in found:
        if reason := explain_companion_misfit(entry, first):
            raise SettingsError(reason)
    return found


def add_companions(plan: Plan, companions: Sequence[Plan]) -> Plan:
    """Return the plan of a model with its companions' parts in it, so that memory is planned for all of them at once.

    A part that two models share counts once. A companion's VAE is not loaded: the first model's decodes.

    Args:
        plan: of the first model.
        companions: of the others.
    """
    parts, keys, estimates = dict(plan.parts), dict(plan.keys), dict(plan.estimates)
    for one in companions:
        for name in _list_parts(one):
            place = _name_place(one, name)
            parts[place], keys[place] = one.parts[name], one.keys[name]
            estimates[one.keys[name]] = one.estimates[one.keys[name]]
    return dataclasses.replace(plan, parts=parts, keys=keys, estimates=estimates)


@contextlib.contextmanager
def joined(
    model: Any,
    companions: Sequence[Plan],
    objects: Mapping[str, Any],
    catalog: Catalog,
    rows_by_network: dict[PartKey, dict[int, int]],
) -> Iterator[None]:
    """Provide a loaded model with its companions while the context lasts.

    Args:
        model: the first model; any where there are no companions.
        companions: plans of the others.
        objects: the loaded parts of all by name, as `add_companions` named them.
        catalog, rows_by_network: as `assemble_model` takes them.

    Raises:
        SettingsError: one has latents or a guidance of another kind, which its files could not tell before.
    """
    if not companions:
        yield
        return
    from pipelines.families.base import Family  # late: listing models imports no PyTorch
    from pipelines.families.companions import EnsembleNetwork

    found: dict[str, Family] = {}
    for plan in companions:
        own = {name: objects[_name_place(plan, name)] for name in _list_parts(plan)}
        own |= {name: objects[name] for name in _SHARED if name in objects}
        one = assemble_model(plan, own, catalog, rows_by_network)
        if isinstance(one, Family):
            _require_alike(model, one, plan.entry.label)
            found[plan.entry.key] = one
    model.companions, model.ensemble = found, EnsembleNetwork(model, found)
    try:
        yield
    finally:
        model.companions, model.ensemble = {}, None


def _require_alike(first: Family, other: Family, label: str) -> None:
    size = first.default_size
    own, theirs = first.latent_shape(*size), other.latent_shape(*size)
    if own != theirs:
        raise SettingsError(
            f"{label} has latents of {theirs} and the first model of {own} (channels, height, width). Choose models "
            "that share a VAE."
        )
    if first.traits.guidance != other.traits.guidance:
        raise SettingsError(explain_guidance(label))


def explain_guidance(label: str) -> str:
    """Say that a model takes guidance in another way than the first one."""
    return (
        f"{label} takes guidance in another way than the first model (as an input of the network, or by a second "
        "evaluation). Choose models that take it in the same way."
    )


def _list_parts(plan: Plan) -> list[str]:
    return [name for name in plan.keys if name not in _SHARED]


def _name_place(plan: Plan, name: str) -> str:
    return f"{name}@{plan.entry.key}"
