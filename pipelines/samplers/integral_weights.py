"""Exact weights of multistep solvers: integrals of Lagrange polynomials, plain or against an exponential."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["exponential_moment", "integral_weights"]


def exponential_moment(power: int, rate: float) -> float:
    """The integral of e^(-rate * v) * v^power over v from 0 to 1, without cancellation at any rate >= 0.

    Integration by parts gives m_k = (k * m_(k-1) - e^-rate) / rate, which loses its digits at a small rate;
    there the power series is summed instead.
    """
    if rate < 2:
        terms = [1.0]
        for index in range(1, 24):
            terms.append(terms[-1] * -rate / index)
        return sum(term / (power + 1 + index) for index, term in enumerate(terms))
    moment = -math.expm1(-rate) / rate
    for index in range(1, power + 1):
        moment = (index * moment - math.exp(-rate)) / rate
    return moment


def integral_weights(nodes: Sequence[float], width: float, rate: float = 0.0) -> list[float]:
    """w_i = integral from 0 to width of e^(-rate * v) * l_i(v) dv, l_i the Lagrange polynomials of the nodes.

    So sum_i w_i * f(node_i) is exact for every polynomial f of a degree below the number of nodes. Adams'
    methods are rate 0; exponential integrators have a rate.

    Args:
        nodes: distinct places at which the integrand is known, inside the interval or not.
        width: of the interval, negative to integrate backwards; finite.
        rate: of the exponential; rate * width >= 0.

    Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 2010, section 2.5; for rate 0 the
    Adams methods. The weights solve the moment equations sum_i w_i * node_i^k = m_k.
    """
    scaled = np.array(nodes) / width
    moments = np.array([exponential_moment(power, rate * width) for power in range(len(scaled))])
    weights: list[float] = (width * np.linalg.solve(np.vander(scaled, increasing=True).T, moments)).tolist()
    return weights
