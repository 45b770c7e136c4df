"""Stacks: dense layers on lists of weights that are computed in one operation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from thread_counts import assert_same_bits

import svd_numpy as svd
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.stack import Rows, StackLayer
from svd_numpy.network import living as of_network
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.living import LivingCopy, remove
from svd_numpy.network.stacked import Stacked

KEY = NoiseKey(3, 1, 7, 5)
SIZES = [
    ((37, 23), 0.2, 7), ((37, 90, 20, 3), 0.2, 100), ((300, 200, 100, 10), 0.2, 100), ((5, 3, 4), 0.0, 10),
    ((9, 70, 130), 0.5, 130), ((1, 1), 1.0, 1),
]  # fmt: skip


def stack_of(backend: Any, sizes: tuple[int, ...], density: float) -> tuple[Any, list[StackLayer]]:
    """Layers of these sizes, with random weights, and without a ReLU behind the last."""
    rng, layers = np.random.default_rng(0), []
    for at, (inputs, outputs) in enumerate(pairwise(sizes)):
        lists = Living.of(rng.random((inputs, outputs)) < density)
        n, relu = len(lists.rows), at + 2 < len(sizes)
        arrays = [rng.standard_normal(size).astype(backend.dtype) for size in (n, n, outputs)]
        layers.append(StackLayer(2 * at, lists, relu, *arrays, *map(np.zeros_like, arrays)))
    return backend.make_stack(layers), layers


def passes(backend: Any, sizes: Any, density: float, batches: tuple[int, ...], key: NoiseKey | None = KEY) -> list[Any]:
    """Outputs and all gradients of passes with batches of these sizes, the first of which is the largest."""
    stack, layers = stack_of(backend, sizes, density)
    rng, found = np.random.default_rng(1), list[Any]()
    for batch in batches:
        x, dy = (rng.standard_normal((batch, size)).astype(backend.dtype) for size in (sizes[0], sizes[-1]))
        found.append(stack.forward(x, 0.3, key).copy())
        found.append(stack.backward(dy, want_dx=True).copy())
        found += [gradient.copy() for layer in layers for gradient in (layer.d_theta, layer.d_sigma2, layer.d_bias)]
    return found


@pytest.mark.parametrize("key", [KEY, None], ids=["sample", "means"])
@pytest.mark.parametrize(("sizes", "density", "batch"), SIZES)
def test_numba_does_what_the_layers_do_one_by_one(sizes: Any, density: float, batch: int, key: Any) -> None:
    batches = (batch, max(1, batch - 40), batch)
    expected = passes(get_backend("numpy", "float64"), sizes, density, batches, key)
    for found, wanted in zip(passes(get_backend("numba"), sizes, density, batches, key), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * max(1, np.abs(wanted).max(initial=0)))


@pytest.mark.parametrize("key", [KEY, None], ids=["sample", "means"])
def test_stacks_give_the_same_bits_on_any_number_of_threads(key: Any) -> None:
    sizes = (900, 200, 100, 70)  # no stage is too little for threads
    assert_same_bits(lambda: passes(get_backend("numba"), sizes, 0.3, (300,), key))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_stack_gathers_its_examples_itself(name: str, dtype: Any) -> None:
    backend, rng = get_backend(name), np.random.default_rng(0)
    rows = Rows(rng.integers(0, 255, (50, 37)).astype(dtype), rng.integers(0, 50, 33), 1 / 255, np.full(37, 0.1, "f4"))
    gathered = np.empty((33, 37), np.float32)
    backend.gather_rows(*rows, gathered)
    found, wanted = (stack_of(backend, (37, 20, 3), 0.3)[0].forward(x, 0.3, KEY) for x in (rows, gathered))
    np.testing.assert_array_equal(found, wanted)


def net(backend: str = "numpy") -> svd.Sequential:
    """Four dense layers, all of them emptied, with something between the second and the third."""
    layers = (
        svd.VariationalDense(12, 9), svd.ReLU(), svd.VariationalDense(9, 8), svd.ReLU(), svd.Dropout(0.2),
        svd.VariationalDense(8, 7), svd.VariationalDense(7, 3),
    )  # fmt: skip
    model = svd.Sequential(*layers, backend=backend)
    rng = np.random.default_rng(0)
    for layer in model.variational_layers:
        layer.theta[rng.random(layer.theta.shape) < 0.5] = 0
    remove(model, 3.0)
    return model


def test_neighbours_on_lists_are_one_pass_and_the_others_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_network, "LIST_COST", 1.0)
    model = LivingCopy(net()).model
    assert [type(each) for each in model._passes] == [Stacked, svd.Dropout, Stacked]
    assert [type(each) for each in net()._passes] == [type(layer) for layer in net().layers]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("mode", ["sample", "mean"])
def test_a_stack_is_no_part_of_the_result(backend: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_network, "LIST_COST", 1.0)
    results = []
    for alone in (False, True):
        model, rng = LivingCopy(net(backend)).model, np.random.default_rng(0)
        if alone:
            model._passes = [*model.layers]
        x, dy = (rng.standard_normal((20, size)).astype(np.float32) for size in (12, 3))
        run = Pass(model.backend, mode, seed=1, step=2, training=True, learn=True)
        y = model.forward(x, run).copy()
        dx = model.backward(dy, run, want_dx=True)
        results.append([y, dx, model.arena.grads])
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
