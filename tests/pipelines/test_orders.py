"""The orders that the README's table shows."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.benchmarks.orders import ORDERS, Order, formula_order, whole_run_order
from pipelines.samplers import SAMPLERS

ROWS = [(key, known) for key, rows in ORDERS.items() for known in rows]
FIRST_STEPS = 2
"""The order that a run keeps at least: a first or last step of lower order is of second order itself."""


@pytest.mark.parametrize(("key", "known"), ROWS, ids=str)
def test_the_formulas_order_is_the_theorys(key, known):
    assert formula_order(key, known) == pytest.approx(known.theory, abs=0.25)


@pytest.mark.parametrize(("key", "known"), ROWS, ids=str)
def test_a_whole_run_loses_no_more_than_its_first_and_last_steps_cost(key, known):
    measured = whole_run_order(key, known)
    assert min(known.theory, FIRST_STEPS) - 0.3 < measured < known.theory + 0.25


def test_a_lowered_end_and_a_start_without_estimates_are_seen_in_the_whole_run_only():
    unipc, lms = (next(one for one in ORDERS[key] if one.settings == {"order": 3}) for key in ("unipc", "lms"))
    assert whole_run_order("unipc", unipc) < 2.2
    assert whole_run_order("unipc", dataclasses.replace(unipc, settings={"order": 3, "lower_order_final": False})) > 3.5
    assert whole_run_order("lms", lms) < 2.5 < formula_order("lms", lms)


def test_every_order_that_can_be_set_has_a_row():
    assert set(ORDERS) <= set(SAMPLERS)
    for key in ORDERS:
        for field in dataclasses.fields(SAMPLERS[key].settings):
            if field.name == "order":
                rows = {one.settings.get("order") for one in ORDERS[key]}
                assert rows == set(range(int(field.metadata["low"]), int(field.metadata["high"]) + 1)), key


def test_rows_are_told_apart_by_their_settings():
    for rows in ORDERS.values():
        assert len({str(dict(one.settings)) for one in rows}) == len(rows)
        assert all(isinstance(one, Order) for one in rows)
