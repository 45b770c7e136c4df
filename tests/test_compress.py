"""Compaction and the runtime of compact networks: the same outputs as the pruned network, with nothing superfluous."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import get_num_threads
from sparse_tools import NETWORKS, distance, inputs_of, kill, lenet_5, lenet_300_100, vgg_like

import svd_numpy as svd
from svd_numpy import kernels
from svd_numpy.network.layers import Layer
from svd_numpy.sparse import ConvOp, DenseOp, ScaleOp, SparseModel, TakeOp
from svd_numpy.sparse import model as sparse_model
from svd_numpy.sparse import runtime as sparse_runtime

BATCHES = (1, 2, 3, 15, 16, 17, 64, 100)


@pytest.mark.parametrize("density", [1.0, 0.3, 0.05, 0.01, 0.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_pruned_network(name: str, density: float) -> None:
    model = kill(NETWORKS[name](), density) if density else kill(NETWORKS[name](), 1e-9)
    small, plain = svd.compress(model), svd.compress(model, backend="numpy")
    for rows in BATCHES:
        for dtype in ("float32", "uint8", "float64"):
            x = inputs_of(model, rows, seed=rows, dtype=dtype)
            expected = model.predict(x)
            assert distance(small.predict(x), expected) < 1e-5, (rows, dtype)
            assert distance(plain.predict(x), expected) < 1e-5, (rows, dtype)
    flat = x.reshape(len(x), -1)
    assert np.array_equal(small.predict(flat), small.predict(x))
    assert np.array_equal(small.predict(np.asfortranarray(flat)), small.predict(x))
    assert distance(small.predict_proba(x), model.predict_proba(x)) < 1e-5


def random_network(seed: int) -> svd.Sequential:
    """A few random layers on random images."""
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in rng.integers(1, 4, 1)] + [int(n) for n in rng.integers(5, 14, 2)]
    layers: list[Layer] = []

    def pick(low: int, high: int) -> tuple[int, int]:
        down, across = (int(n) for n in rng.integers(low, high + 1, 2))
        return down, across

    channels, given = shape[0], tuple(shape)
    for _ in range(rng.integers(1, 4)):
        filters = int(rng.integers(1, 8))
        conv = svd.Conv2d(channels, filters, pick(1, 3), pick(1, 2), pick(0, 2), pick(1, 2), bias=bool(rng.integers(2)))
        layers.append(conv)
        channels = filters
        tails: list[Any] = [lambda c: svd.BatchNorm(c), lambda c: svd.ReLU(), lambda c: svd.Dropout(0.5)]
        tails += [lambda c: svd.MaxPool2d((2, 1), pick(1, 2), (int(rng.integers(2)), 0)) for _ in range(2)]
        tails += [lambda c: svd.AvgPool2d(2, 1, pick(0, 1)), lambda c: svd.MaxPool2d(2)]
        layers += [tails[n](channels) for n in rng.permutation(len(tails))[: rng.integers(0, 4)]]
    try:
        probe = svd.Sequential(*layers, svd.Flatten(), input_shape=given)
    except ValueError:  # images too small for the layers
        return random_network(seed + 1000)
    layers = [type(layer)(**{k: v for k, v in layer.config().items() if k not in ("type", "name")}) for layer in layers]
    tail: list[Layer] = [svd.Flatten(), svd.BatchNorm(probe.n_outputs), svd.ReLU(), svd.Dense(probe.n_outputs, 9)]
    tail = tail if seed % 2 else [tail[0], tail[3]]
    return svd.Sequential(*layers, *tail, svd.ReLU(), svd.Dense(9, 4), input_shape=given)


@pytest.mark.parametrize("seed", range(40))
def test_outputs_of_random_networks(seed: int) -> None:
    model = kill(random_network(seed), density=(0.1, 0.4, 1.0)[seed % 3], seed=seed)
    small = svd.compress(model)
    for rows in (1, 5, 16, 33):
        x = inputs_of(model, rows, seed)
        assert distance(small.predict(x), model.predict(x)) < 1e-5


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "vgg-like"])
def test_same_bits_on_any_number_of_threads(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from svd_numpy.sparse import numba_runtime

    small = svd.compress(kill(NETWORKS[name](), 0.3))
    one_by_one = np.concatenate([small.predict(inputs_of(small, 1, seed)) for seed in range(90)])
    together = np.concatenate([inputs_of(small, 1, seed) for seed in range(90)])
    monkeypatch.setattr(numba_runtime, "_LEAST_PARALLEL", 0.0)
    assert get_num_threads() == threads
    assert np.array_equal(small.predict(together), one_by_one)


def test_one_network_in_many_python_threads() -> None:
    small = svd.compress(kill(lenet_5(), 0.3))
    batches = [inputs_of(small, rows, rows) for rows in (1, 7, 16, 40)]
    expected, wrong = [small.predict(x) for x in batches], list[int]()

    def work(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(small.predict(batches[number]), expected[number]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# ------------------------------------------------------------ what is left


def dense(theta: Any, bias: Any) -> svd.Dense:
    layer = svd.Dense(*np.shape(theta))
    layer.weights = np.array(theta, np.float32), np.array(bias, np.float32)  # type: ignore[attr-defined]
    return layer


def filled(*layers: Layer, **options: Any) -> svd.Sequential:
    model = svd.Sequential(*layers, **options)
    for layer in layers:
        if hasattr(layer, "weights"):
            layer.theta[...], layer.bias[...] = layer.weights  # type: ignore[attr-defined]
    return model


def test_dead_units_go_in_both_directions() -> None:
    """Of three hidden units one is constant, relu(-1 + 3) = 2, one is never read, and one lives, with two inputs."""
    model = filled(
        dense([[1, 0, 5], [0, 0, 0], [2, 0, 6], [0, 0, 7]], [0.5, 3, 0]),
        dense([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, -1, 0]),
        svd.ReLU(),
        dense([[1, 2], [10, 20], [0, 0]], [0.25, 0.75]),
    )
    take, first, second, third = svd.compress(model).ops
    assert isinstance(take, TakeOp) and take.index.tolist() == [0, 2] and take.mean is None
    assert isinstance(first, DenseOp) and isinstance(second, DenseOp) and isinstance(third, DenseOp)
    assert np.array_equal(first.weights.matrix(), [[1], [2]]) and first.bias.tolist() == [0.5]
    assert np.array_equal(second.weights.matrix(), [[1]]) and second.relu
    assert np.array_equal(third.weights.matrix(), [[1, 2]]) and third.bias.tolist() == [20.25, 40.75]


def test_the_mean_goes_into_the_first_bias_and_batch_norm_into_the_weights() -> None:
    model = filled(dense([[1, 2], [3, 4]], [0, 1]), svd.BatchNorm(2, eps=1e-12), input_mean=[1, 10])
    model.parameters["batch_norm1.gamma"][:], model.state["batch_norm1.running_var"][:] = (2, 3), (4, 9)
    model.parameters["batch_norm1.beta"][:], model.state["batch_norm1.running_mean"][:] = (5, 6), (1, 2)
    take, op = svd.compress(model).ops
    assert isinstance(take, TakeOp) and take.mean is None and isinstance(op, DenseOp)
    np.testing.assert_allclose(op.weights.matrix(), [[1, 2], [3, 4]], rtol=1e-6)  # gamma / std is 1 in both
    np.testing.assert_allclose(op.bias, [-31 - 1 + 5, -42 + 1 - 2 + 6], rtol=1e-6)


def test_constant_channels_before_padding_become_one_channel_of_ones() -> None:
    rng = np.random.default_rng(0)
    model = svd.Sequential(
        svd.Conv2d(1, 6, 3), svd.ReLU(), svd.MaxPool2d(2), svd.Conv2d(6, 4, 3, padding=1), svd.Flatten(),
        input_shape=(1, 8, 8),
    )  # fmt: skip
    first, second = model.layers[0], model.layers[3]
    assert isinstance(first, svd.Conv2d) and isinstance(second, svd.Conv2d)
    first.theta[:, 1:] = 0
    first.bias[:] = [0.1, 0.5, 2, -1, 3, 0]  # after the ReLU: constants 0.5, 2, 0, 3 and 0
    second.bias[:] = rng.standard_normal(4)
    small = svd.compress(model)
    conv = small.ops[1]
    assert isinstance(conv, ConvOp) and np.allclose(conv.bias, [0.1, 1]) and not conv.weights.matrix()[:, 1].any()
    x = inputs_of(model, 9)
    assert distance(small.predict(x), model.predict(x)) < 1e-6


def test_a_network_without_weights_is_a_constant() -> None:
    model = lenet_300_100()
    model.parameters["dense1.log_sigma2"][:] = 10
    model.parameters["dense3.bias"][:] = np.arange(10)
    small = svd.compress(model)
    take, last = small.ops
    assert isinstance(take, TakeOp) and take.index.size == 0
    assert isinstance(last, DenseOp) and last.weights.shape == (0, 10)
    assert np.array_equal(small.predict(np.zeros((3, 60))), [np.arange(10.0)] * 3)


@pytest.mark.parametrize("layers", [(svd.Flatten(),), (svd.ReLU(), svd.Flatten()), (svd.MaxPool2d(2), svd.Flatten())])
def test_a_network_that_has_no_weights_stays_what_it_is(layers: tuple[svd.Layer, ...]) -> None:
    model = svd.Sequential(*layers, input_shape=(1, 2, 2), backend="numpy")
    x = np.random.default_rng(0).standard_normal((3, 1, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(svd.compress(model).predict(x), model.predict(x))


def test_scaling_that_cannot_be_folded_stays() -> None:
    """Before padding, after an average and after a flattening; all others are folded into weights."""
    ops = svd.compress(kill(vgg_like(svd.AvgPool2d), 0.5)).ops
    assert [op.name for op in ops if isinstance(op, ScaleOp)] == ["batch_norm1", "relu4", "batch_norm5"]


def test_the_threshold_is_the_models_or_the_given_one() -> None:
    model = lenet_300_100()
    rng = np.random.default_rng(0)
    model.parameters["dense1.log_sigma2"][...] = rng.uniform(-15, 5, (60, 30))
    x = inputs_of(model, 20)
    for threshold in (None, -2.0, 1.0):
        small = svd.compress(model, threshold)
        given = model if threshold is None else svd.sparsify(model, threshold)
        assert distance(small.predict(x), given.predict(x)) < 1e-5
        first = small.ops[1]
        assert isinstance(first, DenseOp)
        survives = np.asarray(svd.log_alpha(model)["dense1"]) <= (3 if threshold is None else threshold)
        assert first.weights.kept == np.count_nonzero(survives)


def test_print_shows_every_layer() -> None:
    text = str(svd.compress(kill(lenet_5(), 0.1)))
    for words in ("conv1", "max_pool2", "dense2", "sparse convolution", "inputs read", "compression"):
        assert words in text


# ------------------------------------------------------------ what is refused


class Tanh(Layer):
    def forward(self, x: Any, run: Any) -> Any:
        return np.tanh(x)


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"'layer1' is a Tanh.*expected dense"):
        svd.compress(svd.Sequential(svd.Dense(3, 3), Tanh()))
    with pytest.raises(TypeError, match="expected a Sequential"):
        svd.compress(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold"):
        svd.compress(lenet_300_100(), 1000)


def test_a_wrong_network_is_never_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = sparse_model.compact

    def wrong(*args: Any) -> Any:
        ops = right(*args)
        ops[-1].bias[0] += 1e-3
        return ops

    monkeypatch.setattr(sparse_model, "compact", wrong)
    with pytest.raises(sparse_model.CompressionError, match=r"wrong by 0\.001.*use the network itself"):
        svd.compress(kill(lenet_300_100(), 0.3))


def test_a_gpu_is_refused_as_compact_networks_do_not_run_on_it(tmp_path: Path) -> None:
    small = svd.compress(lenet_300_100(), backend="numpy")
    small.save(tmp_path / "net.safetensors")
    calls: list[Callable[[], Any]] = [
        lambda: svd.compress(lenet_300_100(), backend="cuda"),
        lambda: SparseModel(small.ops, small.likelihood, "cuda"),
        lambda: SparseModel.load(tmp_path / "net.safetensors", "cuda"),
        lambda: svd.unpack(svd.pack(small), "cuda"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="got 'cuda', but compact networks run on the CPU; expected 'auto'"):
            call()


@pytest.mark.parametrize(
    ("named", "without_numba", "expected"),
    [("numpy", "", "numpy"), ("numba", "", "numba"), ("cuda", "", "numba"), ("cuda", "not installed", "numpy")],
)
def test_the_backend_in_the_environment_counts_unless_it_is_a_gpu(
    named: str, without_numba: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops, likelihood = (small := svd.compress(lenet_300_100(), backend="numpy")).ops, small.likelihood
    usable = {"numpy": "", "numba": without_numba, "cuda": ""}
    for module in (kernels, sparse_runtime):
        monkeypatch.setattr(module, "available_backends", lambda: usable)
    monkeypatch.setenv("SVD_NUMPY_BACKEND", named)
    assert SparseModel(ops, likelihood).backend.name == expected


def test_a_network_runs_on_the_backend_it_names() -> None:
    small = svd.compress(kill(lenet_300_100(), 0.3), backend="numpy")
    assert small.backend.name == "numpy" and svd.quantise(small, 8).backend.name == "numpy"
    assert SparseModel(small.ops, small.likelihood, "numba").backend.name == "numba"


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("rows", [1, 2, 16, 80])
def test_inputs_that_are_not_finite_are_refused(backend: str, rows: int) -> None:
    small = svd.compress(kill(lenet_300_100(), 0.5), backend=backend)
    take = small.ops[0]
    assert isinstance(take, TakeOp)
    x = inputs_of(small, rows)
    expected = small.predict(x)
    for bad in (np.nan, np.inf, -1e20):
        spoilt = x.copy()
        spoilt[-1, take.index[0]] = bad
        with pytest.raises(ValueError, match=f"example {rows - 1} holds NaN"):
            small.predict(spoilt)
    with pytest.raises(ValueError, match=f"example {rows - 1} holds NaN"):
        small.predict(np.where(x == x[-1, take.index[0]], 1e300, x.astype(np.float64)))
    assert np.array_equal(small.predict(x), expected)
    for wrong, error in ((x[:, :3], ValueError), (x.astype(int), TypeError), (x[0], ValueError)):
        with pytest.raises(error, match="expected"):
            small.predict(wrong)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_overflow_is_refused(backend: str) -> None:
    model = filled(dense([[1e30]], [0]), svd.ReLU(), dense([[1e20]], [0]))
    model.layers[2].theta[...] = 1  # type: ignore[attr-defined]
    small = svd.compress(model, backend=backend)
    with pytest.raises(ValueError, match="overflowed"):
        small.predict(np.full((1, 1), 1e14))


def test_models_are_made_of_checked_ops() -> None:
    small = svd.compress(lenet_300_100())
    with pytest.raises(ValueError, match="begins with a TakeOp"):
        SparseModel(small.ops[1:], small.likelihood)
    with pytest.raises(ValueError, match=r"op 2 \('dense2'\) has inputs outside 0..9"):
        SparseModel([small.ops[0], small.ops[3], small.ops[2]], small.likelihood)
