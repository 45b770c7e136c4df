"""LSTM, GRU and embeddings: gradients, masks, carried states, backends against each other, and torch as an oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svd_numpy.kernels import get_backend
from svd_numpy.network.grad_check import gradcheck
from svd_numpy.network.layers import (
    GRU,
    LSTM,
    Dense,
    VariationalDense,
    VariationalEmbedding,
    VariationalGRU,
    VariationalLSTM,
)
from svd_numpy.network.model import Sequential

needs_numba = pytest.mark.skipif(get_backend("auto").name != "numba", reason="Numba is not installed")
BACKENDS = ["numpy", pytest.param("numba", marks=needs_numba)]
DTYPE = {"numpy": "float64", "numba": "float32"}
Array = np.ndarray[Any, Any]

STACKS: dict[str, Any] = {
    "lstm on letters": lambda: [LSTM(7, 9, tokens=True), Dense(9, 7)],
    "lstm": lambda: [VariationalLSTM(7, 9, tokens=True), VariationalDense(9, 7)],
    "gru": lambda: [VariationalGRU(7, 9, tokens=True), VariationalDense(9, 7)],
    "two layers": lambda: [VariationalEmbedding(7, 5), VariationalLSTM(5, 9), GRU(9, 6), VariationalDense(6, 7)],
    "last step, padded": lambda: [
        VariationalEmbedding(7, 5, padding=0), VariationalGRU(5, 9), VariationalLSTM(9, 6, every_step=False),
        Dense(6, 7),
    ],
}  # fmt: skip


def make(stack: str, steps: int, backend: str = "numpy") -> Sequential:
    """A network away from its start: noise that counts, some weights at 0."""
    model = Sequential(*STACKS[stack](), backend=backend, dtype=DTYPE[backend], input_shape=(steps,), seed=5)
    rng = np.random.default_rng(1)
    for name, array in model.parameters.items():
        array += 0.3 * rng.standard_normal(array.shape)
        if name.endswith("log_sigma2"):
            array[...] = rng.uniform(-6, -1, array.shape)
        elif name.endswith("theta"):
            array[rng.random(array.shape) < 0.1] *= 1e-3
    return model


def letters(sequences: int, steps: int, model: Sequential) -> tuple[Array, Array]:
    """Tokens with padding in front, and labels."""
    rng = np.random.default_rng([sequences, steps])
    x = rng.integers(1, 7, (sequences, steps))
    x[np.arange(steps) < rng.integers(0, steps, sequences)[:, None]] = 0
    return x, rng.integers(0, 7, (sequences, *model.out_shape[:-1]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stack", STACKS)
def test_gradients_through_twenty_steps(stack: str, backend: str) -> None:
    model = make(stack, 20, backend)
    x, y = letters(5, 20, model)
    check = gradcheck(model, x, y, n_train=50, samples=8, tolerance=5e-3 if backend == "numba" else None)
    assert check.ok, f"\n{check}"


@pytest.mark.parametrize(("sequences", "steps"), [(1, 1), (1, 30), (3, 1), (13, 7)])
@pytest.mark.parametrize("stack", STACKS)
@needs_numba
def test_the_backends_agree(stack: str, sequences: int, steps: int) -> None:
    slow, fast = make(stack, steps), make(stack, steps, "numba")
    fast.load_arrays(slow.arrays())
    x, y = letters(sequences, steps, slow)
    (loss, grads), (loss32, grads32) = (model.loss_and_grads(x, y, 100) for model in (slow, fast))
    assert loss32 == pytest.approx(loss, rel=1e-5)
    for name, grad in grads.items():
        np.testing.assert_allclose(grads32[name], grad, rtol=2e-3, atol=2e-5 * np.abs(grad).max() + 1e-7, err_msg=name)
    np.testing.assert_allclose(fast.predict(x), slow.predict(x), rtol=1e-3, atol=1e-4)
