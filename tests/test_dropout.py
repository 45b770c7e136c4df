"""The factors of dropout: their statistics, the same on both backends, and a function of the pass alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import svd_numpy as svd
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.network.layers.base import Pass

pytest.importorskip("numba")
from svd_numpy.kernels.cpu.backend import NumbaBackend

Array = NDArray[Any]
FAST, SINGLE, PLAIN = NumbaBackend(), ReferenceBackend(np.float32), ReferenceBackend(np.float64)


@pytest.mark.parametrize("backend", [FAST, PLAIN])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [svd.Dropout, svd.GaussianDropout])
def test_factors_have_mean_1_and_the_variance_of_dropout(kind: Any, p: float, backend: Any) -> None:
    layer = kind(p)
    factors = layer.forward(np.ones((500, 300), backend.dtype), Pass(backend, training=True)).astype(np.float64)
    var, n = p / (1 - p), factors.size
    # fourth central moments: of a Gaussian, and of a number that is 0 or 1 / (1 - p)
    fourth = 3 * var**2 if kind is svd.GaussianDropout else var**2 * (1 / (p * (1 - p)) - 3)
    assert abs(factors.mean() - 1) < 5 * math.sqrt(var / n)
    assert abs(((factors - 1) ** 2).mean() - var) < 5 * math.sqrt(max(fourth - var**2, 1e-12) / n) + 1e-5
    for along in (factors[1:] * factors[:-1], factors[:, 1:] * factors[:, :-1]):
        assert abs(along.mean() - 1) < 5 * (var + math.sqrt(2 * var)) / math.sqrt(along.size)
    if kind is svd.Dropout:
        np.testing.assert_allclose(np.unique(factors), [0, 1 / (1 - p)], rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (5, 63), (7, 64), (6, 1000)])
@pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.999])
def test_both_backends_drop_the_same(shape: tuple[int, int], p: float, threads: int) -> None:
    key = NoiseKey(2**35 + 1, 3, 17, 11)
    fast, single, plain = (np.full(shape, np.nan, backend.dtype) for backend in (FAST, SINGLE, PLAIN))
    for backend, out in ((FAST, fast), (SINGLE, single), (PLAIN, plain)):
        backend.dropout_factors(key, p, out)
    assert fast.tobytes() == single.tobytes()
    np.testing.assert_array_equal(fast == 0, plain == 0)
    for backend, out in ((FAST, fast), (PLAIN, plain)):
        backend.gaussian_factors(key, 0.7, out)
        np.testing.assert_allclose(out, 1 + 0.7 * backend.noise(key, *shape), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fast, plain, atol=1e-5)


@pytest.mark.parametrize("kind", [svd.Dropout, svd.GaussianDropout])
def test_noise_is_a_function_of_the_pass(kind: Any) -> None:
    layer, x = kind(0.5), np.ones((6, 40))

    def factors(**options: Any) -> Array:
        return layer.forward(x, Pass(PLAIN, **{"training": True, "step": 1, **options})).copy()

    first = factors()
    np.testing.assert_array_equal(factors(), first)
    np.testing.assert_array_equal(factors(mode="mean"), first)
    np.testing.assert_array_equal(factors(first_sample=2)[:4], first[2:])
    assert not np.array_equal(factors(step=2), first) and not np.array_equal(factors(seed=1), first)
    layer.index = 1
    assert not np.array_equal(factors(), first)
    for run in (Pass(PLAIN), Pass(PLAIN, "mean")):
        assert layer.forward(x, run) is x
        np.testing.assert_array_equal(layer.backward(x.copy(), run, True), x)
    assert kind(0).forward(x, Pass(PLAIN, training=True)) is x
