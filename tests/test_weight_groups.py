"""Groups of recurrent weights: words, inputs, units and gates that share a random factor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.network.layers.base import Pass

ALL = ("inputs", "units", "gates")
STACKS: dict[str, Any] = {
    "lstm": lambda: [svd.VariationalLSTM(7, 9, tokens=True, groups=ALL), svd.VariationalDense(9, 7)],
    "gru": lambda: [svd.VariationalGRU(7, 9, tokens=True, groups=("gates", "units")), svd.VariationalDense(9, 7)],
    "words": lambda: [
        svd.VariationalEmbedding(7, 5, padding=0, groups=("words",)), svd.Gate(5),
        svd.VariationalLSTM(5, 9, groups=ALL, family="truncated-log-normal", every_step=False),
        svd.VariationalDense(9, 7),
    ],
    "other families": lambda: [
        svd.VariationalEmbedding(7, 5, groups=("words",), family="hard-concrete"),
        svd.VariationalGRU(5, 9, groups=ALL, family="half-cauchy"), svd.VariationalDense(9, 7),
    ],
}  # fmt: skip


def make(stack: str, backend: str = "numpy", close: float = 0.0) -> svd.Sequential:
    """A network away from its start, some of whose groups are closed."""
    dtype = "float64" if backend == "numpy" else "float32"
    model = svd.Sequential(*STACKS[stack](), backend=backend, dtype=dtype, input_shape=(11,), seed=5)
    rng = np.random.default_rng(1)
    for name, array in model.parameters.items():
        if name.endswith(("theta", "bias")):
            array += 0.3 * rng.standard_normal(array.shape)
        elif name.endswith("log_sigma2"):
            array[...] = rng.uniform(-6, 1, array.shape)
        else:
            array -= 0.1 * rng.random(array.shape)
        if name.endswith("log_var"):
            array[...] = np.where(rng.random(array.shape) < close, 5, -2)
        elif name.endswith("log_std"):
            array[...] = np.where(rng.random(array.shape) < close, 3, -2)
    return model


@pytest.mark.parametrize("stack", STACKS)
def test_gradients_run_through_the_factors(stack: str) -> None:
    model, rng = make(stack), np.random.default_rng(0)
    x, y = rng.integers(0, 7, (4, 11)), rng.integers(0, 7, (4, *model.out_shape[:-1]))
    check = svd.gradcheck(model, x, y, n_train=50, samples=6)
    assert check.ok, f"\n{check}"


def test_factors_act_as_the_equations_say() -> None:
    """x z_x W_x + h z_h W_h, the sum times z_g, plus the bias: against a loop that is written down step by step."""
    layer = svd.VariationalLSTM(3, 4, groups=ALL)
    model = svd.Sequential(layer, backend="numpy", dtype="float64", input_shape=(6, 3), seed=2)
    rng = np.random.default_rng(0)
    for own in ALL:
        model.parameters[f"lstm1.{own}_mean"][:] = rng.uniform(0.5, 1.5, model.parameters[f"lstm1.{own}_mean"].shape)
    z_x, z_h, z_g = (model.parameters[f"lstm1.{own}_mean"] for own in ALL)
    model.parameters["lstm1.log_sigma2"][:] = -20
    w_x, w_h = np.split(model.parameters["lstm1.theta"], [3])
    x, bias = rng.standard_normal((2, 6, 3)), model.parameters["lstm1.bias"]
    h, c, seen = np.zeros((2, 4)), np.zeros((2, 4)), []
    for t in range(6):
        a = z_g * ((x[:, t] * z_x) @ w_x + (h * z_h) @ w_h) + bias
        i, f, g, o = np.split(a, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-part)) for part in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        seen.append(h)
    np.testing.assert_allclose(model.predict(x), np.stack(seen, axis=1), rtol=1e-9)


def test_the_noise_of_factors_is_not_that_of_weights() -> None:
    layer = svd.VariationalEmbedding(40, 40, groups=("words",))
    model = svd.Sequential(layer, backend="numpy", dtype="float64", input_shape=(40,), seed=2)
    model.parameters["embedding1.theta"][:] = 0
    model.parameters["embedding1.words_log_var"][:] = 0
    model.parameters["embedding1.words_mean"][:] = 0
    model.parameters["embedding1.log_sigma2"][:] = 0
    run = Pass(model.backend, seed=2, step=3)
    w = layer.forward(np.arange(40)[None], run)[0]
    plain = get_backend("numpy", "float64").noise(NoiseKey(2, 0, 3, 0), 40, 40)
    z = w / plain
    np.testing.assert_allclose(z, z[:, :1] * np.ones(40), rtol=1e-9)  # one factor for a row
    assert 0.6 < z[:, 0].std() < 1.4 and not np.isclose(z[:, :1], plain).any()


@pytest.mark.parametrize("stack", ["lstm", "gru", "words"])
def test_closed_groups_are_pruned_folded_and_compressed_alike(stack: str, tmp_path: Path) -> None:
    model = make(stack, close=0.4)
    x = np.random.default_rng(3).integers(0, 7, (5, 11))
    wanted = model.predict(x)
    for name, layer in ((layer.name, layer) for layer in model.layers if getattr(layer, "weight_groups", None)):
        closed = {own: z.closed() for own, z in layer.weight_groups.items()}
        assert any(of.any() for of in closed.values()) and not all(of.all() for of in closed.values())
        if "gates" in closed:
            assert not model.alive()[name][:, closed["gates"]].any()
        if "units" in closed:
            assert not model.alive()[name][-layer.units :][closed["units"]].any()
    folded = svd.fold_gates(model)
    assert not any(getattr(layer, "weight_groups", None) for layer in folded.layers)
    np.testing.assert_allclose(folded.predict(x), wanted, rtol=1e-6, atol=1e-9)
    assert svd.measure_sparsity(folded).kept == svd.measure_sparsity(model).kept
    small = svd.compress(model, backend="numpy").predict(x)
    np.testing.assert_allclose(small if wanted.ndim == 3 else small[:, -1], wanted, rtol=1e-3, atol=1e-4)
    model.save(tmp_path / "model.safetensors")
    again = svd.Sequential.load(tmp_path / "model.safetensors")
    np.testing.assert_allclose(again.predict(x), wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(svd.SvdValueError, match="factors of groups"):
        svd.torch_state_dict(model)


def test_words_that_say_nothing_leave_as_a_whole() -> None:
    """Of twelve words, two decide; the others only stand about."""
    rng = np.random.default_rng(0)
    x = rng.integers(2, 12, (400, 6))
    y = rng.integers(0, 2, 400)
    x[np.arange(400), rng.integers(0, 6, 400)] = y
    data = svd.Dataset("own", x, y, x, y, None, 2, "here")
    layers = svd.VariationalEmbedding(12, 4, groups=("words",)), svd.LSTM(4, 6, every_step=False), svd.Dense(6, 2)
    model = svd.Sequential(*layers, backend="numpy", input_shape=(6,), seed=1)
    config = svd.TrainConfig(60, 50, 1e-2, kl_schedule=((10, 0.0), (30, 1.0)), remove_above=3.0, remove_from=30)
    history = svd.fit(model, data, config, progress=False)
    assert history[-1]["test_error"] < 0.05
    closed = layers[0].weight_groups["words"].closed()
    assert not closed[:2].any() and closed[2:].sum() >= 7
    assert not model.alive()["embedding1"][closed].any()


def test_groups_that_cannot_be_are_refused_in_words() -> None:
    with pytest.raises(svd.SvdValueError, match=r"groups: got \['words'\], expected some of \['inputs', 'units'"):
        svd.VariationalLSTM(4, 5, groups=("words",))
    with pytest.raises(svd.SvdValueError, match="family: got 'normal'"):
        svd.VariationalGRU(4, 5, groups=("units",), family="normal")
