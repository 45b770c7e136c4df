"""The estimators are scikit-learn's: its own checks, and what is read off a fitted one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, make_regression
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.network.objective import Gaussian
from svd_numpy.tabular.networks import estimate_noise, make_config, make_network, used_inputs
from svd_numpy.train.trainer import Trainer


def _in_other_batches(estimator: Any) -> dict[str, str]:
    """Checks that want the same bits from a repeated row and from a row of weight 2."""
    why = "repeated rows make other batches, with other noise: the objective is the same, the run is not"
    return {f"check_sample_weight_equivalence_on_{kind}_data": why for kind in ("dense", "sparse")}


QUICK: dict[str, Any] = {"epochs": 60, "random_state": 0}


@parametrize_with_checks(
    [svd.SparseVDClassifier(epochs=60), svd.SparseVDRegressor(epochs=60)], expected_failed_checks=_in_other_batches
)
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([svd.SparseVDClassifier(), svd.SparseVDRegressor()], expected_failed_checks=_in_other_batches)
def test_the_checks_of_scikit_learn_with_the_default_budget(estimator: Any, check: Any) -> None:
    check(estimator)


def test_the_classifier_learns_prunes_and_says_which_inputs_it_uses() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(0)
    x = np.hstack([x, rng.standard_normal((len(x), 30))])  # thirty columns that say nothing
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
    model = svd.SparseVDClassifier(kl_weight=4.0, random_state=0).fit(x_train, y_train)
    assert model.score(x_test, y_test) > 0.93
    assert model.sparsity_ > 0.9 and model.compression_ == pytest.approx(1 / (1 - model.sparsity_))
    used = model.selected_features_
    assert used[:30].sum() >= 3 and used[30:].sum() <= 2
    changed = x_test.copy()
    changed[:, ~used] = 1e3 * rng.standard_normal((len(x_test), (~used).sum()))
    np.testing.assert_array_equal(model.predict_proba(changed), model.predict_proba(x_test))


def test_the_regressor_keeps_what_is_significant() -> None:
    """The oracle is least squares with its standard errors: weight 4 keeps what lies about two of them from 0."""
    x, y = make_regression(300, 20, n_informative=4, noise=20.0, random_state=1)
    columns = np.column_stack([np.ones(300), x])
    slopes, (squared,), *_ = np.linalg.lstsq(columns, y, rcond=None)
    noise = np.sqrt(squared / (300 - 21))
    errors = noise * np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))
    t = np.abs(slopes / errors)[1:]
    model = svd.SparseVDRegressor(hidden_sizes=(), kl_weight=4.0, random_state=0).fit(x, y)
    assert (t > 3).sum() == 4 and (t < 1.5).sum() == 11  # the case is not trivial
    assert model.selected_features_[t > 3].all() and not model.selected_features_[t < 1.5].any()
    slope = model.coefs_[0][:, 0] * model.target_scaler_.scale_[0] / model.scaler_.scale_
    np.testing.assert_allclose(slope[t > 3], slopes[1:][t > 3], atol=3 * errors[1:].max())
    assert model.noise_std_[0] == pytest.approx(noise, rel=0.05)


def test_coefs_are_the_network() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((120, 5))
    y = np.column_stack([np.maximum(x[:, 0], 0), x[:, 1] - x[:, 2]])
    model = svd.SparseVDRegressor(hidden_sizes=(12, 6), finetune_epochs=10, **QUICK).fit(x, y)
    hidden = (x - x.mean(axis=0)) / x.std(axis=0)
    for theta, bias in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        hidden = np.maximum(hidden @ theta + bias, 0)
    outputs = hidden @ model.coefs_[-1] + model.intercepts_[-1]
    np.testing.assert_allclose(model.predict(x), outputs * y.std(axis=0) + y.mean(axis=0), rtol=1e-9, atol=1e-9)
    zeros = sum(np.count_nonzero(theta == 0) for theta in model.coefs_)
    assert zeros > 0 and model.sparsity_ == pytest.approx(zeros / (5 * 12 + 12 * 6 + 6 * 2))
    assert model.n_iter_ == 70 and model.noise_std_.shape == (2,)


def test_an_input_behind_a_dead_unit_is_not_used() -> None:
    network = svd.Sequential(svd.VariationalDense(3, 2), svd.ReLU(), svd.VariationalDense(2, 1), likelihood="gaussian")
    network.parameters["dense1.theta"][...] = [[1, 0], [0, 1], [0, 0]]
    network.parameters["dense2.theta"][...] = [[1], [0]]
    np.testing.assert_array_equal(used_inputs(network), [True, False, False])


def test_an_ordinary_network_uses_every_input_that_a_weight_reads() -> None:
    network = svd.Sequential(svd.Dense(4, 3), svd.ReLU(), svd.Dense(3, 1), likelihood="gaussian", backend="numpy")
    np.testing.assert_array_equal(used_inputs(network), [True] * 4)
    network.parameters["dense1.theta"][2] = 0
    np.testing.assert_array_equal(used_inputs(network), [True, True, False, True])


def test_where_nothing_reaches_an_output_no_input_is_used() -> None:
    network = svd.Sequential(svd.VariationalDense(3, 2), svd.ReLU(), svd.VariationalDense(2, 1), likelihood="gaussian")
    network.parameters["dense2.theta"][...] = 0
    np.testing.assert_array_equal(used_inputs(network), [False] * 3)


def test_gates_close_whole_columns_and_units() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 12))
    y = (x[:, 0] - x[:, 1] > 0).astype(int)
    classifier = svd.SparseVDClassifier(hidden_sizes=(16,), gates="ard", kl_weight=2.0, random_state=0).fit(x, y)
    gates = [layer for layer in classifier.model_.layers if isinstance(layer, svd.Gate)]
    columns, units = (~gate.closed() for gate in gates)
    assert columns[:2].all() and columns.sum() < 12 and 0 < units.sum() < 16
    assert not classifier.coefs_[0][~columns].any() and not classifier.coefs_[1][~units].any()
    assert not classifier.selected_features_[~columns].any() and classifier.selected_features_[:2].all()
    hidden = np.maximum(classifier.scaler_.transform(x) @ classifier.coefs_[0] + classifier.intercepts_[0], 0)
    outputs = hidden @ classifier.coefs_[1] + classifier.intercepts_[1]
    np.testing.assert_allclose(outputs, classifier._outputs(x), rtol=1e-6, atol=1e-6)
    assert classifier.score(x, y) > 0.9
    with pytest.raises(svd.SvdValueError, match="gates: got 'magic'"):
        svd.SparseVDRegressor(gates="magic").fit(x, y)


def test_the_baseline_prunes_ordinary_weights_to_the_sparsity_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 12))
    y = (x[:, 0] - x[:, 1] > 0).astype(int)
    rule = svd.GradualMagnitude(start=0.1, stop=0.6, sparsity=0.9, every=10)
    classifier = clone(svd.SparseVDClassifier(hidden_sizes=(16,), pruning=rule, random_state=0)).fit(x, y)
    assert not classifier.model_.variational_layers
    assert round(classifier.sparsity_, 2) == 0.9
    assert sum(np.count_nonzero(coef) for coef in classifier.coefs_) == round(0.1 * (12 * 16 + 16 * 2))
    assert classifier.selected_features_[:2].all() and classifier.score(x, y) > 0.95
    hidden = np.maximum(classifier.scaler_.transform(x) @ classifier.coefs_[0] + classifier.intercepts_[0], 0)
    outputs = hidden @ classifier.coefs_[1] + classifier.intercepts_[1]
    np.testing.assert_allclose(outputs, classifier._outputs(x), rtol=1e-6, atol=1e-6)
    regressor = svd.SparseVDRegressor(hidden_sizes=(), pruning=rule, random_state=0).fit(x, x @ np.arange(12.0))
    assert np.count_nonzero(regressor.coef_) == 1 and regressor.selected_features_[11]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping": True}, "early_stopping: got True with a pruning"),
        ({"finetune_epochs": 3}, "finetune_epochs: got 3"),
        ({"pruning": 0.9}, "pruning: got 0.9"),
    ],
)
def test_what_a_baseline_cannot_do_is_said(options: dict[str, Any], message: str) -> None:
    rule = svd.GradualMagnitude(start=0.1, stop=0.6, sparsity=0.9)
    x, y = np.eye(8), np.arange(8) % 2
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=message):
        svd.SparseVDClassifier(**{"pruning": rule, **options}).fit(x, y)


def test_a_baseline_has_no_partial_fit() -> None:
    rule = svd.GradualMagnitude(start=0.1, stop=0.6, sparsity=0.9)
    with pytest.raises(svd.SvdValueError, match="in partial_fit"):
        svd.SparseVDClassifier(pruning=rule).partial_fit(np.eye(8), np.arange(8) % 2, classes=[0, 1])


@pytest.mark.parametrize("labels", [["no", "yes", "perhaps"], [-1.0, 0.5, 7.0], [True, False]])
def test_labels_of_any_kind(labels: list[Any]) -> None:
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(labels), 150)
    x = rng.standard_normal((150, 3)) + 6 * np.eye(3)[which]
    y = np.array(labels)[which]
    if y.dtype.kind == "f":
        with pytest.raises(ValueError, match="Unknown label type: continuous"):
            svd.SparseVDClassifier(**QUICK).fit(x, y)
        return
    model = svd.SparseVDClassifier(**QUICK).fit(x, y)
    assert model.score(x, y) > 0.97 and model.predict(x).dtype == y.dtype
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.classes_[model.predict_proba(x).argmax(axis=1)], model.predict(x))


def test_in_a_pipeline_and_a_grid_search() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 3))
    y = x[:, 0] * x[:, 1] + 0.1 * rng.standard_normal(90)
    pipeline = make_pipeline(
        PolynomialFeatures(2, include_bias=False), svd.SparseVDRegressor(hidden_sizes=(), epochs=150, random_state=0)
    )
    search = GridSearchCV(pipeline, {"sparsevdregressor__kl_weight": [8.0, 1e3]}, cv=3).fit(x, y)
    assert search.best_params_ == {"sparsevdregressor__kl_weight": 8.0} and search.best_score_ > 0.9
    names = search.best_estimator_[0].get_feature_names_out()
    assert list(names[search.best_estimator_[-1].selected_features_]) == ["x0 x1"]


def test_the_seed_decides() -> None:
    x, y = make_regression(60, 5, random_state=0)
    first, again, other = (
        svd.SparseVDRegressor(epochs=20, random_state=seed).fit(x, y).predict(x) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_kl_weight_is_a_factor_on_the_schedule() -> None:
    plain, double = (make_config(100, epochs=20, kl_weight=weight) for weight in (1.0, 2.0))
    assert plain.kl_schedule == double.kl_schedule == ((2.0, 0.0), (10.0, 1.0))
    assert (plain.kl_weight, double.kl_weight) == (1.0, 2.0)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_copy_predicts_the_same(backend: str) -> None:
    x, y = make_regression(60, 5, random_state=0)
    model = svd.SparseVDRegressor(epochs=10, backend=backend, random_state=1).fit(x, y)
    twin = copy.deepcopy(model)
    assert twin.model_ is not model.model_ and twin.model_.backend.name == backend
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    twin.model_.parameters["dense1.theta"][...] = 0
    assert not np.array_equal(twin.predict(x), model.predict(x))
    assert not hasattr(clone(model), "model_")


def test_large_networks_go_to_the_fast_backend() -> None:
    small, large = (make_network(100, (units,), 1, likelihood="gaussian", seed=0) for units in (100, 1000))
    assert (small.backend.name, small.dtype.name) == ("numpy", "float64")
    assert large.backend.name == svd.Sequential(svd.VariationalDense(2, 2)).backend.name


def test_the_noise_that_is_estimated_maximises_the_bound() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 4))
    y = np.column_stack([x[:, 0], 0.5 * rng.standard_normal(50)])
    data = Dataset("line", x, y, x, y, None, 0, "made here")
    model = make_network(4, (), 2, likelihood=Gaussian(3.0), seed=0)
    trainer = Trainer(model, data, svd.TrainConfig(epochs=2, batch_size=50))
    estimate_noise(trainer, {"stage": "variational", "train_error": 0.72})
    std = model.likelihood.std
    assert std == pytest.approx(0.6)  # 0.72 over two outputs: 0.36

    def nll(std: float) -> float:
        return float(0.72 / (2 * std**2) + 2 * np.log(std))

    assert nll(std) < min(nll(0.99 * std), nll(1.01 * std))
    estimate_noise(trainer, {"stage": "finetune", "train_error": 0.1})
    assert model.likelihood.std == std
    estimate_noise(trainer, {"stage": "variational", "train_error": 0.0})
    assert model.likelihood.std == 0.05


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"early_stopping": 1}, ("early_stopping", "1", "expected")),
        ({"early_stopping": True, "validation_fraction": 2}, ("validation_fraction", "2", "expected")),
        ({"early_stopping": True, "n_iter_no_change": 0}, ("n_iter_no_change", "0", "expected")),
        ({"hidden_sizes": (0,)}, ("hidden_sizes", "0", "expected")),
        ({"hidden_sizes": (2.5,)}, ("hidden_sizes", "2.5", "expected")),
        ({"epochs": 0}, ("epochs", "0", "expected")),
        ({"batch_size": -1}, ("batch_size", "-1", "expected")),
        ({"lr": "fast"}, ("lr", "'fast'", "expected")),
        ({"kl_weight": -1.0}, ("kl_weight", "-1", "expected")),
        ({"kl_weight": 1001.0}, ("kl_weight", "1001", "expected")),
        ({"prior": "flat"}, ("'flat'", "expected")),
        ({"threshold": 100.0}, ("threshold", "100", "expected")),
        ({"finetune_epochs": -1}, ("finetune_epochs", "-1", "expected")),
        ({"backend": "tpu"}, ("'cuda'", "expected")),
    ],
)
def test_a_senseless_parameter_is_refused_by_fit(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    x, y = make_regression(20, 3, random_state=0)
    with pytest.raises((ValueError, TypeError)) as caught:
        svd.SparseVDRegressor(**changes).fit(x, y)
    for word in words:
        assert word in str(caught.value)


def test_inner_scalers_give_arrays_whatever_scikit_learn_is_set_to() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    with config_context(transform_output="pandas"):
        classifier = svd.SparseVDClassifier(epochs=2, random_state=0).fit(x, y > 0)
        regressor = svd.SparseVDRegressor(epochs=2, random_state=0).fit(x, y)
        inside = classifier.predict_proba(x), regressor.predict(x)
    for one, other in zip(inside, (classifier.predict_proba(x), regressor.predict(x)), strict=True):
        assert type(one) is np.ndarray
        np.testing.assert_array_equal(one, other)


def test_one_number_is_one_hidden_layer() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    options = {"epochs": 1, "random_state": 0}
    one, other = (svd.SparseVDClassifier(hidden_sizes=sizes, **options).fit(x, x[:, 0] > 0) for sizes in (8, (8,)))
    assert [coef.shape for coef in one.coefs_] == [(3, 8), (8, 2)]
    np.testing.assert_array_equal(one.predict_proba(x), other.predict_proba(x))
    for wrong in (0, "8", None, 2.5, (8, "8")):
        with pytest.raises(svd.SvdError, match="hidden_sizes"):
            svd.SparseVDClassifier(hidden_sizes=wrong, **options).fit(x, x[:, 0] > 0)


def test_importances_are_those_of_the_paths_and_select_features() -> None:
    x, y = make_regression(200, 8, n_informative=3, noise=1.0, random_state=2)
    linear = svd.SparseVDRegressor(hidden_sizes=(), kl_weight=4.0, random_state=0).fit(x, y)
    weights = np.abs(linear.coefs_[0][:, 0])
    np.testing.assert_allclose(linear.feature_importances_, weights / weights.sum())
    deep = svd.SparseVDRegressor(hidden_sizes=(9, 7), **QUICK).fit(x, y)
    a, b, c = (np.abs(weights) for weights in deep.coefs_)
    paths = np.einsum("ij,jk,ko->i", a, b, c) * deep.selected_features_
    np.testing.assert_allclose(deep.feature_importances_, paths / paths.sum())
    informative = set(np.flatnonzero(np.abs(np.corrcoef(x.T, y)[-1, :-1]) > 0.25))
    for selector in (SelectFromModel(linear, max_features=3, threshold=-np.inf), RFE(linear, n_features_to_select=3)):
        assert set(np.flatnonzero(selector.fit(x, y).get_support())) >= informative
    nothing = svd.SparseVDRegressor(hidden_sizes=(), kl_weight=1000.0, random_state=0).fit(x, 0 * y + x[:, 0] * 1e-9)
    assert np.isfinite(nothing.feature_importances_).all()


@pytest.mark.parametrize("kind", [svd.SparseVDClassifier, svd.SparseVDRegressor])
def test_a_row_of_weight_0_is_not_there(kind: Any) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((80, 4)), rng.integers(0, 3, 80)
    y = x[:, 0] + (0 if kind is svd.SparseVDRegressor else rng.standard_normal(80))
    y = y if kind is svd.SparseVDRegressor else (y > 0).astype(int)
    x[weights == 0] *= 50
    one = kind(epochs=3, random_state=0).fit(x, y, sample_weight=weights)
    other = kind(epochs=3, random_state=0).fit(x[weights > 0], y[weights > 0], weights[weights > 0])
    np.testing.assert_array_equal(one.predict(x), other.predict(x))
    np.testing.assert_allclose(one.scaler_.mean_, np.average(x, axis=0, weights=weights))
    with pytest.raises(svd.SvdValueError, match="sample_weight: got -1 to 1, expected numbers >= 0"):
        kind().fit(x, y, sample_weight=weights - 1)


def test_weights_decide_between_rows_that_contradict_each_other() -> None:
    """The oracle is weighted least squares, noise included."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 3))
    y = np.where(np.arange(400) < 200, 3 * x[:, 0], -2 * x[:, 1]) + 0.3 * rng.standard_normal(400)
    weights = np.where(np.arange(400) < 200, 9.0, 1.0)
    columns = np.column_stack([np.ones(400), x])
    slopes = np.linalg.lstsq(columns * np.sqrt(weights)[:, None], y * np.sqrt(weights), rcond=None)[0]
    noise = np.sqrt(np.average((y - columns @ slopes) ** 2, weights=weights))
    model = svd.SparseVDRegressor((), kl_weight=0.01, epochs=300, random_state=0).fit(x, y, sample_weight=weights)
    slope = model.coefs_[0][:, 0] * model.target_scaler_.scale_[0] / model.scaler_.scale_
    np.testing.assert_allclose(slope, slopes[1:], atol=0.05)
    assert model.noise_std_[0] == pytest.approx(noise, rel=0.05)


def test_balanced_classes() -> None:
    """One class in ten: balanced weights make it as frequent as the other. The oracle is logistic regression."""
    rng = np.random.default_rng(0)
    y = np.array(["rare"] * 60 + ["common"] * 540)
    x = rng.standard_normal((600, 2)) + 1.5 * (y == "rare")[:, None]
    odds = {}
    for name, weight in {"plain": None, "balanced": "balanced", "dict": {"rare": 5.0, "common": 5 / 9}}.items():
        model = svd.SparseVDClassifier((), epochs=150, kl_weight=0.01, random_state=0, class_weight=weight).fit(x, y)
        oracle = LogisticRegression(C=1e6, class_weight=weight).fit(x, y)
        odds[name] = np.subtract(*np.log(model.predict_proba(x)).T)
        np.testing.assert_allclose(odds[name], -oracle.decision_function(x), atol=0.4)
    np.testing.assert_allclose(odds["balanced"], odds["dict"], rtol=1e-6)
    assert np.median(odds["plain"] - odds["balanced"]) > 1.5


@pytest.mark.parametrize("finetune_epochs", [0, 200])
def test_it_stops_early(finetune_epochs: int) -> None:
    x, y = make_regression(200, 10, n_informative=3, noise=50.0, random_state=0)
    settings = {"epochs": 100, "finetune_epochs": finetune_epochs, "random_state": 0}
    model = svd.SparseVDRegressor(early_stopping=True, validation_fraction=0.25, n_iter_no_change=5, **settings)
    watched_from = 100 if finetune_epochs else 50
    assert watched_from + 5 < model.fit(x, y).n_iter_ < 100 + finetune_epochs
    assert svd.SparseVDRegressor(**settings).fit(x, y).n_iter_ == 100 + finetune_epochs
    again = clone(model).fit(x, y)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


def test_a_sparse_matrix_is_a_table() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5)) * (rng.random((60, 5)) < 0.3)
    for kind in (svd.SparseVDClassifier, svd.SparseVDRegressor):
        y = x[:, 0] > 0 if kind is svd.SparseVDClassifier else x[:, 0]
        one, other = (kind(epochs=3, random_state=0).fit(rows, y) for rows in (csr_matrix(x), x))
        np.testing.assert_allclose(one.coefs_[0], other.coefs_[0], rtol=1e-6, atol=1e-9)
        for rows in (x, csr_matrix(x)):
            np.testing.assert_allclose(one.predict(rows).astype(float), other.predict(rows).astype(float), rtol=1e-6)
        np.testing.assert_allclose(one.scaler_.mean_, x.mean(axis=0))
        assert (one.selected_features_ == other.selected_features_).all()
