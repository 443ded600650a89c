"""The orders that the README's table shows."""

from __future__ import annotations

import pytest

from pipelines.orders import ORDERS, measured_order
from pipelines.samplers import SAMPLERS


@pytest.mark.parametrize("key", ORDERS)
def test_the_measured_order_is_the_theorys(key):
    assert measured_order(key) == pytest.approx(ORDERS[key].theory, abs=0.2)


def test_every_order_is_a_samplers():
    assert set(ORDERS) <= set(SAMPLERS)
