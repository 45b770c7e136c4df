"""Noise with signs per sequence: gradients, the equations written out, and both noise models against Monte Carlo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.network.layers.base import Pass

needs_numba = pytest.mark.skipif(get_backend("auto").name != "numba", reason="Numba is not installed")
OWN: dict[str, Any] = {"noise": "sequence"}
Array = np.ndarray[Any, Any]
STACKS: dict[str, Any] = {
    "lstm": lambda: [svd.VariationalLSTM(7, 6, tokens=True, **OWN), svd.VariationalDense(6, 7)],
    "gru": lambda: [svd.VariationalGRU(7, 6, tokens=True, padding=0, **OWN), svd.VariationalDense(6, 7)],
    "words": lambda: [
        svd.VariationalEmbedding(7, 5, padding=0, groups=("words",), **OWN),
        svd.VariationalLSTM(5, 6, groups=("inputs", "units", "gates"), every_step=False, **OWN), svd.Dense(6, 7),
    ],
    "two layers": lambda: [
        svd.VariationalEmbedding(7, 5, **OWN), svd.VariationalGRU(5, 6, **OWN), svd.VariationalLSTM(6, 4),
        svd.VariationalDense(4, 7),
    ],
}  # fmt: skip


def make(stack: str, backend: str = "numpy") -> svd.Sequential:
    dtype = "float64" if backend == "numpy" else "float32"
    model = svd.Sequential(*STACKS[stack](), backend=backend, dtype=dtype, input_shape=(9,), seed=5)
    rng = np.random.default_rng(1)
    for name, array in model.parameters.items():
        array += 0.2 * rng.standard_normal(array.shape)
        if name.endswith("log_sigma2"):
            array[...] = rng.uniform(-5, -1, array.shape)
    return model


@pytest.mark.parametrize("stack", STACKS)
def test_gradients(stack: str) -> None:
    model, rng = make(stack), np.random.default_rng(0)
    x, y = rng.integers(0, 7, (4, 9)), rng.integers(0, 7, (4, *model.out_shape[:-1]))
    check = svd.gradcheck(model, x, y, n_train=50, samples=6)
    assert check.ok, f"\n{check}"


@pytest.mark.parametrize("stack", STACKS)
@needs_numba
def test_the_backends_agree(stack: str) -> None:
    slow, fast = make(stack), make(stack, "numba")
    fast.load_arrays(slow.arrays())
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 7, (5, 9)), rng.integers(0, 7, (5, *slow.out_shape[:-1]))
    (loss, grads), (loss32, grads32) = (model.loss_and_grads(x, y, 100) for model in (slow, fast))
    assert loss32 == pytest.approx(loss, rel=1e-5)
    for name, grad in grads.items():
        np.testing.assert_allclose(grads32[name], grad, rtol=2e-3, atol=2e-5 * np.abs(grad).max() + 1e-7, err_msg=name)


@pytest.mark.parametrize("cell", [svd.VariationalLSTM, svd.VariationalGRU])
def test_each_sequence_has_the_weights_that_the_equation_says(cell: Any) -> None:
    layer = cell(3, 4, **OWN)
    model = svd.Sequential(layer, backend="numpy", dtype="float64", input_shape=(6, 3), seed=2)
    layer.log_sigma2[:] = np.random.default_rng(1).uniform(-4, 0, layer.log_sigma2.shape)
    x = np.random.default_rng(0).standard_normal((5, 6, 3))
    found = layer.forward(x, Pass(model.backend, seed=2, step=3, first_sample=10)).copy()
    rows, columns = layer.theta.shape
    field = model.backend.noise(NoiseKey(2, 0, 3, 0), rows + 15, rows + columns)
    noise = np.exp(layer.log_sigma2 / 2) * model.backend.noise(NoiseKey(2, 0, 3, 0), rows, columns)
    plain = (svd.LSTM if cell is svd.VariationalLSTM else svd.GRU)(3, 4)
    other = svd.Sequential(plain, backend="numpy", dtype="float64", input_shape=(6, 3))
    plain.bias[:] = layer.bias
    for b in range(5):
        sign = np.where(field[rows + 10 + b] < 0, -1, 1)  # sequence 10 + b of the batch
        plain.theta[:] = layer.theta + noise * np.outer(sign[:rows], sign[rows:])
        np.testing.assert_allclose(found[b], other.predict(x[b : b + 1])[0], rtol=1e-10)


def test_a_state_goes_on_with_the_same_weights() -> None:
    layers = svd.VariationalLSTM(7, 6, tokens=True, **OWN), svd.VariationalDense(6, 7)
    model = svd.Sequential(*layers, backend="numpy", dtype="float64", input_shape=(10,))
    x = np.random.default_rng(0).integers(0, 7, (3, 10))
    whole = layers[0].forward(x, Pass(model.backend, step=4)).copy()
    states = {layers[0].name: layers[0].first_state(3)}
    parts = [layers[0].forward(x[:, at : at + 5], Pass(model.backend, step=4, carried=states)).copy() for at in (0, 5)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-12)


def draws(layer: Any, x: Array, count: int) -> Array:
    """Outputs for so many samples of the weights."""
    shape = x.shape[1:]
    model = svd.Sequential(layer, backend="numpy", dtype="float64", input_shape=shape, seed=3)
    return np.stack([layer.forward(x, Pass(model.backend, seed=3, step=step)).copy() for step in range(count)])


def test_variances_of_both_noise_models() -> None:
    """A sum over steps of rows w, each taken n times: variance sigma^2 sum n^2 in both; the batch averages only one."""
    sigma2, times, sequences = np.exp(-2.0), np.array([3, 1, 2]), 6
    x = np.tile(np.repeat([0, 1, 2], times), (sequences, 1))
    wanted = sigma2 * (times**2).sum()
    for noise, shrinks in (("batch", 1), ("sequence", sequences)):
        layer = svd.VariationalEmbedding(3, 8, log_sigma2=-2, noise=noise)
        sums = draws(layer, x, 1500).sum(axis=2)  # (draws, B, features)
        np.testing.assert_allclose(sums.mean(axis=(0, 1)), times @ layer.theta, atol=0.15)
        assert sums.var(axis=0).mean() == pytest.approx(wanted, rel=0.05)
        assert sums.mean(axis=1).var(axis=0).mean() == pytest.approx(wanted / shrinks, rel=0.05)


def test_outputs_of_an_lstm_have_the_same_distribution_but_two_sequences_do_not_move_together() -> None:
    x = np.tile(np.random.default_rng(0).integers(0, 4, 8), (2, 1))
    shared, signed = (draws(svd.VariationalLSTM(4, 3, tokens=True, log_sigma2=-2, noise=noise), x, 3000)[:, :, -1]
                      for noise in ("batch", "sequence"))  # fmt: skip
    np.testing.assert_allclose(signed.mean(axis=(0, 1)), shared.mean(axis=(0, 1)), atol=0.02)
    np.testing.assert_allclose(signed.std(axis=(0, 1)), shared.std(axis=(0, 1)), rtol=0.06)
    together = [
        np.mean([np.corrcoef(of[:, 0, unit], of[:, 1, unit])[0, 1] for unit in range(3)]) for of in (shared, signed)
    ]
    assert together[0] == pytest.approx(1) and abs(together[1]) < 0.1


def test_the_choice_is_stored_and_checked() -> None:
    model = make("words")
    again = svd.Sequential.from_config(model.config(), "numpy")
    assert [getattr(layer, "noise", None) for layer in again.layers] == ["sequence", "sequence", None]
    with pytest.raises(svd.SvdValueError, match="noise: got 'step'"):
        svd.VariationalGRU(4, 5, noise="step")
