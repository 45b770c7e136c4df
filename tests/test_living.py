"""Living weights: operations on lists, removal, the small copy, and training on it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import bits, make_config, make_data, make_net, run_log, timeless
from thread_counts import assert_same_bits

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import Buffers, NoiseKey
from svd_numpy.kernels.living import Living, spread
from svd_numpy.kernels.priors import LOG_SIGMA2_MIN
from svd_numpy.kernels.window import Window
from svd_numpy.network import living as of_network
from svd_numpy.network.living import LivingCopy, count_living, remove
from svd_numpy.train.console import TrainingInterrupted
from svd_numpy.train.runner import LivingRunner
from svd_numpy.train.trainer import Trainer

KEY = NoiseKey(3, 1, 7, 5)
DENSE = [(37, 23, 0.2, 7), (37, 23, 0.2, 100), (5, 3, 0.0, 10), (1, 1, 1.0, 1), (300, 40, 0.03, 33), (9, 70, 0.5, 130)]
WINDOWS = [
    Window(9, 8, 3, (3, 2)), Window(9, 8, 3, (3, 2), padding=(1, 1)), Window(8, 9, 2, (3, 3), (1, 1), (2, 1), (2, 1)),
    Window(4, 4, 5, (4, 4)), Window(5, 5, 17, (1, 1)),
]  # fmt: skip


def problem(window: Window | None, shape: tuple[int, int], density: float, batch: int) -> tuple[Living, list[Any]]:
    """A list of weights, and inputs, theta, log_sigma2, bias and output gradients in float64."""
    rng = np.random.default_rng(0)
    lists = Living.of(rng.random(shape) < density)
    n = len(lists.rows)
    inside = shape[:1] if window is None else (window.height, window.width, window.channels)
    outside = shape[1:] if window is None else (*window.out, shape[1])
    arrays = [(batch, *inside), (n,), (n,), shape[1:], (batch, *outside)]
    return lists, [rng.standard_normal(size) for size in arrays]


def run(backend: Any, lists: Living | None, arrays: list[Any], window: Window | None, plain: bool, keep: float) -> Any:
    """Outputs and gradients of one forward and backward pass: y, d_theta, d_sigma2, d_bias, dx."""
    x, theta, log_sigma2, bias, dy = (np.array(array, backend.dtype) for array in arrays)
    memory, y, relu = Buffers(), np.empty_like(dy), not plain
    results = np.empty_like(theta), np.empty_like(theta), np.empty_like(bias), np.empty_like(x)
    d_theta, d_sigma2, d_bias, dx = results
    if plain:
        d_sigma2[...] = 0
        backend.dense_forward(x, theta, bias, y, memory, window, lists)
        backend.dense_backward(x, theta, dy, d_theta, d_bias, dx, memory, window, lists)
    else:
        backend.lrt_forward(x, theta, log_sigma2, bias, keep, KEY, relu, y, memory, window, lists)
        backend.lrt_backward(
            x, theta, log_sigma2, keep, dy, y, d_theta, d_sigma2, d_bias, dx, memory, window, lists
        )  # fmt: skip
    return y, *results


CASES = [pytest.param(None, size[:2], *size[2:], id=f"dense {size}") for size in DENSE]
CASES += [pytest.param(window, (window.taps, 6), 0.3, 19, id=f"conv {window[:4]}") for window in WINDOWS]


@pytest.mark.parametrize("plain", [False, True], ids=["variational", "plain"])
@pytest.mark.parametrize(("window", "shape", "density", "batch"), CASES)
def test_lists_do_what_a_matrix_does_in_which_the_others_are_zero(
    window: Any, shape: Any, density: float, batch: int, plain: bool
) -> None:
    lists, arrays = problem(window, shape, density, batch)
    whole = list(arrays)
    whole[1], whole[2] = spread(lists, arrays[1]), np.full(shape, -np.inf)
    whole[2][lists.rows, lists.columns] = arrays[2]
    reference = get_backend("numpy", "float64")
    expected = list(run(reference, None, whole, window, plain, 0.3))
    expected[1:3] = (gradient[lists.rows, lists.columns] for gradient in expected[1:3])
    for backend, tolerance in ((reference, 1e-12), (get_backend("numba"), 2e-6)):
        for found, wanted in zip(run(backend, lists, arrays, window, plain, 0.3), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1, np.abs(wanted).max(initial=0)))


@pytest.mark.parametrize("plain", [False, True], ids=["variational", "plain"])
@pytest.mark.parametrize(("window", "shape", "density", "batch"), CASES[1::3])
def test_lists_give_the_same_bits_on_any_number_of_threads(
    window: Any, shape: Any, density: float, batch: int, plain: bool
) -> None:
    lists, arrays = problem(window, shape, density, batch)
    assert_same_bits(lambda: run(get_backend("numba"), lists, arrays, window, plain, 0.3))


# --- Removal ---


def dense_net(backend: str = "numpy") -> svd.Sequential:
    """4 - 3 - 2 by hand: unit 1 has no living inputs, unit 2 has no living readers."""
    model = svd.Sequential(svd.VariationalDense(4, 3), svd.ReLU(), svd.VariationalDense(3, 2), backend=backend)
    for name in ("dense1", "dense2"):
        model.parameters[f"{name}.theta"][...] = 1.0
        model.parameters[f"{name}.log_sigma2"][...] = -8.0
    model.parameters["dense1.bias"][...] = [0.5, 2.0, 0.25]
    model.parameters["dense1.theta"][:, 1] = 1e-6
    model.parameters["dense1.theta"][3, 0] = 1e-6
    model.parameters["dense2.theta"][1] = [3.0, -1.0]
    model.parameters["dense2.theta"][2] = 1e-6
    return model


def test_constants_go_into_the_bias_and_what_nothing_reads_goes_too() -> None:
    model, x = dense_net(), np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    before = model.predict(x)
    assert remove(model, 5.0) == 18 - 5
    assert of_network.living(model)["dense1"].tolist() == [[True, False, False]] * 3 + [[False] * 3]
    assert of_network.living(model)["dense2"].tolist() == [[True, True], [False] * 2, [False] * 2]
    np.testing.assert_allclose(model.parameters["dense2.bias"], [6.0, -2.0])  # 2 from unit 1, times its weights
    np.testing.assert_allclose(model.predict(x), before, rtol=1e-5, atol=1e-5)
    gone = ~of_network.living(model)["dense1"]
    assert (model.parameters["dense1.theta"][gone] == 0).all()
    assert (model.parameters["dense1.log_sigma2"][gone] == LOG_SIGMA2_MIN).all()
    assert remove(model, 5.0) == 0


def image_net(backend: str = "numpy", padding: int = 0, stride: int = 1) -> svd.Sequential:
    """Two convolutions with everything that may stand between, then two dense layers."""
    layers = (
        svd.VariationalConv2d(2, 6, 3, padding=padding), svd.BatchNorm(6), svd.ReLU(), svd.AvgPool2d(2),
        svd.VariationalConv2d(6, 5, 2, padding=padding, stride=stride), svd.ReLU(), svd.MaxPool2d(2), svd.Flatten(),
        svd.Dropout(0.3), svd.VariationalDense(20 if (padding, stride) == (1, 1) else 5, 7), svd.ReLU(),
        svd.VariationalDense(7, 3),
    )  # fmt: skip
    return svd.Sequential(*layers, backend=backend, input_shape=(2, 8, 8))


def grouped_net(backend: str = "numpy") -> svd.Sequential:
    """A convolution in two groups between two others, padded by a layer of its own."""
    layers = (
        svd.VariationalConv2d(2, 4, 3), svd.ReLU(), svd.Pad2d(1, "reflect"), svd.VariationalConv2d(4, 6, 3, groups=2),
        svd.BatchNorm(6, affine=False), svd.ReLU(), svd.MaxPool2d(2), svd.VariationalConv2d(6, 3, 3), svd.ReLU(),
        svd.Flatten(), svd.VariationalDense(3, 3),
    )  # fmt: skip
    return svd.Sequential(*layers, backend=backend, input_shape=(2, 8, 8))


def image_data(n: int = 60) -> Dataset:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 128)).astype(np.float32)
    x[np.arange(n), y] += 5
    return Dataset("own", x, y, x[:20], y[:20], (2, 8, 8), 3, "made here")


def scatter_deaths(model: svd.Sequential, seed: int = 0) -> None:
    """Kill weights at random and some whole units, so that all kinds of constants arise; give the biases values."""
    rng = np.random.default_rng(seed)
    for layer in model.variational_layers:
        dead = rng.random(layer.theta.shape) < 0.5
        dead[:, rng.random(dead.shape[1]) < 0.3] = True
        layer.theta[dead] = 0
        layer.bias[...] = rng.normal(size=layer.bias.shape)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (1, 1), (1, 2)])
def test_removal_changes_no_output_of_the_pruned_network(padding: int, stride: int, seed: int) -> None:
    model, x = image_net(padding=padding, stride=stride), image_data().x_test
    for norm in (layer for layer in model.layers if isinstance(layer, svd.BatchNorm)):
        norm.running_mean[...], norm.running_var[...] = 0.3, 2.0
    scatter_deaths(model, seed)
    before = model.predict(x)
    assert remove(model, 3.0) > 0
    np.testing.assert_allclose(model.predict(x), before, rtol=1e-4, atol=1e-5)
    copy = LivingCopy(model)
    assert count_living(copy.model) == count_living(model) == sum(svd.measure_sparsity(model).kept.values())
    np.testing.assert_allclose(copy.model.predict(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_lists_like_others(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_network, "CONV_LIST_COST", 0.1)
    model, x = grouped_net(), image_data().x_test
    scatter_deaths(model, seed)
    before = model.predict(x)
    remove(model, 3.0)
    copy = LivingCopy(model)
    assert of_network.forms(copy.model)["conv2"] == "lists" and copy.model.layers[3].theta.ndim == 1  # type: ignore[attr-defined]
    for each in (model, copy.model):
        np.testing.assert_allclose(each.predict(x), before, rtol=1e-4, atol=1e-5)
    svd.fit(model, image_data(), make_config(remove_above=3.0, epochs=2, batch_size=20), progress=False)


def test_a_network_of_which_nothing_is_left_still_answers() -> None:
    model, data = make_net(), make_data()
    for name in ("dense1", "dense2"):
        model.parameters[f"{name}.theta"][...] = 0
    model.parameters["dense2.bias"][...] = [1.0, 2.0, 3.0]
    remove(model, 3.0)
    assert count_living(model) == 0
    np.testing.assert_array_equal(LivingCopy(model).model.predict(data.x_test[:2]), [[1, 2, 3]] * 2)


# --- Training ---


def removing_net(backend: str) -> svd.Sequential:
    first, last = svd.VariationalDense(12, 8, log_sigma2=-3.0), svd.VariationalDense(8, 3, log_sigma2=-3.0)
    return svd.Sequential(first, svd.ReLU(), last, backend=backend)


def removing_config(**changes: Any) -> svd.TrainConfig:
    settings = {"epochs": 12, "lr": 0.03, "kl_weight": 3.0, "remove_above": 2.0, "remove_from": 2}
    return make_config(**{**settings, "finetune_threshold": 2.0, **changes})


def removing_run(backend: str = "numpy", run_dir: Path | None = None, **changes: Any) -> tuple[Any, Any]:
    model = removing_net(backend)
    return model, svd.fit(model, make_data(), removing_config(**changes), run_dir=run_dir, progress=False)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_network_keeps_its_size_and_the_log_says_what_lives(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_network, "LIST_COST", 1.2)
    model, records = removing_run(backend)
    counts = [record["living"] for record in records]
    assert counts[0] == 120 and counts == sorted(counts, reverse=True) and counts[-1] < 60
    assert records[0]["forms"] == {"dense1": "matrix", "dense2": "matrix"}
    assert records[-1]["forms"]["dense1"] == "lists"
    assert model.parameters["dense1.theta"].shape == (12, 8)
    sparsity = svd.measure_sparsity(model)
    assert sparsity.total == {"dense1": 96, "dense2": 24} and sum(sparsity.kept.values()) == counts[-1]
    assert svd.evaluate(model, make_data().x_test, make_data().y_test)["error"] == records[-1]["test_error"] < 0.1
    np.testing.assert_allclose(
        svd.compress(model).predict(make_data().x_test), model.predict(make_data().x_test), rtol=1e-4, atol=1e-5
    )


def test_what_a_layer_computes_on_is_no_part_of_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for cost in (1e-9, 1e9):  # always lists; always matrices
        monkeypatch.setattr(of_network, "LIST_COST", cost)
        model, records = removing_run()
        forms = {form for record in records[2:] for form in record["forms"].values()}
        assert forms == {"lists" if cost < 1 else "matrix"}
        found[cost] = [
            *(record["living"] for record in records),
            *np.concatenate([*map(np.ravel, model.arrays().values())]),
        ]
    # In a matrix, removed weights keep the lowest variance that there is: 2e-9.
    np.testing.assert_allclose(found[1e-9], found[1e9], rtol=1e-3, atol=1e-4)


def test_numba_retraces_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, expected), (_, found) = (removing_run(backend) for backend in ("numpy", "numba"))
    for wanted, record in zip(expected, found, strict=True):
        assert record["living"] == wanted["living"] and record["forms"] == wanted["forms"]
        assert record["nll"] == pytest.approx(wanted["nll"], rel=1e-3)


def images_on(backend: str) -> svd.Sequential:
    model = image_net(backend, padding=1)
    config = make_config(epochs=10, batch_size=20, lr=0.03, remove_above=0.0, remove_from=1, kl_schedule=((0.0, 2.0),))
    records = svd.fit(model, image_data(), config, progress=False)
    assert records[-1]["living"] < records[0]["living"] and "lists" in records[-1]["forms"].values()
    return model


def test_convolutions_train_on_lists_with_the_same_bits_on_any_number_of_threads() -> None:
    assert_same_bits(lambda: images_on("numba").arrays().values())


def test_removing_nothing_changes_no_bit() -> None:
    without, _ = removing_run("numba", remove_above=None, finetune_epochs=0)  # pruning for it removes, too
    with_a_rule, records = removing_run("numba", remove_from=10**6, finetune_epochs=0)
    assert bits(without) == bits(with_a_rule) and records[-1]["forms"]["dense1"] == "matrix"


class StopsAfter:
    """As if somebody pressed Ctrl-C in a certain step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        original, self.steps = LivingRunner.advance, 0

        def counted(runner: LivingRunner, limit: int) -> None:
            original(runner, limit)
            self.steps += 1
            if self.steps == step:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(LivingRunner, "advance", counted)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("step", [3, 12, 27, 43, 58, 60, 61, 64])
def test_stopped_in_any_step_it_goes_on_to_the_same_bits(
    backend: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, records = removing_run(backend)
    with monkeypatch.context() as patch:
        StopsAfter(patch, step)
        with pytest.raises(TrainingInterrupted):
            removing_run(backend, tmp_path)
    model = removing_net(backend)
    svd.fit(model, make_data(), removing_config(), run_dir=tmp_path, resume=True, progress=False)
    assert bits(model) == bits(whole) and run_log(tmp_path) == timeless(records)


def test_weights_changed_between_epochs_are_taken_over() -> None:
    seen = []

    def change(trainer: Trainer, record: dict[str, Any]) -> None:
        seen.append(float(trainer.model.parameters["dense2.bias"][0]))
        trainer.model.parameters["dense2.bias"][0] = 5.0

    model = make_net()
    svd.fit(model, make_data(), make_config(remove_above=2.0), callbacks=[change], progress=False)
    assert all(3.0 < bias < 5.5 for bias in seen[1:])  # one epoch of Adam's steps away from 5


def test_estimators_and_experiments_pass_the_rule_on() -> None:
    data = make_data()
    told = svd.SparseVDClassifier((8,), epochs=40, kl_weight=5.0, remove_above=2.0, random_state=0)
    told.fit(data.x_train, data.y_train)
    assert count_living(told.model_) < 120 == count_living(svd.SparseVDClassifier((8,), epochs=1).fit(
        data.x_train, data.y_train).model_)  # fmt: skip
    options = {"dataset": "digits", "epochs": 2, "progress": False, "backend": "numpy"}
    counts = {}
    for above in (-8.0, float("inf")):
        result = svd.train_mnist(remove_above=above, **options)
        counts[above] = result.history[1]["living"]
    assert counts[-8.0] < counts[float("inf")] == 266_200
    with pytest.raises(svd.SvdValueError, match=r"remove_above: got 3\.0, but kind 'dense' has no log alpha"):
        svd.train_mnist(kind="dense", remove_above=3.0, **options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"remove_above": "5"}, r"remove_above: got '5'"),
        ({"remove_above": float("nan")}, r"remove_above: got nan"),
        ({"remove_above": 99.0}, r"remove_above: got 99"),
        ({"remove_from": -1}, r"remove_from: got -1"),
        ({"remove_from": 1.5}, r"remove_from: got 1.5"),
    ],
)
def test_rules_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
        svd.TrainConfig(**changes)


def test_units_closed_by_gates_leave_whatever_their_weights_are() -> None:
    changes = {"lr": 0.1, "lr_schedule": ((0.0, 1.0),), "kl_schedule": ((0.0, 3.0),), "finetune_epochs": 0}
    options: dict[str, Any] = {"dataset": "digits", "backend": "numba", "progress": False, "method": "l0", "epochs": 4}
    result = svd.train_mnist(remove_above=5.0, changes=changes, **options)
    living = [record["living"] for record in result.history]
    assert living == sorted(living, reverse=True) and living[-1] < 200_000
    assert living[-1] == count_living(result.model)
