"""Sparse VD behind scikit-learn's interface: a classifier and a regressor for tables.

>>> from svd_numpy import SparseVDClassifier
>>> SparseVDClassifier(random_state=0).fit(X, y).selected_features_    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from svd_numpy.checks import SvdValueError
from svd_numpy.network.objective import Gaussian
from svd_numpy.tabular.base import Array, SparseVD, standardiser, weighted
from svd_numpy.train.pruning import Pruning

_DRAWS = 100  # networks from the posterior, for the spread of a prediction
_TARGETS: dict[str, Any] = {"accept_sparse": "csr", "y_numeric": True, "multi_output": True}


def _encoded(y: Array, classes: Array) -> NDArray[np.int64]:
    """Return the place of each label among the classes."""
    if not np.isin(y, classes).all():
        unknown = np.setdiff1d(y, classes)
        raise SvdValueError(f"y: got the labels {unknown.tolist()}, expected those known already, {classes.tolist()}")
    return np.searchsorted(classes, y).astype(np.int64)


class SparseVDClassifier(ClassifierMixin, SparseVD):  # type: ignore[misc]
    """Classifier that prunes its own weights (Molchanov, Ashukha, Vetrov 2017).

    Labels may be of any kind; `classes_`, array (n_classes,), holds the different ones.
    """

    classes_: Array

    def __init__(
        self,
        hidden_sizes: int | Sequence[int] = (64,),
        epochs: int | None = None,
        batch_size: int = 50,
        lr: float = 0.01,
        kl_weight: float = 1.0,
        prior: str = "log_uniform",
        threshold: float = 3.0,
        finetune_epochs: int = 0,
        backend: str = "auto",
        random_state: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        remove_above: float | None = None,
        gates: str | None = None,
        pruning: Pruning | None = None,
        class_weight: Any = None,
    ) -> None:
        super().__init__(
            hidden_sizes, epochs, batch_size, lr, kl_weight, prior, threshold, finetune_epochs, backend, random_state,
            early_stopping, validation_fraction, n_iter_no_change, warm_start, remove_above, gates, pruning,
        )  # fmt: skip
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseVDClassifier:
        """Train on X (N, I) and labels y (N,); weights (N,) say how much each row counts (`Dataset.weights`)."""
        x, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(y)
        weights, x, y = self._counted(sample_weight, x, y)
        classes = np.unique(y) if self._start is None else self.classes_
        if len(classes) < 2:
            raise SvdValueError(f"y: got one class, {classes[0]!r}, expected at least two classes")
        labels = _encoded(y, classes)
        self._train(x, labels, weights, len(classes), len(classes), "categorical")
        self.classes_ = classes
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None, n_rows: int | None = None
    ) -> SparseVDClassifier:
        """Go on training, with one pass over these rows at a constant learning rate.

        Lower `lr` (`set_params`) towards the end: at a high rate, weights move about by more than their sigma, and few
        are pruned.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. The first call decides how columns are standardised, so its rows should be typical.
        classes : array, optional
            All labels that there will ever be; needed in the first call.
        n_rows : int, optional
            Number of different rows in all calls, among which the KL is shared. Default: all rows seen so far, which is
            right unless rows come again. The KL sets in slowly, over the first 750 steps.
        """
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise SvdValueError("classes: got None in the first call of partial_fit, expected all labels there will be")
        if self.class_weight == "balanced":
            raise SvdValueError(
                'class_weight: got "balanced", but partial_fit does not know how frequent classes will be; '
                "give a dict of label -> weight"
            )
        x, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, reset=first)
        check_classification_targets(y)
        known = np.unique(classes) if first else self.classes_
        if classes is not None and not np.array_equal(np.unique(classes), known):
            raise SvdValueError(f"classes: got {np.unique(classes)}, expected those of the first call, {known}")
        if len(known) < 2:
            raise SvdValueError(f"classes: got {known}, expected at least two")
        weights, x, y = self._counted(sample_weight, x, y)
        self._pass(x, _encoded(y, known), weights, len(known), len(known), "categorical", n_rows)
        self.classes_ = known
        return self

    def _counted(self, sample_weight: Any, x: Array, y: Array) -> tuple[Array | None, Array, Array]:
        """Return the weights of rows, those of their classes included, and the rows that count."""
        weights, x, (y,) = weighted(sample_weight, x, y)
        if self.class_weight is not None:
            of_class = compute_sample_weight(self.class_weight, y)
            weights, x, (y,) = weighted(of_class if weights is None else weights * of_class, x, y)
        return weights, x, y

    @property
    def coef_(self) -> Array:
        """Slopes of the log odds, (1, I) for two classes, else (n_classes, I)."""
        slopes, _ = self._linear()
        return slopes[1:] - slopes[:1] if len(slopes) == 2 else slopes

    @property
    def intercept_(self) -> Array:
        """Intercepts of the log odds, (1,) for two classes, else (n_classes,)."""
        _, intercepts = self._linear()
        return intercepts[1:] - intercepts[:1] if len(intercepts) == 2 else intercepts

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (N, n_classes) of the pruned network, columns as in `classes_`."""
        logits = self._outputs(X)
        return self.model_.likelihood.mean(logits)

    def predict(self, X: Any) -> Array:
        """Labels (N,): the most probable class."""
        best = self._outputs(X).argmax(axis=1)
        return self.classes_[best]


class SparseVDRegressor(RegressorMixin, SparseVD):  # type: ignore[misc]
    """Regressor that prunes its own weights (Molchanov, Ashukha, Vetrov 2017).

    Targets are standardised internally. The std of their noise is estimated during training; `noise_std_`, array
    (n_targets,), holds it in the units of y.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseVDRegressor:
        """Train on X (N, I) and targets y, (N,) or (N, n_targets); weights (N,) say how much each row counts."""
        x, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2, **_TARGETS)
        weights, x, (y,) = weighted(sample_weight, x, y)
        targets = y.reshape(len(y), -1).astype(np.float64)
        start = self._start
        scaler = standardiser(targets, weights) if start is None else self.target_scaler_
        likelihood = Gaussian(1.0) if start is None else start.likelihood
        self._train(x, scaler.transform(targets), weights, 0, targets.shape[1], likelihood)
        return self._finished(scaler, y.ndim == 1)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, n_rows: int | None = None) -> SparseVDRegressor:
        """Go on training, with one pass over these rows at a constant learning rate.

        Lower `lr` (`set_params`) towards the end: at a high rate, weights move about by more than their sigma, and few
        are pruned.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. The first call decides how columns and targets are standardised, so its rows should be typical.
        n_rows : int, optional
            Number of different rows in all calls, among which the KL is shared. Default: all rows seen so far, which is
            right unless rows come again. The KL sets in slowly, over the first 750 steps.
        """
        first = not hasattr(self, "model_")
        x, y = validate_data(self, X, y, dtype=np.float64, reset=first, **_TARGETS)
        weights, x, (y,) = weighted(sample_weight, x, y)
        targets = y.reshape(len(y), -1).astype(np.float64)
        if not first and targets.shape[1] != self.model_.n_outputs:
            raise SvdValueError(f"y: got {targets.shape[1]} targets, expected {self.model_.n_outputs} as before")
        scaler = standardiser(targets, weights) if first else self.target_scaler_
        self._pass(x, scaler.transform(targets), weights, 0, targets.shape[1], Gaussian(1.0), n_rows)
        return self._finished(scaler, y.ndim == 1)

    def _finished(self, scaler: Any, flat: bool) -> SparseVDRegressor:
        """Record how targets are standardised, and their noise."""
        assert isinstance(self.model_.likelihood, Gaussian)
        self.target_scaler_, self._flat = scaler, flat
        self.noise_std_ = self.model_.likelihood.std * scaler.scale_
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Targets in the shape that `fit` was given: (N,) or (N, n_targets).

        With `return_std`, a pair of the targets and of their standard deviations: of the outputs of 100 networks drawn
        from the posterior, and of the noise, together. After fine-tuning, hardly more than the noise is left.
        """
        outputs = self._outputs(X)
        targets = self.target_scaler_.inverse_transform(outputs)
        if not return_std:
            return self._shaped(targets)
        of_weights = np.concatenate([self.model_.sample(rows, _DRAWS).var(axis=0) for rows in self._rows(X)])
        std = np.sqrt(of_weights * self.target_scaler_.scale_**2 + self.noise_std_**2)
        return self._shaped(targets), self._shaped(std)

    def _shaped(self, targets: Array) -> Array:
        return targets[:, 0] if self._flat else targets

    @property
    def coef_(self) -> Array:
        """Slopes (I,), or (n_targets, I) where `fit` was given several targets."""
        slopes = self._linear()[0] * self.target_scaler_.scale_[:, None]
        return slopes[0] if self._flat else slopes

    @property
    def intercept_(self) -> Any:
        """The target where all columns are 0, or (n_targets,)."""
        intercepts = self._linear()[1] * self.target_scaler_.scale_ + self.target_scaler_.mean_
        return float(intercepts[0]) if self._flat else intercepts

    def __sklearn_tags__(self) -> Any:
        """Say that several targets at once will do, too."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
