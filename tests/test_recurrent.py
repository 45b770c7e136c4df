"""LSTM, GRU and embeddings: gradients, masks, carried states, backends against each other, and torch as an oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svd_numpy.checks import SvdValueError
from svd_numpy.data import Dataset
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import Buffers, NoiseKey
from svd_numpy.network.grad_check import gradcheck
from svd_numpy.network.layers import (
    GRU,
    LSTM,
    Dense,
    Embedding,
    VariationalDense,
    VariationalEmbedding,
    VariationalGRU,
    VariationalLSTM,
)
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.loop import fit

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


@pytest.mark.parametrize(
    "layer",
    [
        LSTM(4, 5), VariationalLSTM(4, 5), GRU(4, 5, every_step=False), VariationalGRU(4, 5),
        LSTM(4, 5, tokens=True, padding=0), Embedding(4, 5), VariationalEmbedding("abcd", 5, padding=1),
    ],
)  # fmt: skip
def test_a_layer_alone(layer: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 4)) if layer.takes_tokens is None else rng.integers(0, 4, (3, 7))
    check = gradcheck(layer, x)
    assert check.ok, f"\n{check}"
    assert not layer.built


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_are_sampled_once_do_not_average_out(backend: str) -> None:
    """Of the sum over T steps: variance sigma^2 (sum h)^2 with one sample, sigma^2 sum h^2 with fresh noise."""
    own = get_backend(backend, DTYPE[backend])
    assert own.recurrence is not None
    h = np.array([0.5, -1.0, 2.0, 1.5], own.dtype)
    theta, log_sigma2 = np.zeros((1, 4000), own.dtype), np.full((1, 4000), -2.0, own.dtype)
    w, memory = np.empty_like(theta), Buffers()
    own.recurrence.sample_weights(theta, log_sigma2, 0.0, NoiseKey(3, 0, 0), None, w, memory)
    assert (h[:, None] * w).sum(axis=0).var() == pytest.approx(np.exp(-2) * h.sum() ** 2, rel=0.1)
    y = np.empty((4, 4000), own.dtype)
    own.lrt_forward(
        h[:, None].copy(), theta, log_sigma2, np.zeros(4000, own.dtype), 0.0, NoiseKey(3, 0, 0), False, y, memory
    )
    assert y.sum(axis=0).var() == pytest.approx(np.exp(-2) * (h**2).sum(), rel=0.1)


def test_cuda_refuses_recurrent_layers_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from svd_numpy.kernels.reference import ReferenceBackend

    class Without(ReferenceBackend):
        def __init__(self) -> None:
            super().__init__(np.float32)
            self.recurrence = None

    monkeypatch.setattr("svd_numpy.network.core.get_backend", lambda name, dtype: Without())
    with pytest.raises(SvdValueError, match="has no LSTM yet; take backend='numba' or 'numpy'"):
        Sequential(LSTM(4, 5), input_shape=(3, 4))


def test_a_pruned_network_is_fine_tuned_with_its_zeros() -> None:
    layers = VariationalEmbedding(5, 4), VariationalLSTM(4, 6), VariationalDense(6, 5)
    model, rng = Sequential(*layers, backend="numpy", input_shape=(6,)), np.random.default_rng(0)
    for name, array in model.parameters.items():
        if name.endswith("log_sigma2"):
            array[rng.random(array.shape) < 0.5] = 8
    dead = {name: ~alive for name, alive in model.alive().items()}
    x = rng.integers(0, 5, (16, 6))
    data = Dataset("own", x, np.roll(x, 1, axis=1), x, x, None, 5, "here")
    history = fit(model, data, TrainConfig(0, 4, finetune_epochs=3, finetune_lr=1e-2), progress=False)
    assert history[-1]["nll"] < history[0]["nll"]
    for name, gone in dead.items():
        assert (model.parameters[f"{name}.theta"][gone] == 0).all()
