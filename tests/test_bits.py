"""Bits from the posterior, rounding to few bits, and the search for the fewest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_runs import make_data, make_net
from sparse_tools import NETWORKS, inputs_of, kill, lenet_5

import svd_numpy as svd
from svd_numpy.sparse import ConvOp, DenseOp, SparseModel
from svd_numpy.sparse.storage.precision import code_bits, step_of
from svd_numpy.sparse.storage.quantisation import error_of, numbers_of


def bits_by_definition(theta: np.ndarray, spread: np.ndarray) -> int:
    """The sign, the integer part of the largest weight, and the mean over weights of the t with 2 spread < 2^-t."""
    behind = np.mean([sum(2 * s < 2.0**-t for t in range(1, 24)) for s in spread])
    whole = int(np.ceil(behind))
    largest = round(np.abs(theta).max() * 2**whole)
    return 1 + len(bin(largest)) - 2


@pytest.mark.parametrize("rule", ["deviation", "variance"])
def test_posterior_bits_are_those_of_the_definition(rule: Any) -> None:
    model, rng = make_net(), np.random.default_rng(0)
    for layer, scale in zip(model.variational_layers, (1.0, 0.02), strict=True):
        layer.theta[...] = scale * rng.standard_normal(layer.theta.shape)
        layer.log_sigma2[...] = 2 * np.log(scale) + rng.uniform(-8, 1, layer.theta.shape)
    expected = {}
    for layer in model.variational_layers:
        survives = svd.log_alpha(model)[layer.name] <= 1.0
        sigma2 = np.exp(layer.log_sigma2[survives].astype(np.float64))
        expected[f"{layer.name}.theta"] = bits_by_definition(
            layer.theta[survives], np.sqrt(sigma2) if rule == "deviation" else sigma2
        )
    assert 0 < sum((svd.log_alpha(model)["dense1"] > 1.0).ravel()) < 90  # some are pruned
    assert svd.posterior_bits(model, 1.0, rule) == expected


def test_a_sharper_posterior_needs_more_bits() -> None:
    model = make_net()
    for layer in model.variational_layers:
        layer.theta[...] = 1
    found = []
    for log_sigma2 in (-2.0, -6.0, -10.0):
        for layer in model.variational_layers:
            layer.log_sigma2[...] = log_sigma2
        found.append(svd.posterior_bits(model)["dense1.theta"])
    assert found == [2, 5, 8]  # sigma is e^-1, e^-3, e^-5: 1.4, 4.3, 7.2 octaves below 1, one of them for the factor 2


def test_networks_without_a_posterior_are_refused() -> None:
    with pytest.raises(ValueError, match="without variational layers"):
        svd.posterior_bits(svd.Sequential(svd.Dense(3, 2)))
    frozen = make_net()
    for layer in frozen.variational_layers:
        layer.log_sigma2[...] = -20
    with pytest.raises(ValueError, match="no noise left"):
        svd.posterior_bits(frozen)
    with pytest.raises(ValueError, match="rule: got 'bits'"):
        svd.posterior_bits(frozen, rule="bits")  # type: ignore[arg-type]
    empty = make_net()
    for layer in empty.variational_layers:
        layer.log_sigma2[...] = 10
    assert svd.posterior_bits(empty) == {}


@pytest.mark.parametrize("bits", range(2, 25))
def test_the_step_is_the_smallest_that_reaches(bits: int) -> None:
    for largest in (1e-3, 0.3, 0.5, 1.0, 1.5, 1.99, 77.0):
        step = step_of(largest, bits)
        assert np.log2(step) % 1 == 0
        assert code_bits(largest, step) <= bits < code_bits(largest, step / 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_rounded_numbers_are_near_and_few(name: str) -> None:
    small = svd.compress(kill(NETWORKS[name](), 0.3), backend="numpy")
    bits = 4
    tiny = svd.quantise(small, bits)
    for op, other in zip(small.ops, tiny.ops, strict=True):
        for array, before in numbers_of(op).items():
            after = numbers_of(other)[array]
            if isinstance(op, DenseOp | ConvOp) and isinstance(other, DenseOp | ConvOp) and array.endswith("theta"):
                before, after = op.weights.matrix(), other.weights.matrix()
                assert other.weights.form == op.weights.form
                assert other.weights.rows is None or other.weights.values.all()  # zeros are gone
            if not before.any():
                continue
            step = step_of(float(np.abs(before).max()), bits)
            codes = after / step
            assert np.array_equal(codes, np.rint(codes)) and np.abs(codes).max() <= 2 ** (bits - 1) - 1
            assert np.abs(after - before).max() <= step / 2
            assert not np.signbit(after[after == 0]).any()


def test_only_named_arrays_are_rounded() -> None:
    small = svd.compress(kill(lenet_5(), 0.3), backend="numpy")
    tiny = svd.quantise(small, {"conv1.theta": 3})
    for op, other in zip(small.ops, tiny.ops, strict=True):
        for name, before in numbers_of(op).items():
            assert np.array_equal(before, numbers_of(other)[name]) == (name != "conv1.theta"), name


def test_many_bits_lose_almost_nothing() -> None:
    small = svd.compress(kill(lenet_5(), 0.3), backend="numpy")
    x = inputs_of(small, 10)
    wanted = small.predict(x)
    assert np.abs(svd.quantise(small, 24).predict(x) - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.fixture(scope="module")
def trained() -> tuple[SparseModel, Any]:
    data = make_data(n_train=400)
    model = make_net()
    svd.fit(model, data, svd.TrainConfig(epochs=30, batch_size=50, lr=0.01, kl_schedule=((0, 0.0), (5, 1.0))))
    return svd.compress(model, backend="numpy"), data


def test_the_search_keeps_the_error(trained: tuple[SparseModel, Any]) -> None:
    small, data = trained
    for tolerance in (0.0, 0.05):
        bits = svd.search_bits(small, data.x_train, data.y_train, tolerance)
        assert set(bits) == {"dense1.theta", "dense1.bias", "dense2.theta", "dense2.bias"}
        before = np.mean(small.predict(data.x_train).argmax(axis=1) != data.y_train)
        after = np.mean(svd.quantise(small, bits).predict(data.x_train).argmax(axis=1) != data.y_train)
        assert after <= before + tolerance
        assert max(bits.values()) < 12
        if bits["dense2.bias"] > 2:  # the smallest array is searched last, so one bit less is too few for it
            fewer = svd.quantise(small, bits | {"dense2.bias": bits["dense2.bias"] - 1})
            assert np.mean(fewer.predict(data.x_train).argmax(axis=1) != data.y_train) > before + tolerance


def test_more_tolerance_needs_no_more_bits(trained: tuple[SparseModel, Any]) -> None:
    small, data = trained
    found = [sum(svd.search_bits(small, data.x_train, data.y_train, t).values()) for t in (0.0, 0.6)]
    assert found[1] == 2 * 4 < found[0]  # always guessing one of three classes: about 2 / 3 wrong


def test_a_start_that_is_already_too_coarse(trained: tuple[SparseModel, Any]) -> None:
    small, data = trained
    with pytest.raises(ValueError, match="already more than"):
        svd.search_bits(small, data.x_train, data.y_train, 0.0, start=2)


def test_the_error_of_a_regression_is_the_root_mean_square() -> None:
    small = svd.compress(kill(NETWORKS["flat images"](), 0.5), backend="numpy")
    x = inputs_of(small, 30)
    y = small.predict(x) + np.where(np.arange(30)[:, None] % 2, 3.0, -3.0)
    assert error_of(small, x, y) == pytest.approx(3.0)


def test_wrong_calls() -> None:
    small = svd.compress(kill(lenet_5(), 0.3), backend="numpy")
    with pytest.raises(TypeError, match="expected a SparseModel"):
        svd.quantise(lenet_5(), 4)
    with pytest.raises(ValueError, match=r"got 1 for conv1\.theta, expected 2 to 24"):
        svd.quantise(small, {"conv1.theta": 1})
    with pytest.raises(ValueError, match="expected names of"):
        svd.quantise(small, {"conv9.theta": 4})
    with pytest.raises(TypeError, match=r"got 4\.5 for"):
        svd.quantise(small, 4.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance"):
        svd.search_bits(small, np.zeros((2, 1, 28, 28)), np.zeros(2, int), -1)
