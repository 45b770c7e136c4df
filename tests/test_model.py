"""Sequential: prediction, samples, losses, copies, files, and what they share."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_runs import N_CLASSES, N_IN, N_TRAIN, bits, make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy.files.safe_arrays import CheckpointError
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.sparsity import freeze, log_alpha, measure_sparsity, sparsify

Array = NDArray[Any]
BACKENDS = ["numpy", "numba"]


def trained(backend: str = "numpy", **options: Any) -> svd.Sequential:
    """A network with some weights pruned: every third column of the first layer is noise."""
    model = make_net(backend, **options)
    model.parameters["dense1.log_sigma2"][:, ::3] = 2.0
    model.parameters["dense1.bias"][:] = np.linspace(-1, 1, 8)
    return model


def by_hand(model: svd.Sequential, x: Array, threshold: float = 3.0) -> Array:
    """The pruned network in float64, written out."""
    p = {name: array.astype(np.float64) for name, array in model.parameters.items()}
    for name in ("dense1", "dense2"):
        alive = p[f"{name}.log_sigma2"] - np.log(p[f"{name}.theta"] ** 2) <= threshold
        p[f"{name}.theta"] = np.where(alive, p[f"{name}.theta"], 0)
    hidden = np.maximum(x @ p["dense1.theta"] + p["dense1.bias"], 0)
    return np.asarray(hidden @ p["dense2.theta"] + p["dense2.bias"])


# ---- prediction and samples


@pytest.mark.parametrize("backend", BACKENDS)
def test_predict_is_the_pruned_network_of_posterior_means(backend: str) -> None:
    model, x = trained(backend), make_data().x_train
    assert 0 < measure_sparsity(model).overall < 1
    outputs = model.predict(x)
    assert outputs.shape == (N_TRAIN, N_CLASSES) and outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, by_hand(model, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.predict(x), outputs)
    np.testing.assert_allclose(model.predict(x[3:4]), outputs[3:4], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(model.predict(x.astype(np.float64)), outputs)
    np.testing.assert_array_equal(model.predict(np.asfortranarray(x)), outputs)
    np.testing.assert_array_equal(model.predict(np.repeat(x, 2, axis=0)[::2]), outputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_rows_than_one_pass_takes(backend: str) -> None:
    model = trained(backend)
    x = np.random.default_rng(1).normal(size=(2500, N_IN)).astype(np.float32)
    np.testing.assert_allclose(model.predict(x), by_hand(model, x), rtol=1e-3, atol=1e-4)
    together = model.sample(x, 1)[0]
    np.testing.assert_allclose(model.sample(x[:1100], 1)[0], together[:1100], rtol=1e-4, atol=1e-4)
    assert not np.array_equal(
        together[:1000] - model.predict(x[:1000]), together[1000:2000] - model.predict(x[1000:2000])
    )


def test_probabilities() -> None:
    model, x = trained(), make_data().x_train
    shares = model.predict_proba(x)
    logits = by_hand(model, x)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-6)
    model.parameters["dense2.bias"][0] = 1e6
    np.testing.assert_array_equal(model.predict_proba(x), np.eye(3)[np.zeros(N_TRAIN, int)])
    regression = svd.Sequential(svd.Dense(3, 1), backend="numpy", likelihood="gaussian")
    ones = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(regression.predict_proba(ones), regression.predict(ones))


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_are_draws_from_the_posterior_by_local_reparametrisation(backend: str) -> None:
    """Mean and variance of one layer's outputs against their closed forms, over 4,000 draws."""
    rng = np.random.default_rng(2)
    model = svd.Sequential(svd.VariationalDense(6, 5), backend=backend)
    theta, log_sigma2 = model.parameters["dense1.theta"], model.parameters["dense1.log_sigma2"]
    log_sigma2[:] = rng.uniform(-4, 1, log_sigma2.shape)
    model.parameters["dense1.bias"][:] = 100  # a bias moves the mean and never the variance
    x = rng.normal(size=(1, 6)).astype(np.float32)
    draws = np.concatenate([model.sample(x, 500), model.sample(np.repeat(x, 3500, 0), 1).reshape(3500, 1, 5)])[:, 0]
    mean, variance = (x @ theta + 100)[0], (x**2 @ np.exp(log_sigma2))[0]
    n = len(draws)
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * np.sqrt(variance / n)).all()
    assert (np.abs(draws.var(axis=0) / variance - 1) < 5 * math.sqrt(2 / n)).all()
    correlation = np.corrcoef(draws.T)[~np.eye(5, dtype=bool)]
    assert np.abs(correlation).max() < 5 / math.sqrt(n)


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_repeat_and_depend_on_the_seed(backend: str) -> None:
    x = make_data().x_train
    model = trained(backend)
    first = model.sample(x, 3)
    assert first.shape == (3, N_TRAIN, N_CLASSES)
    np.testing.assert_array_equal(model.sample(x, 3), first)
    np.testing.assert_array_equal(model.sample(x, 2), first[:2])
    assert not np.array_equal(first[0], first[1])
    other = trained(backend, seed=1)
    other.load_arrays(model.arrays())
    assert not np.array_equal(other.sample(x, 1), first[:1])


def test_without_noise_every_sample_is_the_mean() -> None:
    model, x = make_net(), make_data().x_train
    for name in ("dense1", "dense2"):
        model.parameters[f"{name}.log_sigma2"][:] = -20
    np.testing.assert_allclose(model.sample(x, 2), np.stack([model.predict(x)] * 2), rtol=1e-2, atol=1e-2)


def test_pixels_are_scaled_and_the_mean_is_subtracted() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (20, N_IN), dtype=np.uint8)
    mean = rng.random(N_IN)
    plain, centred = make_net(), make_net(input_mean=mean)
    np.testing.assert_allclose(plain.predict(pixels), plain.predict(pixels / 255), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(centred.predict(pixels), plain.predict(pixels / 255 - mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_change_no_input(backend: str) -> None:
    model, data = trained(backend), make_data()
    x, y = data.x_train.copy(), data.y_train.copy()
    before = bits(model)
    model.predict(x)
    model.sample(x, 2)
    model.loss_and_grads(x, y, 110)
    svd.evaluate(model, x, y)
    assert x.tobytes() == data.x_train.tobytes() and y.tobytes() == data.y_train.tobytes()
    assert bits(model) == before


# ---- loss


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prior", ["log_uniform", "log_uniform_exact", "ard"])
def test_the_loss_is_mean_nll_plus_a_share_of_the_kl(backend: str, prior: str) -> None:
    model, data = trained(backend, prior=prior), make_data()
    x, y = data.x_train[:30], data.y_train[:30]
    kl = sum(
        svd.kl_divergence(layer.theta.astype(np.float64), layer.log_sigma2.astype(np.float64), prior).sum()
        for layer in model.variational_layers
    )
    assert model.kl() == pytest.approx(kl, rel=1e-4)
    nll = model.loss(x, y, 500, kl_weight=0.0)
    assert model.loss(x, y, 500, kl_weight=0.7) == pytest.approx(nll + 0.7 * kl / 500, rel=1e-5)
    assert model.loss(x, y, 1000, kl_weight=0.7) == pytest.approx(nll + 0.7 * kl / 1000, rel=1e-5)
    assert model.loss(x, y, 500, 0.7) == model.loss_and_grads(x, y, 500, 0.7)[0]
    outputs = model.forward(model.prepare(x), Pass(model.backend, "sample", 0.0, model.seed, 0)).astype(np.float64)
    by_hand_nll = (np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(30), y]).mean()
    assert nll == pytest.approx(by_hand_nll, rel=1e-4)


def test_a_step_names_its_noise() -> None:
    model, data = trained(), make_data()
    losses = [model.loss(data.x_train, data.y_train, 110, step=step) for step in (0, 1, 0, 2**32 - 1)]
    assert losses[0] == losses[2] and len(set(losses)) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_have_the_names_and_shapes_of_the_parameters(backend: str) -> None:
    model, data = trained(backend), make_data()
    _, grads = model.loss_and_grads(data.x_train, data.y_train, 110)
    assert {n: a.shape for n, a in grads.items()} == {n: a.shape for n, a in model.parameters.items()}
    for gradient in grads.values():
        gradient[...] = np.nan  # copies: what is done to them stays outside
    again = model.loss_and_grads(data.x_train, data.y_train, 110)[1]
    assert all(np.isfinite(gradient).all() and gradient.any() for gradient in again.values())


def test_parameters_are_views_that_are_used_at_once() -> None:
    model, x = make_net(), make_data().x_train
    model.parameters["dense2.theta"][...] = 0
    model.parameters["dense2.bias"][...] = [1, 2, 3]
    np.testing.assert_array_equal(model.predict(x), np.tile([1, 2, 3], (N_TRAIN, 1)))


# ---- names, seeds, threads


def test_layers_are_named_by_kind_and_place() -> None:
    layers = (
        svd.Dense(3, 4),
        svd.ReLU(),
        svd.VariationalDense(4, 4, name="middle"),
        svd.Dense(4, 2, bias=False),
    )
    model = svd.Sequential(*layers, backend="numpy")
    assert list(model.parameters) == [
        "dense1.theta", "dense1.bias", "middle.theta", "middle.log_sigma2", "middle.bias", "dense3.theta",
    ]  # fmt: skip
    assert [layer.name for layer in model.variational_layers] == ["middle"]
    assert "middle" in model.summary() and "36 weights" in model.summary()


def test_first_weights_depend_on_the_seed_and_not_on_the_backend() -> None:
    assert bits(make_net(seed=5)) == bits(make_net("numba", seed=5)) != bits(make_net(seed=6))
    theta = svd.Sequential(svd.VariationalDense(200, 300), backend="numpy").parameters["dense1.theta"]
    assert theta.std() == pytest.approx(math.sqrt(2 / 200), rel=0.02) and abs(theta.mean()) < 2e-3
    narrow = svd.Sequential(svd.VariationalDense(200, 300, theta_std=0.01, log_sigma2=-8), backend="numpy")
    assert narrow.parameters["dense1.theta"].std() == pytest.approx(0.01, rel=0.02)
    assert (narrow.parameters["dense1.log_sigma2"] == -8).all() and not narrow.parameters["dense1.bias"].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_python_threads_may_share_a_model(backend: str) -> None:
    model, data = trained(backend), make_data()
    expected = model.predict(data.x_train), model.loss(data.x_train, data.y_train, 110)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(20):
            if not np.array_equal(model.predict(data.x_train), expected[0]):
                wrong.append("predict")
            if model.loss(data.x_train, data.y_train, 110) != expected[1]:
                wrong.append("loss")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- sparsity


def test_counting_against_the_definition() -> None:
    model = trained()
    model.parameters["dense1.theta"][0, 1] = 0  # an exact zero is always pruned
    for threshold in (3.0, -2.0, 0.0, 10.0):
        kept = {}
        for name in ("dense1", "dense2"):
            theta, log_sigma2 = (model.parameters[f"{name}.{part}"].astype(float) for part in ("theta", "log_sigma2"))
            with np.errstate(divide="ignore"):
                kept[name] = int((log_sigma2 - np.log(theta**2) <= threshold).sum())
        found = measure_sparsity(model, threshold)
        assert found.kept == kept and found.total == {"dense1": 96, "dense2": 24} and found.threshold == threshold
        assert found.compression == pytest.approx(120 / max(1, sum(kept.values())))
        assert found.overall == pytest.approx(1 - sum(kept.values()) / 120)
        assert found.by_layer["dense1"] == pytest.approx(1 - kept["dense1"] / 96)
    assert measure_sparsity(model) == measure_sparsity(model, 3.0)
    assert set(log_alpha(model)) == {"dense1", "dense2"}
    assert all(np.isfinite(values).all() for values in log_alpha(model).values())


def test_sparsify_gives_a_copy_that_predicts_the_same() -> None:
    model, x = trained(), make_data().x_train
    before = bits(model)
    sparse = sparsify(model)
    assert bits(model) == before
    assert np.count_nonzero(sparse.parameters["dense1.theta"]) == measure_sparsity(model).kept["dense1"] < 96
    np.testing.assert_array_equal(sparse.predict(x), model.predict(x))
    assert measure_sparsity(sparse).kept == measure_sparsity(model).kept
    strict = sparsify(model, -60)
    assert not strict.parameters["dense1.theta"].any() and strict.threshold == -60 and model.threshold == 3
    np.testing.assert_allclose(strict.predict(x)[0], strict.predict(x)[1])
    assert measure_sparsity(strict).compression == 120  # an empty network counts as one weight
    everything = sparsify(model, 60)
    assert everything.parameters["dense1.theta"].tobytes() == model.parameters["dense1.theta"].tobytes()


def test_freezing_prunes_for_good() -> None:
    model, x = trained(), make_data().x_train
    outputs, kept = model.predict(x), measure_sparsity(model).kept
    freeze(model, 3.0)
    np.testing.assert_array_equal(model.predict(x), outputs)
    assert {name: int(np.count_nonzero(model.parameters[f"{name}.theta"])) for name in kept} == kept
    theta, log_sigma2 = model.parameters["dense1.theta"], model.parameters["dense1.log_sigma2"]
    assert (log_sigma2[theta != 0] == -20).all()


# ---- init_from, copies, files


def test_init_from_takes_what_fits() -> None:
    model = make_net()
    before = {name: array.copy() for name, array in model.parameters.items()}
    new = np.arange(24.0).reshape(8, 3)
    assert model.init_from({"dense2.theta": new, "head.bias": np.zeros(7)}) is model
    np.testing.assert_array_equal(model.parameters["dense2.theta"], new)
    for name in set(before) - {"dense2.theta"}:
        np.testing.assert_array_equal(model.parameters[name], before[name])
    source = trained(seed=8)
    assert bits(make_net().init_from(source)) == bits(source)
    source.parameters["dense1.bias"][:] = 9
    assert not (model.parameters["dense1.bias"] == 9).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_give_the_network_back(tmp_path: Path, backend: str) -> None:
    x = make_data().x_train
    model = trained(backend, prior="ard", seed=7, threshold=2.0, input_mean=np.linspace(0, 1, N_IN))
    model.save(tmp_path / "a.safetensors")
    loaded = svd.Sequential.load(tmp_path / "a.safetensors", backend)
    assert loaded.config() == model.config() and bits(loaded) == bits(model)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    np.testing.assert_array_equal(loaded.sample(x, 2), model.sample(x, 2))
    loaded.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        svd.Sequential.load(tmp_path / "a.safetensors", backend)


def test_regression_and_float64_survive_a_file(tmp_path: Path) -> None:
    model = svd.Sequential(svd.VariationalDense(3, 1), backend="numpy", dtype="float64", likelihood=svd.Gaussian(0.25))
    model.save(tmp_path / "a.safetensors")
    loaded = svd.Sequential.load(tmp_path / "a.safetensors")
    assert loaded.likelihood == svd.Gaussian(0.25) and loaded.dtype == np.float64 and bits(loaded) == bits(model)
    with pytest.raises(ValueError, match="computes in float32"):
        svd.Sequential.load(tmp_path / "a.safetensors", backend="numba")


def test_copies_are_independent_and_may_change_backend() -> None:
    model, x = trained("numba", input_mean=np.full(N_IN, 0.5)), make_data().x_train
    same, other = model.copy(), model.copy("numpy", "float64")
    assert (same.backend.name, other.backend.name, other.dtype) == ("numba", "numpy", np.float64)
    np.testing.assert_array_equal(same.predict(x), model.predict(x))
    np.testing.assert_allclose(other.predict(x), model.predict(x), rtol=1e-3, atol=1e-4)
    svd.fit(same, make_data(), make_config(epochs=1), progress=False)
    assert bits(same) != bits(model) and bits(model) == bits(trained("numba", input_mean=np.full(N_IN, 0.5)))


def test_loading_arrays_checks_all_before_it_copies_any() -> None:
    model = make_net()
    before, arrays = bits(model), {name: array + 1 for name, array in model.arrays().items()}
    for bad, words in (
        ({n: a for n, a in arrays.items() if n != "dense2.bias"}, "expected .*dense2.bias"),
        ({**arrays, "more": np.zeros(2)}, "got arrays .*more"),
        ({**arrays, "input_mean": np.zeros(3)}, r"input_mean has shape \(3,\), expected \(12,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            model.load_arrays(bad)
        assert bits(model) == before
