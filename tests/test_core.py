"""The core: layers bound to one arena, masks, segments with rules of their own, what may go beside what."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import N_CLASSES, N_IN, bits, make_config, make_data, make_net, timeless

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.kernels.priors import PRIORS, Prior, RatioPrior, add_prior, kl_value
from svd_numpy.network.layers.base import LAYERS, Pass
from svd_numpy.network.params import ParamSpec
from svd_numpy.network.scoring import evaluate
from svd_numpy.network.sparsity import freeze
from svd_numpy.tabular.networks import estimate_noise
from svd_numpy.train.loop import fit

BACKENDS = ["numpy", "numba"]


# ---- a layer belongs to one model


def test_a_layer_of_a_model_is_refused_by_another() -> None:
    first, second = svd.VariationalDense(N_IN, 8), svd.VariationalDense(8, N_CLASSES)
    model = svd.Sequential(first, svd.ReLU(), second, backend="numpy")
    x = make_data().x_test
    before = model.predict(x)
    with pytest.raises(svd.SvdValueError, match=r"layer 'dense1' already belongs to a model"):
        svd.Sequential(first, svd.VariationalDense(8, 5), backend="numpy")
    np.testing.assert_array_equal(model.predict(x), before)


def test_a_layer_of_a_failed_model_can_be_used_as_if_it_were_new() -> None:
    first, relu, wrong = svd.VariationalDense(N_IN, 8), svd.ReLU(), svd.VariationalDense(7, N_CLASSES)
    with pytest.raises(svd.SvdValueError, match="expected"):
        svd.Sequential(first, relu, wrong, backend="numpy")
    assert first.name == "" and not first.relu and not relu.sampled
    model = svd.Sequential(first, svd.VariationalDense(8, N_CLASSES), backend="numpy", seed=1)
    hidden = first.forward(model.prepare(make_data().x_test), Pass(model.backend, seed=1))
    assert (hidden < 0).any(), "rectified although no ReLU follows"


# ---- one owner at a time


@pytest.mark.parametrize("call", ["predict", "kl", "init_from", "load_arrays", "copy"])
def test_what_would_disturb_a_step_waits_for_its_end(call: str) -> None:
    model, x = make_net(), make_data().x_test
    arguments: dict[str, tuple[Any, ...]] = {
        "predict": (x,), "init_from": (make_net(seed=1),), "load_arrays": (model.arrays(),)
    }  # fmt: skip
    done = threading.Event()

    def disturb() -> None:
        getattr(model, call)(*arguments.get(call, ()))
        done.set()

    other = threading.Thread(target=disturb)
    with model.exclusive:  # as `Trainer.step` holds it
        other.start()
        assert not done.wait(0.2)
    other.join(10)
    assert done.is_set()


def test_predicting_while_another_thread_trains_changes_no_bit() -> None:
    data, config = make_data(), make_config(epochs=8)
    alone, watched = make_net(), make_net()
    fit(alone, data, config, progress=False)
    ready = threading.Event()

    def watch() -> None:
        while not ready.is_set():
            watched.predict(data.x_test)
            watched.kl()

    other = threading.Thread(target=watch)
    other.start()
    try:
        fit(watched, data, config, progress=False)
    finally:
        ready.set()
        other.join(10)
    assert bits(watched) == bits(alone)


# ---- resuming knows its data and its noise


def test_a_run_does_not_go_on_with_other_rows(tmp_path: Path) -> None:
    config = make_config()
    fit(make_net(), make_data(), config, run_dir=tmp_path, progress=False)
    with pytest.raises(svd.SvdValueError, match=r"another data \(differs in \['sha256'\]"):
        fit(make_net(), make_data(seed=1), config, run_dir=tmp_path, resume=True, progress=False)


def regression() -> tuple[svd.Sequential, Dataset]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.0, 0.5] + 0.3 * rng.standard_normal(60)).astype(np.float32)
    data = Dataset("own", x[:40], y[:40], x[40:], y[40:], None, 0, "made here")
    return svd.Sequential(svd.VariationalDense(4, 1), likelihood="gaussian", backend="numpy"), data


def test_a_run_that_estimates_its_noise_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = svd.TrainConfig(epochs=6, batch_size=10, lr=0.05)
    whole, data = regression()
    records = fit(whole, data, config, callbacks=[estimate_noise], progress=False)

    def stop(trainer: svd.Trainer, record: dict[str, Any]) -> None:
        estimate_noise(trainer, record)
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    first, _ = regression()
    with pytest.raises(KeyboardInterrupt):
        fit(first, data, config, callbacks=[estimate_noise, stop], run_dir=tmp_path, progress=False)
    second, _ = regression()
    resumed = fit(second, data, config, callbacks=[estimate_noise], run_dir=tmp_path, resume=True, progress=False)
    assert timeless(resumed) == timeless(records)
    assert bits(second) == bits(whole)
    assert second.likelihood == whole.likelihood != svd.Gaussian(1.0)


@pytest.mark.parametrize("n_valid", [0, 20])
def test_data_without_test_rows_are_trained_on(n_valid: int) -> None:
    whole = make_data()
    data = replace(whole, x_test=whole.x_test[:0], y_test=whole.y_test[:0])
    data = data.split(n_valid) if n_valid else data
    model = make_net()
    last = fit(model, data, make_config(), progress=False)[-1]
    assert last["test_error"] is last["test_nll"] is None
    if data.x_valid is not None:
        assert last["valid_error"] == svd.evaluate(model, data.x_valid, data.y_valid)["error"]


# ---- masks


@pytest.mark.parametrize("backend", BACKENDS)
def test_fine_tuning_holds_the_zeros_of_plain_layers_too(backend: str) -> None:
    model = svd.Sequential(svd.Dense(N_IN, 8), svd.ReLU(), svd.VariationalDense(8, N_CLASSES), backend=backend)
    theta = model.parameters["dense1.theta"]
    theta[:, ::2] = 0
    fit(model, make_data(), make_config(epochs=0, finetune_epochs=3), progress=False)
    assert not theta[:, ::2].any() and theta[:, 1::2].all()
    sparsity = svd.measure_sparsity(model)
    assert sparsity.kept["dense1"] == 4 * N_IN and sparsity.live["dense1"] == (4, 8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pass_leaves_out_what_its_masks_leave_out(backend: str) -> None:
    model, x = make_net(backend), make_data().x_test
    mask = np.random.default_rng(0).integers(0, 2, (N_IN, 8), np.uint8)
    masked = model.forward(model.prepare(x), Pass(model.backend, "mean", masks={"dense1": mask})).copy()
    kept = model.parameters["dense1.theta"].copy()
    model.parameters["dense1.theta"][mask == 0] = 0
    np.testing.assert_allclose(masked, model.forward(model.prepare(x), Pass(model.backend, "mean")), rtol=1e-6)
    model.parameters["dense1.theta"][:] = kept


def test_pruning_has_one_rule_at_the_threshold() -> None:
    model = make_net()
    theta, log_sigma2 = model.parameters["dense1.theta"], model.parameters["dense1.log_sigma2"]
    theta[:], log_sigma2[:] = 1, 3  # log_alpha is 3 exactly
    log_sigma2[:, 4:] = np.nextafter(np.float32(3), np.float32(4))
    alive = np.arange(8) < 4
    x = make_data().x_test
    assert svd.measure_sparsity(model).kept["dense1"] == 4 * N_IN
    np.testing.assert_array_equal(model.alive()["dense1"].all(axis=0), alive)
    sparse = svd.sparsify(model)
    np.testing.assert_array_equal(sparse.parameters["dense1.theta"].any(axis=0), alive)
    np.testing.assert_array_equal(sparse.predict(x), model.predict(x))
    np.testing.assert_allclose(svd.compress(model).predict(x), model.predict(x), rtol=1e-5, atol=1e-5)
    frozen = model.copy()
    freeze(frozen, 3.0)
    np.testing.assert_array_equal(frozen.parameters["dense1.theta"].any(axis=0), alive)


# ---- priors, layers and inputs of one's own


@pytest.fixture
def lenient() -> Any:
    """ARD with four times the noise for nothing: K = ln(1 + rho^2 / 4) / 2."""
    prior = RatioPrior(
        "lenient", "made here", lambda rho: 0.5 * np.log1p(rho * rho / 4), lambda rho: 1 / (4 + rho * rho)
    )
    add_prior(prior)
    yield prior
    del PRIORS["lenient"]


def test_a_prior_without_a_branch_in_the_kernels_is_not_taken_for_another(lenient: Prior) -> None:
    runs = {}
    for backend in BACKENDS:
        model = make_net(backend, prior="lenient")
        records = fit(model, make_data(), make_config(finetune_epochs=0), progress=False)
        runs[backend] = model.parameters, records[-1]["kl"]
    for name, array in runs["numpy"][0].items():
        np.testing.assert_allclose(runs["numba"][0][name], array, rtol=2e-3, atol=2e-4)
    p = runs["numpy"][0]
    layers = ("dense1", "dense2")
    by_hand = sum(kl_value(p[f"{n}.theta"], p[f"{n}.log_sigma2"], "lenient").sum(dtype=np.float64) for n in layers)
    assert runs["numba"][1] == pytest.approx(by_hand, rel=1e-3)
    assert by_hand != pytest.approx(
        sum(kl_value(p[f"{n}.theta"], p[f"{n}.log_sigma2"], "ard").sum(dtype=np.float64) for n in layers), rel=0.01
    )
    svd.gradcheck(make_net(prior="lenient", dtype="float64"), make_data().x_test[:5], make_data().y_test[:5])


def test_built_in_priors_cannot_be_replaced() -> None:
    with pytest.raises(svd.SvdValueError, match="'ard' is taken"):
        add_prior(PRIORS["ard"])


class Gain(svd.Layer):
    """y = x * gain, with a normal prior around 1 on every gain (its maximum a posteriori is sought)."""

    kind = "gain"
    axes = {"gain": ("in",)}  # noqa: RUF012

    def __init__(self, num_features: int, slow: float = 1.0, name: str | None = None) -> None:
        super().__init__(name)
        self.num_features, self.slow = num_features, slow

    def config(self) -> dict[str, Any]:
        return {**super().config(), "num_features": self.num_features, "slow": self.slow}

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        return {**self.config(), "num_features": n_in}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        start = np.linspace(0.5, 1.5, self.num_features)
        return in_shape, [
            ParamSpec(f"{self.name}.gain", (self.num_features,), start, low=0.25, high=2.0, lr_factor=self.slow)
        ]

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        self.gain, self.d_gain = views[f"{self.name}.gain"], grads[f"{self.name}.gain"]

    def forward(self, x: Array, run: Pass) -> Array:
        self.x = x
        return x * self.gain

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array:
        self.d_gain[:] = (dy * self.x).sum(axis=0)
        return dy * self.gain

    def kl(self, backend: Backend) -> float:
        return 0.5 * float(((self.gain - 1) ** 2).sum())

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        self.d_gain += kl_scale * (self.gain - 1)


def gained(backend: str = "numpy", slow: float = 1.0, **options: Any) -> svd.Sequential:
    layers = svd.VariationalDense(N_IN, 8), Gain(8, slow), svd.ReLU(), svd.VariationalDense(8, N_CLASSES)
    return svd.Sequential(*layers, backend=backend, **options)


def test_a_layer_brings_its_own_kl() -> None:
    model, plain = gained(dtype="float64"), make_net(dtype="float64")
    for name, array in plain.parameters.items():
        array[...] = model.parameters[name]
    x, y = make_data().x_test[:6], make_data().y_test[:6]
    assert model.kl() - plain.kl() == pytest.approx(0.5 * ((np.linspace(0.5, 1.5, 8) - 1) ** 2).sum())
    svd.gradcheck(model, x, y, n_train=6)
    _, grads = model.loss_and_grads(x, y, n_train=3, kl_weight=1.0)
    _, without = model.loss_and_grads(x, y, n_train=3, kl_weight=0.0)
    np.testing.assert_allclose(grads["gain1.gain"] - without["gain1.gain"], (np.linspace(0.5, 1.5, 8) - 1) / 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layer_of_ones_own_is_trained_copied_saved_and_pruned(backend: str, tmp_path: Path) -> None:
    model, x = gained(backend), make_data().x_test
    fit(model, make_data(), make_config(lr=0.3, finetune_epochs=0), progress=False)
    gain = model.parameters["gain1.gain"]
    assert gain.min() >= 0.25 and gain.max() <= 2.0 and (gain == 0.25).any() | (gain == 2.0).any()
    model.save(tmp_path / "model.safetensors")
    for again in (model.copy(), svd.Sequential.load(tmp_path / "model.safetensors", backend), copy.deepcopy(model)):
        np.testing.assert_array_equal(again.predict(x), model.predict(x))
    np.testing.assert_array_equal(svd.sparsify(model).predict(x), model.predict(x))


def test_a_learning_rate_factor_slows_one_array_down() -> None:
    model = gained(slow=0.0)
    before = model.parameters["gain1.gain"].copy()
    fit(model, make_data(), make_config(finetune_epochs=0), progress=False)
    np.testing.assert_array_equal(model.parameters["gain1.gain"], before)


def test_a_built_in_layers_name_is_not_for_others() -> None:
    with pytest.raises(svd.SvdValueError, match=r"layer class Dense: svd_numpy\S* uses this name"):
        type("Dense", (svd.Layer,), {})
    assert LAYERS["Dense"] is svd.Dense


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dense_layer_takes_sequences_step_by_step(backend: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 5, 4)).astype(np.float32), rng.integers(0, 3, (9, 5))
    layers = svd.VariationalDense(4, 6), svd.ReLU(), svd.VariationalDense(6, 3)
    model = svd.Sequential(*layers, backend=backend, input_shape=(5, 4))
    outputs = model.predict(x)
    assert outputs.shape == (9, 5, 3)
    flat = svd.Sequential(svd.VariationalDense(4, 6), svd.ReLU(), svd.VariationalDense(6, 3), backend=backend)
    np.testing.assert_allclose(outputs, flat.predict(x.reshape(45, 4)).reshape(9, 5, 3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.sample(x, 2)[:, 3:], flat.sample(x.reshape(45, 4), 2).reshape(2, 9, 5, 3)[:, 3:],
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    score, flat_score = evaluate(model, x, y), evaluate(flat, x.reshape(45, 4), y.reshape(45))
    assert score == pytest.approx(flat_score, rel=1e-5)
    loss, grads = model.loss_and_grads(x, y, 9)
    flat_loss, flat_grads = flat.loss_and_grads(x.reshape(45, 4), y.reshape(45), 9)
    assert loss == pytest.approx(flat_loss, rel=1e-5)
    np.testing.assert_allclose(grads["dense1.theta"], flat_grads["dense1.theta"], rtol=1e-3, atol=1e-5)
    assert svd.gradcheck(model.copy("numpy", "float64"), x[:3], y[:3]).ok
    with pytest.raises(svd.SvdValueError, match=r"y: got shape \(9,\), expected \(9, 5\)"):
        model.loss(x, y[:, 0], 9)


class OneHot(svd.Layer):
    """Tokens (B, T) -> rows (B, T, count) of zeros and a one."""

    kind = "one_hot"

    def __init__(self, count: int, name: str | None = None) -> None:
        super().__init__(name)
        self.takes_tokens = count

    def config(self) -> dict[str, Any]:
        return {**super().config(), "count": self.takes_tokens}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        assert self.takes_tokens is not None
        return (*in_shape, self.takes_tokens), []

    def forward(self, x: Array, run: Pass) -> Array:
        assert self.takes_tokens is not None and x.dtype == np.int64
        return np.eye(self.takes_tokens, dtype=run.backend.dtype)[x]

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> None:
        return None


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_come_in_and_outputs_per_step_go_out(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (200, 6))
    y = (x + 1) % 4  # the token that follows in the alphabet
    data = Dataset("own", x[:150], y[:150], x[150:], y[150:], None, 4, "made here")
    model = svd.Sequential(OneHot(4), svd.VariationalDense(4, 4), backend=backend, input_shape=(6,))
    records = fit(
        model, data, svd.TrainConfig(epochs=30, batch_size=25, lr=0.05, kl_schedule=((0, 0.0),)), progress=False
    )
    assert records[-1]["test_error"] == 0 and records[-1]["train_error"] < 0.2
    assert model.predict(x[:3].astype(np.int32)).shape == (3, 6, 4)
    for wrong, words in (
        (x + 1, "got tokens 1..4"),
        (x[:, :5], "got shape"),
        (x / 2, "whole numbers"),
    ):
        with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
            model.predict(wrong)
    np.testing.assert_array_equal(model.copy().predict(x), model.predict(x))
    assert svd.gradcheck(model.copy("numpy", "float64"), x[:3], y[:3]).ok
