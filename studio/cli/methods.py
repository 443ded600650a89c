"""`python -m studio methods`: the tables of methods as Markdown."""

from __future__ import annotations

__all__ = ["build_method_tables"]


def build_method_tables() -> str:
    """Build the tables of methods as Markdown, for docs/methods.md."""
    from pipelines.autoencoders import VAES
    from pipelines.caches import CACHES
    from pipelines.compatibility import COMPATIBILITIES
    from pipelines.controls import CONTROLS, IMAGE_PROMPTS
    from pipelines.edits import EDITS
    from pipelines.guidance import GUIDANCE
    from pipelines.initializations import INITIALIZATIONS
    from pipelines.inspection import INSPECTIONS
    from pipelines.inversions import INVERSIONS
    from pipelines.quantizers import QUANTIZERS
    from pipelines.rewards import REWARDS
    from pipelines.samplers import SAMPLERS
    from pipelines.schedules import SCHEDULES
    from pipelines.search import SEARCHES
    from pipelines.second_passes import SECOND_PASSES
    from pipelines.workflows.video import VIDEOS

    parts = []
    for table in (
        SAMPLERS,
        SCHEDULES,
        INITIALIZATIONS,
        COMPATIBILITIES,
        GUIDANCE,
        CACHES,
        SEARCHES,
        REWARDS,
        SECOND_PASSES,
        VAES,
        CONTROLS,
        IMAGE_PROMPTS,
        INVERSIONS,
        EDITS,
        VIDEOS,
        QUANTIZERS,
        INSPECTIONS,
    ):
        parts += [f"| {table.kind} | key | what it is for | source |", "| --- | --- | --- | --- |"]
        parts += [f"| {one.label} | `{one.key}` | {one.help} | {one.paper} |" for one in table.values()]
        parts += ["", *build_order_rows(), ""] if table is SAMPLERS else [""]
    return "\n".join(parts).rstrip()


def build_order_rows() -> list[str]:
    """Build the Markdown table of the deterministic samplers' orders of convergence, in theory and as measured."""
    from pipelines.benchmarks.orders import ORDERS, formula_order, whole_run_order
    from pipelines.samplers import SAMPLERS

    parts = [
        "| deterministic sampler | settings | order in theory | of the formula, measured | of a whole run, measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, rows in ORDERS.items():
        for order in rows:
            settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in order.settings.items()) or "–"
            parts.append(
                f"| {SAMPLERS[key].label} | {settings} | {order.theory} | {formula_order(key, order):.2f} "
                f"| {whole_run_order(key, order):.2f} |"
            )
    return parts
