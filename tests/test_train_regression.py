"""The regression experiment: fair splits, standardised rows, errors in the units of the target."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.experiments.regression import RegressionResult, split_again, standardise


@pytest.fixture(scope="module")
def result() -> RegressionResult:
    """A linear model of the diabetes table."""
    return svd.train_regression(hidden_sizes=(), kl_weight=0.0, progress=False)


def test_a_linear_network_without_kl_is_least_squares(result: RegressionResult) -> None:
    data, target_std = standardise(split_again(svd.load("diabetes"), 0))
    fitted = LinearRegression().fit(data.x_train, data.y_train)
    residual = fitted.predict(data.x_test) - data.y_test
    assert result.test_rmse == pytest.approx(target_std * np.sqrt(np.mean(residual**2)), rel=0.01)
    assert result.weights == (10, 10)


def test_the_figures_are_in_the_units_of_the_target(result: RegressionResult) -> None:
    raw = split_again(svd.load("diabetes"), 0)
    predicted = result.model.predict(result.data.x_test) * raw.y_train.std() + raw.y_train.mean()
    assert result.test_rmse == pytest.approx(float(np.sqrt(np.mean((predicted - raw.y_test) ** 2))), rel=1e-5)
    assert result.train_rmse < result.test_rmse < raw.y_test.std()
    assert result.noise_std == pytest.approx(result.train_rmse, rel=0.05)
    figures = result.to_dict()
    assert json.loads(json.dumps(figures)) == figures
    assert repr(result) == f"<RegressionResult: Sparse VD on diabetes, RMSE {result.test_rmse:.3f}>"
    assert f"RMSE {result.test_rmse:.3f} on 89 test rows" in str(result) and "NOTE" not in str(result)


def test_the_kl_weight_prunes() -> None:
    free, pruned = (svd.train_regression(kl_weight=weight, progress=False) for weight in (0.01, 4.0))
    assert free.weights[1] == pruned.weights[1] == 10 * 150 + 150
    assert pruned.weights[0] < 0.05 * 1650 < 0.5 * 1650 < free.weights[0]
    assert pruned.test_rmse < free.test_rmse  # the table is too small for 1,650 weights
    assert pruned.used.sum() < 10 and f"{pruned.used.sum()} of 10 inputs used" in str(pruned)


def test_a_dense_network_keeps_everything() -> None:
    dense = svd.train_regression(kind="dense", epochs=20, progress=False)
    figures = dense.to_dict()
    assert (figures["weights_kept"], figures["sparsity"], figures["inputs_used"]) == (1650, 0.0, 10)
    assert "kept" not in str(dense) and str(dense).startswith("Dense network on diabetes, seed 0")


def test_each_seed_splits_all_rows_anew() -> None:
    raw = svd.load("diabetes")
    everything = np.sort(np.vstack([raw.x_train, raw.x_test]), axis=0)
    splits = [split_again(raw, seed) for seed in (0, 0, 1)]
    for data in splits:
        assert (len(data.x_train), len(data.x_test)) == (353, 89)
        np.testing.assert_array_equal(np.sort(np.vstack([data.x_train, data.x_test]), axis=0), everything)
    np.testing.assert_array_equal(splits[0].x_test, splits[1].x_test)
    assert not np.array_equal(splits[0].x_test, splits[2].x_test)


def test_only_training_rows_standardise() -> None:
    rng = np.random.default_rng(0)
    x, y = 5 + 3 * rng.standard_normal((50, 2)), 7 + 2 * rng.standard_normal((50, 1))
    data, std = standardise(Dataset("own", x[:40], y[:40], x[40:], y[40:], None, 0, "made here"))
    assert std == pytest.approx(y[:40].std())
    np.testing.assert_allclose(data.x_train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.x_train.std(axis=0), 1)
    np.testing.assert_allclose(data.x_test, (x[40:] - x[:40].mean(axis=0)) / x[:40].std(axis=0))
    np.testing.assert_allclose(data.y_test, (y[40:] - y[:40].mean()) / std)


def test_validation_rows_are_standardised_as_well() -> None:
    rng = np.random.default_rng(0)
    x, y = 5 + 3 * rng.standard_normal((50, 2)), 7 + 2 * rng.standard_normal((50, 1))
    part = Dataset("own", x[:40], y[:40], x[40:], y[40:], None, 0, "made here").split(10)
    data, std = standardise(part)
    assert part.x_valid is not None and part.y_valid is not None
    np.testing.assert_allclose(data.x_valid, (part.x_valid - part.x_train.mean(axis=0)) / part.x_train.std(axis=0))
    np.testing.assert_allclose(data.y_valid, (part.y_valid - part.y_train.mean()) / std)


@pytest.mark.skipif("SVD_NUMPY_DATA" not in os.environ, reason="Boston is never downloaded; set SVD_NUMPY_DATA")
def test_boston_comes_with_its_note(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        result = svd.train_regression(dataset="boston", epochs=2)
    except svd.DataError as error:
        pytest.skip(str(error).splitlines()[0])
    assert result.weights[1] == 13 * 150 + 150
    assert "racial segregation" in str(result) and "racial segregation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "digits"}, ("'digits'", "expected a table")),
        ({"dataset": "california"}, ("'california'", "expected one of")),
        ({"kind": "dropout"}, ("'dropout'", "expected one of")),
        ({"kl_weight": -1.0}, ("kl_weight", "-1", "expected")),
        ({"kl_weight": 2.0, "kind": "dense"}, ("kl_weight", "2", "has no KL")),
        ({"hidden_sizes": (0,)}, ("hidden_sizes", "0", "expected")),
        ({"epochs": 0}, ("epochs", "0", "expected")),
        ({"seed": -1}, ("seed", "-1", "expected")),
        ({"progress": "bar"}, ("progress", "'bar'", "expected")),
    ],
)
def test_a_senseless_call_is_refused_with_reason(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        svd.train_regression(**{"epochs": 1, **changes})
    for word in words:
        assert word in str(caught.value)
