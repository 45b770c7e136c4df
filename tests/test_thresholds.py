"""Thresholds are chosen on validation rows, and do what they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_runs import N_CLASSES, bits, make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy.assess.thresholds import ThresholdCurve, threshold_curve, threshold_for_density
from svd_numpy.data import Dataset

GRID = (-8.0, -5.0, 0.0, 3.0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Ninety rows to train on, twenty to choose by."""
    return make_data().split(20)


@pytest.fixture(scope="module")
def model(data: Dataset) -> svd.Sequential:
    """A small network after variational training."""
    model = make_net()
    kl, lr = ((5.0, 0.0), (20.0, 1.0)), ((0.0, 1.0),)
    svd.fit(model, data, make_config(epochs=60, lr_schedule=lr, kl_schedule=kl, finetune_epochs=0), progress=False)
    return model


def test_the_curve_is_that_of_the_pruned_networks(model: svd.Sequential, data: Dataset) -> None:
    before = bits(model)
    curve = threshold_curve(model, data, GRID)
    for index, threshold in enumerate(GRID):
        pruned = svd.sparsify(model, threshold)
        wrong = pruned.predict(data.x_valid).argmax(axis=1) != data.y_valid
        assert curve.error[index] == pytest.approx(wrong.mean())
        kept = sum(np.count_nonzero(layer.theta) for layer in pruned.variational_layers)
        assert curve.density[index] == pytest.approx(kept / (12 * 8 + 8 * N_CLASSES))
    assert bits(model) == before and model.threshold == 3.0
    assert curve.error[0] > curve.error[-1] and len(set(curve.density)) > 2  # the case is not trivial
    assert len(str(curve).splitlines()) == 1 + len(GRID)


def test_one_layer_is_pruned_and_the_others_stay_whole(model: svd.Sequential, data: Dataset) -> None:
    curve = threshold_curve(model, data, GRID)
    assert set(curve.layer_error) == {"dense1", "dense2"}
    for name in curve.layer_error:
        for index, threshold in enumerate(GRID):
            copy = model.copy()
            copy.threshold = 60.0
            theta = copy.parameters[f"{name}.theta"]
            theta[svd.log_alpha(model)[name] > threshold] = 0
            wrong = copy.predict(data.x_valid).argmax(axis=1) != data.y_valid
            assert curve.layer_error[name][index] == pytest.approx(wrong.mean())
            assert curve.layer_density[name][index] == pytest.approx(np.count_nonzero(theta) / theta.size)
    assert threshold_curve(model, data, GRID, by_layer=False).layer_error == {}


def made_curve(error: list[float]) -> ThresholdCurve:
    """A curve with these errors at thresholds 0, 1, 2, ..."""
    values = np.array(error)
    grid = np.arange(len(values), dtype=float)
    return ThresholdCurve(grid, values, values, grid / len(values), {}, {}, 10)


def test_test_rows_have_no_say(model: svd.Sequential, data: Dataset) -> None:
    other = replace(data, x_test=data.x_test + 1)
    curves = [threshold_curve(model, rows, GRID, by_layer=False) for rows in (data, other)]
    np.testing.assert_array_equal(curves[0].nll, curves[1].nll)
    assert curves[0].n_valid == 20


@pytest.mark.parametrize(("tolerance", "wanted"), [(0.0, 3.0), (0.005, 2.0), (0.02, 1.0), (1.0, 0.0)])
def test_the_sparsest_within_the_tolerance_is_selected(tolerance: float, wanted: float) -> None:
    assert made_curve([0.5, 0.12, 0.104, 0.1, 0.1, 0.11]).select(tolerance) == wanted


def test_select_threshold_keeps_its_promise(model: svd.Sequential, data: Dataset) -> None:
    grid = np.arange(-9.0, 6.0)
    threshold = svd.select_threshold(model, data, 0.05, grid)
    curve = svd.threshold_curve(model, data, grid, by_layer=False)
    model_there = svd.sparsify(model, threshold)
    error = svd.evaluate(model_there, data.x_valid, data.y_valid)["error"]
    assert error <= curve.error.min() + 0.05 + 1e-12
    lower = curve.error[curve.thresholds < threshold]
    assert lower.size and (lower > curve.error.min() + 0.05).all()


def test_regression_is_measured_by_its_squared_error() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((80, 5)).astype(np.float32)
    y = x[:, :1] - 2 * x[:, 1:2]
    data = Dataset("line", x, y, x[:1], y[:1], None, 0, "made here").split(30)
    model = svd.Sequential(svd.VariationalDense(5, 1), likelihood="gaussian", backend="numpy")
    theta = model.parameters["dense1.theta"]
    theta[...] = [[1], [-2], [0.01], [0.01], [0.01]]
    curve = threshold_curve(model, data, (-9.0, 0.0))  # log_alpha: -10, -11.4, -.8 three times
    assert curve.error[0] == pytest.approx(0, abs=1e-12) and curve.density[0] == pytest.approx(0.4)
    expected = np.mean((0.01 * data.x_valid[:, 2:].sum(axis=1)) ** 2)
    assert curve.error[1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("layer", [None, "dense1", "dense2"])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_a_density_is_met(model: svd.Sequential, density: float, layer: str | None) -> None:
    counts = svd.measure_sparsity(model, threshold_for_density(model, density, layer))
    total = sum(counts.total.values()) if layer is None else counts.total[layer]
    kept = sum(counts.kept.values()) if layer is None else counts.kept[layer]
    assert kept == round(density * total)


def test_equal_weights_are_kept_together() -> None:
    model = svd.Sequential(svd.VariationalDense(10, 10), backend="numpy")
    model.parameters["dense1.theta"][...] = 0.1
    assert svd.measure_sparsity(model, threshold_for_density(model, 0.3)).overall == 0
    model.parameters["dense1.theta"][:, :6] = 0  # log_alpha beyond the largest threshold
    assert svd.measure_sparsity(model, threshold_for_density(model, 0.4)).overall == 0.6


def test_pruned_to_a_density_the_survivors_are_fine_tuned(model: svd.Sequential, data: Dataset) -> None:
    tuned = model.copy()
    threshold = svd.threshold_for_density(tuned, 0.15)
    before = svd.evaluate(svd.sparsify(tuned, threshold), data.x_train, data.y_train)["nll"]
    config = svd.TrainConfig(
        epochs=0, finetune_epochs=20, finetune_lr=0.01, finetune_threshold=threshold, batch_size=30
    )
    history = svd.fit(tuned, data, config, progress=False)
    assert {record["stage"] for record in history} == {"finetune"}
    kept = svd.measure_sparsity(tuned).kept
    assert sum(kept.values()) == round(0.15 * 120)
    for name, alpha in svd.log_alpha(model).items():
        assert (tuned.parameters[f"{name}.theta"][alpha > threshold] == 0).all()
    assert svd.evaluate(tuned, data.x_train, data.y_train)["nll"] < 0.9 * before


def test_the_figure_shows_the_curve(model: svd.Sequential, data: Dataset) -> None:
    curve = threshold_curve(model, data, GRID)
    left, right, layers = curve.plot(chosen=3.0).axes
    np.testing.assert_array_equal(left.lines[0].get_xdata(), GRID)
    np.testing.assert_array_equal(left.lines[0].get_ydata(), curve.error)
    np.testing.assert_array_equal(right.lines[0].get_xdata(), 100 * curve.density)
    assert left.lines[1].get_xdata()[0] == 3.0
    assert [line.get_label() for line in layers.lines] == ["dense1", "dense2"]
    assert len(threshold_curve(model, data, GRID, by_layer=False).plot().axes) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, d: threshold_curve(m, make_data()), ("no validation rows", "data.split")),
        (lambda m, d: svd.select_threshold(m, make_data()), ("no validation rows", "data.split")),
        (lambda m, d: threshold_curve("net", d), ("'net'", "expected a Sequential")),
        (lambda m, d: threshold_curve(m, d, ()), ("got none", "at least one")),
        (lambda m, d: threshold_curve(m, d, (3, 99)), ("99", "expected")),
        (lambda m, d: svd.select_threshold(m, d, tolerance=-1), ("tolerance", "-1", "expected")),
        (lambda m, d: threshold_for_density(m, 1.5), ("density", "1.5", "expected")),
        (lambda m, d: threshold_for_density(m, 0.5, "dense9"), ("'dense9'", "expected one of")),
        (lambda m, d: threshold_for_density(svd.Sequential(svd.Dense(3, 2)), 0.5), ("variational", "expected")),
    ],
)
def test_a_senseless_call_is_refused_with_reason(
    model: svd.Sequential, data: Dataset, call: Any, words: tuple[str, ...]
) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call(model, data)
    for word in words:
        assert word in str(caught.value)
