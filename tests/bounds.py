"""How far results in float32 may be from the exact ones, entry by entry.

A sum of n products is off by at most n u |A| |B|, where u is the unit roundoff. Roundings are nearly random, so it is
hardly ever off by more than a small multiple of sqrt(n) u |A| |B| (Higham and Mary 2019, "A new approach to
probabilistic rounding error analysis", theorem 2.4). The plain backend computes |A| |B| if it is given the absolute
values of all inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.reference import ReferenceBackend

Array = NDArray[Any]
ROUNDOFF = 2.0**-24
SMALL_STEPS = 4  # roundings of one entry outside its sum: an exponential, a root, a mask


class Magnitudes(ReferenceBackend):
    """The plain backend, whose noise is never negative: given absolute values, it returns sums of absolute values."""

    def noise(self, key: NoiseKey, rows: int, units: int) -> Array:
        """Return the size of the noise, and something for its own error of up to 1e-6."""
        return np.abs(super().noise(key, rows, units)) + 4


MAGNITUDES = Magnitudes(np.float64)


def inputs(backend: Any, *arrays: Array) -> list[Array]:
    """Return the same float32 numbers in the type of each backend; for MAGNITUDES their absolute values."""
    numbers = (array.astype(np.float32).astype(backend.dtype) for array in arrays)
    return [np.abs(array) if backend is MAGNITUDES else array for array in numbers]


def assert_within(got: Sequence[Array], expected: Sequence[Array], magnitudes: Sequence[Array], terms: int) -> None:
    """Hold each entry of each output, a sum of at most so many terms, against its own bound."""
    share = ROUNDOFF * (2 * np.sqrt(terms) + SMALL_STEPS)
    for number, (a, b, magnitude) in enumerate(zip(got, expected, magnitudes, strict=True)):
        _assert_below(number, a, b, share * magnitude)


def assert_close(
    got: Sequence[Array], expected: Sequence[Array], relative: float = 1e-5, absolute: float = 1e-6
) -> None:
    """Hold each entry of outputs that are no sums against its own size."""
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        _assert_below(number, a, b, absolute + relative * np.abs(b))


def _assert_below(number: int, got: Array, expected: Array, bound: Array) -> None:
    got = np.asarray(got, np.float64)
    assert got.shape == expected.shape
    assert np.isfinite(got).all(), f"output {number} holds numbers that are not finite"
    error = np.abs(got - expected)
    wrong = error > bound
    if wrong.any():
        at = np.unravel_index(np.argmax(error - bound), error.shape)
        where = f"{tuple(map(int, at))}: {got[at]} for {expected[at]}, at most {bound[at]:.1e} off"
        raise AssertionError(f"output {number}: {wrong.sum()} of {wrong.size} entries are wrong, the worst at {where}")
