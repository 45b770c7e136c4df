"""Weights of examples: gradients by linearity, left-out rows, repeated rows, classes, and runs that go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_runs import bits, make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.train.trainer import Trainer

N = 12


def small_data(weights: Any = None, classes: int = 3) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 4)).astype(np.float32)
    y = rng.integers(0, 3, N) if classes else rng.standard_normal((N, 2)).astype(np.float32)
    return Dataset("own", x, y, x[:2], y[:2], None, classes, "made here", weights=weights)


def gradient(data: Dataset, kl_weight: float = 0.0) -> Any:
    """Gradients of one step on all rows, with the noise of step 0."""
    outputs, likelihood = (3, "categorical") if data.n_classes else (2, "gaussian")
    layers = svd.VariationalDense(4, 5), svd.ReLU(), svd.VariationalDense(5, outputs)
    model = svd.Sequential(*layers, backend="numpy", dtype="float64", likelihood=likelihood)
    trainer = Trainer(model, data, svd.TrainConfig(epochs=1, batch_size=64, kl_weight=kl_weight))
    trainer.step()
    return {name: array.copy() for name, array in model.arena.grad_views.items()}


@pytest.mark.parametrize("classes", [3, 0])
def test_the_gradient_is_the_weighted_sum_of_those_of_the_examples(classes: int) -> None:
    weights = np.array([0, 1, 2, 0.5, 3, 0, 1, 1, 7, 0.25, 1, 2])
    alone = [gradient(small_data(row, classes)) for row in np.eye(N)]  # each as if it were all that counts
    for name, found in gradient(small_data(weights, classes)).items():
        expected = sum(w * one[name] for w, one in zip(weights, alone, strict=True)) / weights.sum()
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15, err_msg=name)


def test_equal_weights_change_no_bit_and_only_ratios_count() -> None:
    plain = gradient(small_data())
    for weights in (np.ones(N), np.full(N, 8.0), [True] * N):
        for name, found in gradient(small_data(weights)).items():
            assert found.tobytes() == plain[name].tobytes()


class Decayed(svd.Dense):
    """Without noise, so an example does not depend on its place; with a KL of its own."""

    kind = "weighted_test_decayed"

    def kl(self, backend: Any) -> float:
        return 0.5 * float((self.theta**2).sum())

    def add_kl_gradients(self, backend: Any, kl_scale: float) -> None:
        self.d_theta += kl_scale * self.theta


def deterministic(x: Any, y: Any, weights: Any, kl_weight: float = 1.0) -> Any:
    """Gradients on all rows where nothing is random."""
    data = Dataset("own", x, y, x[:1], y[:1], None, 3, "", weights=weights)
    model = svd.Sequential(Decayed(4, 3, name="dense1"), backend="numpy", dtype="float64")
    trainer = Trainer(model, data, svd.TrainConfig(epochs=1, batch_size=64, kl_weight=kl_weight))
    trainer.step()
    return model.arena.grad_views["dense1.theta"].copy()


def test_weight_0_leaves_a_row_out_and_the_kl_is_shared_by_the_others() -> None:
    data, weights = small_data(), np.ones(N)
    weights[[1, 5, 6]] = 0
    left = weights > 0
    found = deterministic(data.x_train, data.y_train, weights)
    expected = deterministic(data.x_train[left], data.y_train[left], None)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_whole_weight_is_a_repeated_row() -> None:
    data, weights = small_data(), np.array([1, 2, 3] * 4)
    found = deterministic(data.x_train, data.y_train, weights, kl_weight=0.0)
    twice = np.repeat(np.arange(N), weights)
    expected = deterministic(data.x_train[twice], data.y_train[twice], None, kl_weight=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def weighted(weights: Any) -> Dataset:
    return replace(make_data(), weights=weights)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_backends_agree_over_a_whole_run(backend: str) -> None:
    """Weights go with their rows through every epoch's order, short last batches included."""
    weights = np.random.default_rng(1).integers(0, 4, 110)
    oracle, model = make_net(), make_net(backend)
    for net in (oracle, model):
        svd.fit(net, weighted(weights), make_config(), progress=False)
    for name, array in oracle.parameters.items():
        np.testing.assert_allclose(model.parameters[name], array, rtol=2e-3, atol=2e-4, err_msg=name)
    plain = make_net(backend)
    svd.fit(plain, make_data(), make_config(), progress=False)
    assert bits(plain) != bits(model)


def test_what_has_no_weight_does_not_teach() -> None:
    """Half of the rows have wrong labels; with weight 0 they do no harm."""
    data = make_data(n_train=400)
    wrong = np.arange(400) % 2 == 0
    labels = np.where(wrong, (data.y_train + 1) % 3, data.y_train)
    errors = []
    for weights in (None, (~wrong).astype(float)):
        model = make_net()
        svd.fit(model, replace(data, y_train=labels, weights=weights), make_config(epochs=12), progress=False)
        errors.append(svd.evaluate(model, data.x_test, data.y_test)["error"])
    assert errors[0] > 0.3 and errors[1] < 0.05


def test_weights_of_sequences() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 12)).astype(np.float32), rng.integers(0, 2, (6, 3))
    nets = []
    for weights in ([1, 1, 1, 0, 0, 0], None):
        data = Dataset("steps", x, y, x[:1], y[:1], None, 2, "", weights=weights)
        model = svd.Sequential(svd.VariationalDense(4, 2), input_shape=(3, 4), backend="numpy", dtype="float64")
        trainer = Trainer(model, data, svd.TrainConfig(epochs=1, kl_weight=0.0))
        trainer.step()
        nets.append(model.arena.grad_views["dense1.theta"].copy())
    assert np.abs(nets[0] - nets[1]).max() > 1e-3


def test_split_takes_the_weights_along() -> None:
    data = weighted(np.arange(110) + 1.0)
    part = data.split(30)
    rows = (part.x_train[:, None] == data.x_train[None]).all(axis=2).argmax(axis=1)
    np.testing.assert_array_equal(part.weights, rows + 1.0)


def test_a_run_goes_on_only_with_the_same_weights(tmp_path: Any) -> None:
    svd.fit(make_net(), weighted(np.arange(110)), make_config(), run_dir=tmp_path, progress=False)
    svd.fit(make_net(), weighted(np.arange(110)), make_config(), run_dir=tmp_path, resume=True, progress=False)
    for other in (None, np.ones(110)):
        with pytest.raises(svd.SvdValueError, match=r"another data \(differs in \['sha256'\]"):
            svd.fit(make_net(), weighted(other), make_config(), run_dir=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(109), r"got shape \(109,\), expected \(110,\)"),
        (np.ones((110, 1)), "got shape"),
        (np.append(np.ones(109), -1), "got -1.0 for row 109"),
        (np.append(np.nan, np.ones(109)), "got nan for row 0"),
        (np.zeros(110), "only zeros"),
        (["much"] * 110, "got dtype <U4, expected a number"),
    ],
)
def test_weights_that_make_no_sense(weights: Any, words: str) -> None:
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
        weighted(weights)
