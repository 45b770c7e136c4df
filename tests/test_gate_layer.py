"""Gates in networks: gradients on every backend, closed units, folding, training, resuming, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_runs import make_config, make_data, timeless

import svd_numpy as svd
from svd_numpy.kernels import available_backends
from svd_numpy.network.gates import FAMILIES
from svd_numpy.network.layers.base import Pass
from svd_numpy.train.loop import fit

Array = NDArray[Any]
NAMES = sorted(FAMILIES)
needs_numba = pytest.mark.skipif(bool(available_backends()["numba"]), reason="numba is not installed")
BACKENDS = ["numpy", pytest.param("numba", marks=needs_numba)]
DTYPE = {"numpy": "float64", "numba": "float32"}


def dense_net(family: str = "normal-jeffreys", backend: str = "numpy", dtype: str = "float32") -> svd.Sequential:
    """Gates on the inputs and on hidden units."""
    layers = (
        svd.Gate(6, family), svd.VariationalDense(6, 9, log_sigma2=-4), svd.ReLU(), svd.Gate(9, family),
        svd.Dense(9, 3),
    )  # fmt: skip
    return svd.Sequential(*layers, prior="normal", backend=backend, dtype=dtype, input_shape=(6,))


def conv_net(family: str = "normal-jeffreys", backend: str = "numpy", dtype: str = "float32") -> svd.Sequential:
    """Gates on images, on filters before and behind a pooling, and on flattened units."""
    layers = (
        svd.Gate(2, family), svd.VariationalConv2d(2, 4, 3, padding=1, log_sigma2=-4), svd.ReLU(),
        svd.Gate(4, family), svd.MaxPool2d(2), svd.Conv2d(4, 3, 2), svd.ReLU(), svd.Flatten(),
        svd.Gate(12, family), svd.Dense(12, 3),
    )  # fmt: skip
    return svd.Sequential(*layers, backend=backend, dtype=dtype, input_shape=(2, 6, 6))


def scatter(model: svd.Sequential, seed: int = 0) -> svd.Sequential:
    """Move a model away from its start, within the bounds of its gates."""
    rng = np.random.default_rng(seed)
    for segment in model.arena.segments:
        numbers = model.arena.params[segment.start : segment.stop]
        numbers[:] = np.clip(numbers + 0.3 * rng.standard_normal(numbers.shape), segment.low, segment.high)
    for name, array in model.parameters.items():
        if name.endswith("log_sigma2"):
            array[...] = rng.uniform(-6, -2, array.shape)
        if name.endswith((".log_var", ".log_std")):
            array[...] = rng.uniform(-4, 0, array.shape)
        if name.startswith("gate") and name.endswith(".mean"):
            array -= 0.5
    return model


def shut(model: svd.Sequential, layer: str, units: list[int]) -> None:
    """Let a gate of the family normal-jeffreys close some units, and no others."""
    model.parameters[f"{layer}.mean"][...] = np.linspace(0.5, 1.5, model.parameters[f"{layer}.mean"].size)
    model.parameters[f"{layer}.log_var"][...] = -4
    model.parameters[f"{layer}.mean"][units] = 0.01
    model.parameters[f"{layer}.log_var"][units] = 3


# --- Gradients ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", [dense_net, conv_net])
@pytest.mark.parametrize("family", NAMES)
def test_gradients(family: str, make: Any, backend: str) -> None:
    model = scatter(make(family, backend, DTYPE[backend]))
    x = np.random.default_rng(0).standard_normal((5, *model.in_shape))
    for kl_weight in (0.0, 1.0):
        check = svd.gradcheck(model, x, np.arange(5) % 3, n_train=50, kl_weight=kl_weight, samples=8, step=3)
        assert check.ok, f"\n{check}"


@pytest.mark.parametrize("family", NAMES)
def test_a_layer_alone(family: str) -> None:
    rng = np.random.default_rng(0)
    assert svd.gradcheck(svd.Gate(5, family), rng.standard_normal((7, 5))).ok
    assert svd.gradcheck(svd.Gate(3, family), rng.standard_normal((2, 3, 4, 2))).ok


def test_the_gradients_of_a_dense_layer_tell_what_its_inputs_would_be_pulled_by() -> None:
    rng = np.random.default_rng(0)
    model = svd.Sequential(svd.VariationalDense(6, 4, log_sigma2=-1), backend="numpy", dtype="float64")
    (layer,), run = model.layers, Pass(model.backend, step=3)
    x = rng.standard_normal((9, 6))
    layer.forward(x, run)
    dx = layer.backward(rng.standard_normal((9, 4)), run, want_dx=True)
    np.testing.assert_allclose(layer.input_pulls(run), (x * dx).sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("layer", [svd.Dense, svd.VariationalDense])
@pytest.mark.parametrize("family", NAMES)
def test_a_gate_on_the_inputs_needs_no_gradient_of_its_outputs(
    family: str, layer: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = "float64" if backend == "numpy" else "float32"
    gates = svd.Gate(20, family), svd.Gate(70, family)
    model = svd.Sequential(
        gates[0], layer(20, 70), svd.ReLU(), gates[1], svd.VariationalDense(70, 3, log_sigma2=-2), input_shape=(20,),
        backend=backend, dtype=dtype,
    )  # fmt: skip
    scatter(model)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 20)), np.arange(30) % 3
    told = model.loss_and_grads(x, y, 100)[1]
    monkeypatch.setattr(svd.Gate, "needs_no_dy", lambda *_: False)
    for name, expected in model.loss_and_grads(x, y, 100)[1].items():
        atol = np.abs(expected).max() * (1e-12 if backend == "numpy" else 1e-5)
        np.testing.assert_allclose(told[name], expected, rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_mask_while_training_is_the_same_for_factors_and_their_gradients(backend: str) -> None:
    gate, keep = svd.Gate(4, "normal-jeffreys"), float(np.exp(-3.0))
    model = svd.Sequential(gate, svd.Dense(4, 3), input_shape=(4,), backend=backend)
    model.parameters["gate1.mean"][...] = [1, 0.1, -1, 0.1]  # log alpha: 0 and 4.6
    model.parameters["gate1.log_var"][...] = 0
    x, run = np.ones((5, 4), model.dtype), Pass(model.backend, keep=keep, step=1)
    noise = run.backend.noise(run.noise_key(0)._replace(first_sample=0), 1, 4)[0]
    y = gate.forward(x, run)
    np.testing.assert_allclose(y, np.tile(np.array([1, 0, -1, 0]) + noise, (5, 1)), rtol=1e-6)
    model.forward(x, run)
    model.backward(np.ones((5, 3), model.dtype), run)
    model.backend.finish_gradients(model.arena, 0.0, keep)
    assert (model.arena.grad_views["gate1.mean"] != 0).tolist() == [True, False, True, False]
    assert model.arena.grad_views["gate1.log_var"].all()


@pytest.mark.parametrize("family", NAMES)
def test_noise_is_a_function_of_the_pass(family: str) -> None:
    model, x = dense_net(family), np.ones((6, 6), np.float32)
    scatter(model)
    gate = model.layers[0]

    def factors(**options: Any) -> Array:
        return gate.forward(x, Pass(model.backend, **{"step": 1, **options})).copy()

    first = factors()
    np.testing.assert_array_equal(factors(), first)
    assert not np.array_equal(factors(step=2), first) and not np.array_equal(factors(seed=1), first)
    np.testing.assert_array_equal(first, np.broadcast_to(first[0], first.shape))  # one draw for all examples
    np.testing.assert_array_equal(factors(first_sample=2), first)
    means = factors(mode="mean")
    np.testing.assert_allclose(means, np.broadcast_to(gate.factors(), (6, 6)), rtol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", NAMES)
def test_the_kl_of_a_model_is_that_of_weights_and_gates(family: str) -> None:
    model = scatter(dense_net(family))
    total = svd.kl_divergence(model.parameters["dense1.theta"], model.parameters["dense1.log_sigma2"], "normal").sum(
        dtype=float
    )
    for gate in (layer for layer in model.layers if isinstance(layer, svd.Gate)):
        numbers = {own: model.parameters[f"{gate.name}.{own}"].astype(float) for own in gate.family.knobs()}
        total += gate.family.kl(numbers)
    assert model.kl() == pytest.approx(total, rel=1e-5)


# --- Closed units ---


def test_closed_units_take_their_weights_with_them() -> None:
    model = dense_net()
    model.parameters["dense1.log_sigma2"][...] = -18  # no weight is pruned by itself
    shut(model, "gate1", [0, 4])
    shut(model, "gate2", [1, 2, 8])
    alive = model.alive()
    assert not alive["dense1"][[0, 4]].any() and not alive["dense1"][:, [1, 2, 8]].any()
    assert alive["dense1"][np.ix_([1, 2, 3, 5], [0, 3, 4, 5, 6, 7])].all()
    np.testing.assert_array_equal(alive["dense2"].any(axis=1), ~np.isin(np.arange(9), [1, 2, 8]))
    report = svd.measure_sparsity(model)
    assert report.kept == {"dense1": 24, "dense2": 18} and report.live == {"dense1": (6, 9), "dense2": (3, 3)}
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    np.testing.assert_array_equal(svd.sparsify(model, 3.0).predict(x), model.predict(x))
    moved = x.copy()
    moved[:, [0, 4]] += 7
    np.testing.assert_array_equal(model.predict(moved), model.predict(x))


def test_closed_channels_take_their_weights_with_them() -> None:
    model = conv_net()
    for gate, units in (("gate1", []), ("gate2", [3]), ("gate3", [0, 3, 6, 9, 1])):  # channel 0 of every pixel
        shut(model, gate, units)
    alive = model.alive()
    np.testing.assert_array_equal(alive["conv1"].any(axis=0), [True, True, True, False])
    np.testing.assert_array_equal(alive["conv2"].reshape(4, 4, 3).any(axis=(0, 2)), [True, True, True, False])
    np.testing.assert_array_equal(alive["conv2"].any(axis=0), [False, True, True])
    assert np.count_nonzero(~alive["dense1"].any(axis=1)) == 5


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("make", [dense_net, conv_net])
def test_folding_and_compressing_change_nothing(make: Any, family: str) -> None:
    model = scatter(make(family))
    if family == "normal-jeffreys":
        shut(model, "gate2", [0, 2])
        if make is conv_net:  # a factor below 0 cannot go through a maximum
            model.parameters["gate2.mean"][1] *= -1
    x = np.random.default_rng(0).standard_normal((20, *model.in_shape)).astype(np.float32)
    wanted, before = model.predict(x), {name: array.copy() for name, array in model.arrays().items()}
    folded = svd.fold_gates(model)
    assert not any(isinstance(layer, svd.Gate) for layer in folded.layers)
    np.testing.assert_allclose(folded.predict(x), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(svd.compress(model).predict(x), wanted, rtol=1e-4, atol=1e-5)
    assert {name: int(a.sum()) for name, a in folded.alive().items()} == {
        name: int(a.sum()) for name, a in model.alive().items()
    }
    assert all(np.array_equal(array, before[name]) for name, array in model.arrays().items())
    assert svd.fold_gates(folded).config() == folded.config()


@pytest.mark.parametrize("family", ["normal-jeffreys", "half-cauchy"])
def test_variances_of_folded_weights_can_include_the_noise_of_gates(family: str) -> None:
    model = scatter(svd.Sequential(svd.Gate(3, family), svd.VariationalDense(3, 2), input_shape=(3,), backend="numpy"))
    gate, p, draws = model.layers[0], model.parameters, 400_000
    assert isinstance(gate, svd.Gate)
    numbers = {own: p[f"gate1.{own}"].astype(np.float64) for own in gate.axes}
    rng = np.random.default_rng(0)
    z = gate.family.sample(numbers, rng.standard_normal((draws, 3 + gate.family.shared_noise)))[0]
    w = z[:, :, None] * (p["dense1.theta"] + np.exp(p["dense1.log_sigma2"] / 2) * rng.standard_normal((draws, 3, 2)))
    noisy, plain = svd.fold_gates(model, gate_noise=True), svd.fold_gates(model)
    still = ~gate.closed()
    assert still.any()
    np.testing.assert_allclose(np.exp(noisy.parameters["dense1.log_sigma2"])[still], w.var(axis=0)[still], rtol=0.05)
    assert (plain.parameters["dense1.log_sigma2"] < noisy.parameters["dense1.log_sigma2"])[still].all()
    np.testing.assert_array_equal(plain.parameters["dense1.theta"], noisy.parameters["dense1.theta"])


def test_a_gate_between_a_dense_layer_and_a_batch_normalisation_folds_backwards() -> None:
    for layers in (
        (svd.Dense(6, 5), svd.Gate(5), svd.BatchNorm(5), svd.ReLU(), svd.Dense(5, 3)),
        (svd.Dense(6, 5), svd.BatchNorm(5), svd.Gate(5), svd.ReLU(), svd.BatchNorm(5), svd.Dense(5, 3)),
    ):
        model = svd.Sequential(*layers, backend="numpy")
        rng = np.random.default_rng(0)
        for array in (*model.parameters.values(), *model.state.values()):
            array += rng.uniform(0.1, 0.5, array.shape)
        shut(model, "gate1", [1, 3])
        x = rng.standard_normal((8, 6)).astype(np.float32)
        np.testing.assert_allclose(svd.fold_gates(model).predict(x), model.predict(x), rtol=1e-4, atol=1e-5)
        small = svd.compress(model)
        np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-4, atol=1e-5)


def test_a_gate_that_nothing_can_take_becomes_a_scaling() -> None:
    model = svd.Sequential(svd.Gate(6), svd.BatchNorm(6), svd.Dense(6, 3), input_shape=(6,), backend="numpy")
    shut(model, "gate1", [2])
    x = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    folded = svd.fold_gates(model)
    assert [type(layer).__name__ for layer in folded.layers] == ["BatchNorm", "BatchNorm", "Dense"]
    np.testing.assert_allclose(folded.predict(x), model.predict(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(svd.compress(model).predict(x), model.predict(x), rtol=1e-5, atol=1e-6)


def test_exports_take_a_folded_network_or_name_the_remedy(tmp_path: Path) -> None:
    model = dense_net()
    shut(model, "gate2", [0, 2])
    with pytest.raises(svd.SvdValueError, match=r"\['gate1', 'gate2'\] are gates.*fold_gates"):
        svd.torch_state_dict(model)
    folded = svd.fold_gates(model)
    arrays = svd.torch_state_dict(folded)
    assert not arrays["0.weight"][[0, 2]].any() and arrays["2.weight"].shape == (3, 9)
    plain = svd.Sequential(svd.Dense(6, 9), svd.ReLU(), svd.Dense(9, 3), backend="numpy")
    model.init_from(plain)  # from a dense network to one with gates: the names of layers agree
    np.testing.assert_array_equal(model.parameters["dense1.theta"], plain.parameters["dense1.theta"])
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    small = svd.compress(model)
    small.save(tmp_path / "small.safetensors")
    np.testing.assert_allclose(svd.SparseModel.load(tmp_path / "small.safetensors").predict(x), small.predict(x))
    kept = {layer.name: layer.kept for layer in svd.sizes(model).layers}
    assert kept == svd.measure_sparsity(model).kept
    assert set(svd.posterior_bits(model)) == {"dense1.theta"}


# --- Training ---


def train_net(family: str, backend: str = "numpy") -> svd.Sequential:
    layers = svd.Gate(12, family), svd.VariationalDense(12, 8), svd.ReLU(), svd.Gate(8, family), svd.Dense(8, 3)
    return svd.Sequential(*layers, prior="normal", backend=backend, input_shape=(12,))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", NAMES)
def test_training_stays_within_the_bounds_and_fine_tuning_holds_gates(family: str, backend: str) -> None:
    model, seen = train_net(family, backend), list[dict[str, Array]]()

    def note(trainer: Any, record: dict[str, Any]) -> None:
        seen.append({name: array.copy() for name, array in trainer.model.parameters.items()})

    records = fit(model, make_data(), make_config(epochs=4, finetune_epochs=2, lr=0.05), [note], progress=False)
    assert [record["stage"] for record in records] == ["variational"] * 4 + ["finetune"] * 2
    for name in (name for name in model.parameters if name.startswith("gate")):
        assert not np.array_equal(seen[0][name], seen[3][name])
        np.testing.assert_array_equal(seen[3][name], seen[5][name])
    assert not np.array_equal(seen[3]["dense2.theta"], seen[5]["dense2.theta"])
    for layer in model.layers:
        if isinstance(layer, svd.Gate):
            for own, knob in layer.family.knobs().items():
                array = model.parameters[f"{layer.name}.{own}"]
                assert np.float32(knob.low) <= array.min() <= array.max() <= np.float32(knob.high)


@pytest.mark.parametrize(("lr", "kl_weight"), [(0.02, 10.0), (0.5, 1.0)])
@pytest.mark.parametrize("family", NAMES)
def test_fierce_training_stays_finite(family: str, lr: float, kl_weight: float) -> None:
    model = train_net(family)
    config = make_config(epochs=25, lr=lr, lr_schedule=((0, 1),), kl_schedule=((0, kl_weight),), finetune_epochs=0)
    history = fit(model, make_data(), config, progress=False)
    assert all(np.isfinite([record["nll"], record["kl"]]).all() for record in history)
    assert np.isfinite(model.predict(make_data().x_test)).all()


@pytest.mark.parametrize("family", NAMES)
def test_a_run_resumes_to_the_bit(family: str, tmp_path: Path) -> None:
    data, config = make_data(), make_config(epochs=3, finetune_epochs=1)
    whole = train_net(family)
    records = fit(whole, data, config, progress=False)

    def fail(_: Any, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit(train_net(family), data, config, [fail], tmp_path, progress=False)
    resumed = train_net(family)
    again = fit(resumed, data, config, run_dir=tmp_path, resume=True, progress=False)
    assert timeless(again) == timeless(records)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_behind_closed_gates_can_leave_while_training(backend: str) -> None:
    model = train_net("normal-jeffreys", backend)
    shut(model, "gate2", [1, 5])
    config = make_config(epochs=2, finetune_epochs=1, remove_above=8.0, lr=1e-4)
    records = fit(model, make_data(), config, progress=False)
    assert records[0]["living"] <= 12 * 6 + 6 * 3 and not model.parameters["dense2.theta"][[1, 5]].any()
    x = make_data().x_test
    np.testing.assert_allclose(svd.compress(model).predict(x), model.predict(x), rtol=1e-4, atol=1e-5)


def test_taking_units_takes_their_gates() -> None:
    model = dense_net()
    shut(model, "gate2", [0, 1])
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    small = model.take({"dense1": np.arange(2, 9)})
    assert small.parameters["gate2.mean"].shape == (7,) and small.parameters["gate1.mean"].shape == (6,)
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-5, atol=1e-6)


# --- Files and arguments ---


@pytest.mark.parametrize("family", NAMES)
def test_files_keep_a_gate(family: str, tmp_path: Path) -> None:
    options = {"hard-concrete": {"penalty": 0.3, "size": 7}, "half-cauchy": {"scale": 1e-3}}.get(family, {})
    score = list(FAMILIES[family].thresholds)[-1]
    gate = svd.Gate(6, family, score=score, threshold=0.25, lr_factor=3, **options)
    model = scatter(svd.Sequential(gate, svd.VariationalDense(6, 3), input_shape=(6,), backend="numpy"))
    model.save(tmp_path / "net.safetensors")
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    for other in (svd.Sequential.load(tmp_path / "net.safetensors", "numpy"), model.copy()):
        assert other.config() == model.config()
        np.testing.assert_array_equal(other.predict(x), model.predict(x))
        assert other.kl() == model.kl()


def test_parameters_out_of_bounds_are_refused() -> None:
    model = train_net("truncated-log-normal")
    with pytest.raises(svd.SvdValueError, match=r"gate1\.mean goes from .* to 1.*expected \[-20, 0\]"):
        model.init_from({"gate1.mean": np.ones(12)})


def test_bad_arguments_are_named() -> None:
    for wrong, words in (
        (lambda: svd.Gate(5, "magic"), "family: got 'magic'"),
        (lambda: svd.Gate(5, score="snr"), "score: got 'snr'"),
        (lambda: svd.Gate(5, penalty=1), r"\['penalty'\].*'normal-jeffreys' has the options \[\]"),
        (lambda: svd.Gate(5, "hard-concrete", penalty="much"), "penalty"),
        (lambda: svd.Gate(5, "hard-concrete", keep=2), "keep: got 2"),
        (lambda: svd.Sequential(svd.Gate(5), svd.Dense(6, 2), input_shape=(6,)), r"use Gate\(6\)"),
    ):
        with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
            wrong()
