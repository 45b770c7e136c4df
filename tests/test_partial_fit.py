"""Estimators that go on learning, and what a fitted one says: slopes, spread, chosen columns."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import load_iris, make_regression
from sklearn.feature_selection import RFE, SelectFromModel

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.tabular.networks import make_network


def line(rows: int, seed: int = 0, columns: int = 6) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) * np.linspace(0.1, 10, columns) + 3
    return x, 20 * x[:, 0] - 0.5 * x[:, 5] + 7 + 0.3 * rng.standard_normal(rows)


# --- What a linear model says ---


def test_coef_and_intercept_are_the_prediction() -> None:
    x, y = line(150)
    model = svd.SparseVDRegressor((), epochs=60, random_state=0).fit(x, y)
    assert model.coef_.shape == (6,) and isinstance(model.intercept_, float)
    np.testing.assert_allclose(x @ model.coef_ + model.intercept_, model.predict(x), rtol=1e-9)
    assert (model.coef_ == 0).any() and ((model.coef_ != 0) == model.selected_features_).all()
    both = svd.SparseVDRegressor((), epochs=60, random_state=0).fit(x, np.column_stack([y, x[:, 1]]))
    assert both.coef_.shape == (2, 6) and both.intercept_.shape == (2,)
    np.testing.assert_allclose(x @ both.coef_.T + both.intercept_, both.predict(x), rtol=1e-9)


def test_coef_and_intercept_are_the_log_odds() -> None:
    x, y = load_iris(return_X_y=True)
    three = svd.SparseVDClassifier((), epochs=20, random_state=0).fit(x, y)
    assert three.coef_.shape == (3, 4) and three.intercept_.shape == (3,)
    scores, logs = x @ three.coef_.T + three.intercept_, np.log(three.predict_proba(x))
    np.testing.assert_allclose(np.diff(scores), np.diff(logs), atol=1e-9)
    two = svd.SparseVDClassifier((), epochs=20, random_state=0).fit(x, y == 1)
    assert two.coef_.shape == (1, 4) and two.intercept_.shape == (1,)
    np.testing.assert_allclose(x @ two.coef_.T + two.intercept_, np.diff(np.log(two.predict_proba(x))), atol=1e-9)


def test_a_deep_network_has_no_coef() -> None:
    x, y = line(40)
    model = svd.SparseVDRegressor((3,), epochs=2)
    for _ in range(2):
        assert not hasattr(model, "coef_") and not hasattr(model, "intercept_")
        model.fit(x, y)


def test_the_spread_is_that_of_weights_and_noise() -> None:
    """Of a linear model it is known: the sum of x^2 sigma^2, and the variance of the noise."""
    x, y = line(60)
    model = svd.SparseVDRegressor((), epochs=100, random_state=0).fit(x, y)
    far = x * np.linspace(1, 40, 60)[:, None]
    mean, std = model.predict(far, return_std=True)
    np.testing.assert_array_equal(mean, model.predict(far))
    sigma2 = np.exp(model.model_.parameters["dense1.log_sigma2"][:, 0])
    of_weights = (model.scaler_.transform(far) ** 2 @ sigma2) * model.target_scaler_.scale_**2
    expected = np.sqrt(of_weights + model.noise_std_**2)
    assert std.shape == mean.shape and expected.max() > 3 * expected.min()
    np.testing.assert_allclose(std, expected, rtol=0.35)  # from a hundred draws
    assert np.mean(std / expected) == pytest.approx(1, abs=0.05)
    _, both = svd.SparseVDRegressor((), epochs=3).fit(x, np.column_stack([y, y])).predict(x, return_std=True)
    assert both.shape == (60, 2)


def test_selectors_take_it_as_it_comes_with_pandas_in_and_out() -> None:
    """A linear model is read by its `coef_`, another one by its `feature_importances_`."""
    pandas = pytest.importorskip("pandas")
    x, y = line(200)
    table = pandas.DataFrame(x, columns=[f"c{i}" for i in range(6)])
    for hidden_sizes in ((), (10,)):
        model = svd.SparseVDRegressor(hidden_sizes, epochs=80, kl_weight=4.0, random_state=0)
        chosen = SelectFromModel(model, threshold=1e-9).set_output(transform="pandas").fit(table, y).transform(table)
        assert {"c0", "c5"} <= set(chosen.columns) and len(chosen.columns) < 6
    ranked = RFE(model.set_params(hidden_sizes=()), n_features_to_select=2).set_output(transform="pandas")
    assert list(ranked.fit(table, y).transform(table).columns) == ["c0", "c5"]


# --- Going on ---


def test_calls_of_partial_fit_are_epochs() -> None:
    """Before the KL sets in, three calls are three epochs at a constant rate, bit for bit."""
    x, y = load_iris(return_X_y=True)
    model = svd.SparseVDClassifier((5,), batch_size=40, random_state=3)
    for _ in range(3):
        model.partial_fit(x, y, classes=[0, 1, 2])
    seed = int(np.random.RandomState(3).randint(2**31 - 1))
    rows = (x - x.mean(axis=0)) / x.std(axis=0)
    oracle = make_network(4, (5,), 3, likelihood="categorical", seed=seed)
    data = Dataset("iris", model.scaler_.transform(x), y, rows[:0], y[:0], None, 3, "")
    config = svd.TrainConfig(epochs=3, batch_size=40, lr=0.01, kl_schedule=((0, 0),), seed=seed)
    svd.fit(oracle, data, config, progress=False)
    for name, array in oracle.parameters.items():
        np.testing.assert_array_equal(model.model_.parameters[name], array, err_msg=name)
    assert model.n_iter_ == 3 and model.n_samples_seen_ == 450


def test_a_stream_is_learnt_and_pruned() -> None:
    """The oracle is least squares on everything at once."""
    model = svd.SparseVDRegressor((), batch_size=20, kl_weight=4.0, random_state=0)
    batches = [line(100, seed) for seed in range(250)]
    for number, (x, y) in enumerate(batches):
        model.set_params(lr=0.01 if number < 200 else 0.0005)
        model.partial_fit(x, y, n_rows=1000)
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    slopes = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    np.testing.assert_allclose(model.coef_ * x.std(axis=0), slopes[:6] * x.std(axis=0), atol=0.05)
    assert model.selected_features_[[0, 5]].all() and model.selected_features_.sum() < 6
    assert model.noise_std_[0] == pytest.approx(0.3, rel=0.2) and model.n_samples_seen_ == 25_000


def test_no_noise_comes_twice_when_batches_differ_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    operations = svd.Trainer.operations

    def noted(self: Any, backend: Any, step: int, rows: Any, count: int, noise: int) -> Any:
        steps.append(noise)
        return operations(self, backend, step, rows, count, noise)

    monkeypatch.setattr(svd.Trainer, "operations", noted)
    model = svd.SparseVDRegressor((2,), batch_size=10, random_state=0)
    model.fit(*line(25))
    for rows in (31, 7, 100, 1, 55):
        model.partial_fit(*line(rows))
    assert len(set(steps)) == len(steps) and steps == sorted(steps)


def test_partial_fit_goes_on_after_fit_and_in_a_copy() -> None:
    x, y = line(80)
    model = svd.SparseVDRegressor((4,), epochs=30, random_state=0).fit(x, y)
    before = model.model_.parameters["dense1.theta"].copy()
    twin = copy.deepcopy(model)
    model.partial_fit(x, y, n_rows=80)
    twin.partial_fit(csr_matrix(x), y, n_rows=80)
    assert 0 < np.abs(model.model_.parameters["dense1.theta"] - before).max() < 0.3
    assert np.abs(twin.predict(x) - model.predict(x)).max() < 3 * y.std()
    assert model.n_iter_ == 31 and model.n_samples_seen_ == 160


@pytest.mark.parametrize("kind", [svd.SparseVDClassifier, svd.SparseVDRegressor])
def test_a_warm_start_begins_where_the_last_fit_ended(kind: Any) -> None:
    x, y = line(80)
    y = (y > np.median(y)).astype(int) if kind is svd.SparseVDClassifier else y
    model = kind((4,), epochs=20, random_state=0).fit(x, y)
    before = {name: array.copy() for name, array in model.model_.parameters.items()}
    model.set_params(warm_start=True, lr=0.0, epochs=1).fit(x + 1, y)
    for name, array in model.model_.parameters.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    np.testing.assert_allclose(model.scaler_.mean_, x.mean(axis=0))
    cold = model.set_params(warm_start=False).fit(x, y)
    assert not np.array_equal(cold.model_.parameters["dense1.theta"], before["dense1.theta"])


def test_what_does_not_fit_what_was_before_is_refused() -> None:
    x, y = load_iris(return_X_y=True)
    model = svd.SparseVDClassifier((3,), epochs=1)
    with pytest.raises(svd.SvdValueError, match=r"classes: got None in the first call"):
        model.partial_fit(x, y)
    with pytest.raises(svd.SvdValueError, match=r"y: got the labels \[2\], expected those known already, \[0, 1\]"):
        model.partial_fit(x, y, classes=[0, 1])
    assert not hasattr(model, "model_") and not hasattr(model, "classes_")
    model.partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(svd.SvdValueError, match=r"classes: got \[0 1\], expected those of the first call"):
        model.partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.partial_fit(x[:, :3], y)
    with pytest.raises(svd.SvdValueError, match="n_rows: got 10"):
        model.partial_fit(x, y, n_rows=10)
    with pytest.raises(svd.SvdValueError, match='class_weight: got "balanced"'):
        model.set_params(class_weight="balanced").partial_fit(x, y)
    with pytest.raises(svd.SvdValueError, match="init_from: "):
        model.set_params(class_weight=None, warm_start=True).fit(x[:, :3], y)
    with pytest.raises(svd.SvdValueError, match=r"y: got the labels \[3\]"):
        model.fit(x, y + 1)
    regressor = svd.SparseVDRegressor((3,), epochs=1).partial_fit(x, x[:, :2])
    with pytest.raises(svd.SvdValueError, match="y: got 1 targets, expected 2 as before"):
        regressor.partial_fit(x, y)


def test_regression_needs_rows_that_differ() -> None:
    x, y = make_regression(30, 3, random_state=0)
    one = svd.SparseVDRegressor((2,), random_state=0).partial_fit(x[:1], y[:1])
    assert np.isfinite(one.partial_fit(x, y).predict(x)).all()
