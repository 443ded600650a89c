"""From loaded parts to the family or the pipeline that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import ModelError
from pipelines.core.leases import PartKey
from pipelines.models.catalog import Catalog
from pipelines.models.checkpoint_scheduler import adapt_scheduler
from pipelines.models.files import read_json
from pipelines.models.part_loading import new_scheduler, pipeline_class
from pipelines.models.plan import Plan

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from pipelines.families.base import Family
    from pipelines.families.stock import StockPipeline

__all__ = ["assemble_model"]


def assemble_model(
    plan: Plan, objects: Mapping[str, Any], catalog: Catalog, rows_by_network: dict[PartKey, dict[int, int]]
) -> Family | StockPipeline:
    """Build the family or pipeline, with a scheduler of its own, which changes while it is used.

    Args:
        plan: of the model.
        objects: the loaded parts by name.
        catalog: names the embeddings and the folder of fitted files.
        rows_by_network: what the device's memory held of each network's rows, found out once and not by every job.

    Raises:
        ModelError: diffusers refuses the parts.
    """
    from pipelines.controls.direction_files import FOLDER
    from pipelines.families import FAMILIES, family_of
    from pipelines.families.preview import read_factors
    from pipelines.families.stock import StockPipeline
    from pipelines.initializations.fitted import fitted_folder
    from pipelines.schedules.learned import LearnedSchedules

    empty = dict.fromkeys(name for name, files in plan.parts.items() if files is None)
    components = {**plan.settings, **empty, **objects}
    for name, files in plan.parts.items():
        if files is not None and "Scheduler" in files.class_name:
            scheduler = new_scheduler(files, read_json(files.folder / "scheduler_config.json"))
            if plan.checkpoint and plan.entry.file:
                scheduler = adapt_scheduler(scheduler, plan.checkpoint, plan.entry.file)
            components[name] = scheduler
    factors = None if plan.checkpoint else read_factors(plan.folder)
    if plan.entry.family in FAMILIES:
        fitted = {"fitted_starts": fitted_folder(plan.entry.key, catalog.folder)}
        embeddings = {"embeddings": {one.key: one for one in catalog.embeddings()}}
        family = family_of(components | fitted | embeddings | ({"preview": factors} if factors else {}))
        family.identity = tuple(sorted(plan.keys.items()))
        family.rows_by_size = rows_by_network.setdefault(plan.keys[family.network_name], {})
        family.directions_folder = catalog.folder / FOLDER
        family.learned = LearnedSchedules.beside_models(catalog.folder)
        return family
    return StockPipeline(_build_pipeline(plan, components), factors)


def _build_pipeline(plan: Plan, components: Mapping[str, object]) -> DiffusionPipeline:
    try:
        return pipeline_class(plan.entry.pipeline)(**components)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{plan.entry.label} cannot be put together as {plan.entry.pipeline} ({error}). Choose another model."
        ) from error
