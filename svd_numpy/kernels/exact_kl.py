"""The exact KL divergence from the log-uniform prior, which Molchanov et al. 2017, eq. 14, fit.

With rho = |theta| / sigma, x = rho / sqrt 2 and D the Dawson function, up to a constant that no gradient sees::

    K(rho) = 2 int_0^x D(u) du

Gauss-Legendre quadrature for small x, the asymptotic series for large ones: both to the last bits of float64.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_OFFSET = (np.euler_gamma + math.log(2.0)) / 2.0  # K(rho) -> log(rho) + this
_SWITCH = 6.0  # above this x the asymptotic series is exact to float64


@cache
def _quadrature() -> tuple[tuple[float, float], ...]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    return tuple(zip(((nodes + 1.0) / 2.0).tolist(), (weights / 2.0).tolist(), strict=True))


def exact_value(rho: Array) -> Array:
    """K(rho), in nats, in the dtype of rho."""
    from scipy.special import dawsn

    x = rho.astype(np.float64) / math.sqrt(2.0)
    near = np.minimum(x, _SWITCH)
    integral = np.zeros_like(near)
    for node, weight in _quadrature():  # one node at a time: no (size, 40) temporary
        integral += weight * dawsn(near * node)
    far = np.maximum(x, _SWITCH)
    series = _OFFSET + np.log(math.sqrt(2.0) * far) - _series_tail(0.5 / far / far)
    result: Array = np.where(x < _SWITCH, 2.0 * near * integral, series).astype(rho.dtype)
    return result


def _series_tail(inverse_s: Array, terms: int = 20) -> Array:
    """Sum of ``(2k - 1)!! / (2k) s^-k`` with ``s = rho^2``, by Horner's rule."""
    total = np.zeros_like(inverse_s)
    for k in range(terms, 0, -1):
        double_factorial = math.prod(range(1, 2 * k, 2))
        total = (total + double_factorial / (2.0 * k)) * inverse_s
    return total


def exact_slope(rho: Array) -> Array:
    """K'(rho) / rho, in the dtype of rho: D(x) / x, and 1 at 0."""
    from scipy.special import dawsn

    x = rho.astype(np.float64) / math.sqrt(2.0)
    divisor = np.where(x > 0.0, x, 1.0)
    slope: Array = np.where(x > 0.0, dawsn(x) / divisor, 1.0).astype(rho.dtype)
    return slope
