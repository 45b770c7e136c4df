"""Sparse VD behind scikit-learn's interface: a classifier and a regressor for tables.

>>> from svd_numpy import SparseVDClassifier
>>> SparseVDClassifier(random_state=0).fit(X, y).selected_features_    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from svd_numpy.checks import SvdValueError, check_count, check_flag, check_number
from svd_numpy.data import Dataset
from svd_numpy.network.objective import Gaussian, Likelihood
from svd_numpy.network.sparsity import measure_sparsity
from svd_numpy.tabular.networks import estimate_noise, make_config, make_network, used_inputs
from svd_numpy.train.loop import fit

Array = NDArray[Any]


class _SparseVD(BaseEstimator):  # type: ignore[misc]
    """What the classifier and the regressor share: training, and what can be read off afterwards.

    Parameters
    ----------
    hidden_sizes : int or sequence of int
        Units of the hidden layers (ReLU); () makes a linear model.
    epochs : int, optional
        Default: as many as make 1,500 steps, and at least 50.
    batch_size : int
    lr : float
        Adam's learning rate: constant for half of the epochs, then falling to 0.
    kl_weight : float
        Factor on the schedule of the KL term, 0 to 1000. At 1 training ends with the evidence lower bound; more makes
        the network sparser. A linear model keeps the inputs whose effect exceeds about one standard error at 1, about
        two at 4.
    prior : "log_uniform", "log_uniform_exact" or "ard"
    threshold : float
        A weight is pruned when its log_alpha exceeds this.
    early_stopping : bool
        Set rows aside, watch the NLL of the pruned network on them, stop when it no longer falls, and keep the best
        weights. Only the second half of the epochs is watched, or the fine-tuning if there is any, because until then
        the network becomes sparser, and usually worse, from epoch to epoch. `epochs` is the most that there can be.
    validation_fraction : float
        Share of the rows set aside, between 0 and 1.
    n_iter_no_change : int
        Epochs to wait for an improvement.
    class_weight : "balanced" or dict of label -> weight, optional
        Of the classifier only: factors on `sample_weight` by class. "balanced" gives each class the same sum.
    finetune_epochs : int
        Epochs at the end in which only the surviving weights are trained, without noise.
    backend : "auto", "numba" or "numpy"
        "auto" takes NumPy, in float64, for networks of fewer than 50,000 weights.
    random_state : int, RandomState or None
        Of first weights, order of examples and noise.

    Attributes
    ----------
    model_ : Sequential
        The network; it takes standardised inputs (`scaler_`).
    coefs_, intercepts_ : list of array (I, O), list of array (O,)
        Weights of each layer, exactly 0 where pruned, and biases; in the units of standardised inputs.
    sparsity_ : float
        Share of weights pruned.
    compression_ : float
        All weights / weights kept.
    selected_features_ : array (n_features_in_,) of bool
        Which inputs still reach an output. The values of the others change no prediction.
    feature_importances_ : array (n_features_in_,)
        Weight of the paths from each input to the outputs, products of |weights| from layer to layer, as a share of the
        sum (Garson 1991); exactly 0 where an input is not selected. `SelectFromModel` and `RFE` read it.
    n_iter_ : int
        Epochs trained.
    scaler_ : StandardScaler
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Complete the docstring of a subclass: parameters and attributes are those above."""
        super().__init_subclass__(**kwargs)
        cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n{(_SparseVD.__doc__ or '').partition(chr(10))[2]}"

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
    ) -> None:
        self.hidden_sizes = hidden_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.kl_weight = kl_weight
        self.prior = prior
        self.threshold = threshold
        self.finetune_epochs = finetune_epochs
        self.backend = backend
        self.random_state = random_state
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change

    def _train(
        self, x: Array, y: Array, weights: Array | None, n_classes: int, n_outputs: int, likelihood: str | Likelihood
    ) -> None:
        """Standardise the inputs, train, and record what survived."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = make_network(
            x.shape[1], self.hidden_sizes, n_outputs, likelihood=likelihood, seed=seed, prior=self.prior,
            threshold=self.threshold, backend=self.backend,
        )  # fmt: skip
        scaler = _scaler(x, weights)
        rows = scaler.transform(x)
        table = Dataset("table", rows, y, rows[:0], y[:0], None, n_classes, "given to fit", weights=weights)
        patience = 0
        if check_flag("early_stopping", self.early_stopping):
            patience = check_count("n_iter_no_change", self.n_iter_no_change)
            fraction = check_number("validation_fraction", self.validation_fraction, low=0, high=1)
            table = table.split(min(max(1, round(fraction * len(x))), len(x) - 1), seed)
        config = make_config(
            len(table.x_train), epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, kl_weight=self.kl_weight,
            finetune_epochs=self.finetune_epochs, threshold=self.threshold, seed=seed, patience=patience,
        )  # fmt: skip
        history = fit(model, table, config, [estimate_noise], progress=False)
        report = measure_sparsity(model)
        self.model_, self.scaler_ = model, scaler
        self.coefs_ = [layer.pruned_theta(model.threshold) for layer in model.variational_layers]
        self.intercepts_ = [layer.bias.copy() for layer in model.variational_layers]
        self.sparsity_, self.compression_ = report.overall, report.compression
        self.selected_features_ = used_inputs(model)
        paths = np.abs(self.coefs_[0].astype(np.float64))
        for weights in self.coefs_[1:]:
            paths = paths @ np.abs(weights)
        importances = paths.sum(axis=1) * self.selected_features_
        self.feature_importances_ = importances / (importances.sum() or 1.0)
        self.n_iter_ = len(history)

    def _outputs(self, X: Any) -> Array:
        """Outputs (B, O) of the pruned network in float64."""
        check_is_fitted(self)
        x = _dense(validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False))
        return self.model_.predict(self.scaler_.transform(x)).astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        """Say that sparse matrices will do, too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _scaler(x: Array, weights: Array | None) -> StandardScaler:
    """Return what standardises these columns to (weighted) mean 0 and variance 1, whatever scikit-learn is set to."""
    return StandardScaler().set_output(transform="default").fit(x, sample_weight=weights)


def _weighted(sample_weight: Any, x: Array, *more: Array) -> tuple[Array | None, Array, list[Array]]:
    """Return the weights, checked, and arrays by row; rows of weight 0 are gone."""
    if sample_weight is None:
        return None, x, list(more)
    weights = _check_sample_weight(sample_weight, x, dtype=np.float64)
    if (weights < 0).any() or not weights.any():
        raise SvdValueError(
            f"sample_weight: got {weights.min():g} to {weights.max():g}, expected numbers >= 0, not all of them 0"
        )
    counted = weights > 0
    return weights[counted], x[counted], [array[counted] for array in more]


def _dense(x: Any) -> Array:
    """Return a checked matrix as an array: once standardised, a sparse one would hardly have zeros anyway."""
    return x.toarray() if hasattr(x, "toarray") else x


class SparseVDClassifier(ClassifierMixin, _SparseVD):  # type: ignore[misc]
    """Classifier that prunes its own weights (Molchanov, Ashukha, Vetrov 2017).

    Labels may be of any kind; `classes_`, array (n_classes,), holds the different ones.
    """

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
        class_weight: Any = None,
    ) -> None:
        super().__init__(
            hidden_sizes, epochs, batch_size, lr, kl_weight, prior, threshold, finetune_epochs, backend, random_state,
            early_stopping, validation_fraction, n_iter_no_change,
        )  # fmt: skip
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseVDClassifier:
        """Train on X (N, I) and labels y (N,); weights (N,) say how much each row counts (`Dataset.weights`)."""
        x, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        x = _dense(x)
        check_classification_targets(y)
        weights, x, (y,) = _weighted(sample_weight, x, y)
        if self.class_weight is not None:
            of_class = compute_sample_weight(self.class_weight, y)
            weights, x, (y,) = _weighted(of_class if weights is None else weights * of_class, x, y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise SvdValueError(f"y: got one class, {self.classes_[0]!r}, expected at least two classes")
        self._train(x, labels.astype(np.int64), weights, n_classes, n_classes, "categorical")
        return self

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (N, n_classes) of the pruned network, columns as in `classes_`."""
        logits = self._outputs(X)
        return self.model_.likelihood.mean(logits)

    def predict(self, X: Any) -> Array:
        """Labels (N,): the most probable class."""
        best = self._outputs(X).argmax(axis=1)
        return self.classes_[best]


class SparseVDRegressor(RegressorMixin, _SparseVD):  # type: ignore[misc]
    """Regressor that prunes its own weights (Molchanov, Ashukha, Vetrov 2017).

    Targets are standardised internally. The std of their noise is estimated during training; `noise_std_`, array
    (n_targets,), holds it in the units of y.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseVDRegressor:
        """Train on X (N, I) and targets y, (N,) or (N, n_targets); weights (N,) say how much each row counts."""
        options = {"accept_sparse": "csr", "y_numeric": True, "multi_output": True, "ensure_min_samples": 2}
        x, y = validate_data(self, X, y, dtype=np.float64, **options)
        weights, x, (y,) = _weighted(sample_weight, _dense(x), y)
        self._flat = y.ndim == 1
        targets = y.reshape(len(y), -1).astype(np.float64)
        self.target_scaler_ = _scaler(targets, weights)
        targets = self.target_scaler_.transform(targets)
        self._train(x, targets, weights, 0, targets.shape[1], Gaussian(1.0))
        assert isinstance(self.model_.likelihood, Gaussian)
        self.noise_std_ = self.model_.likelihood.std * self.target_scaler_.scale_
        return self

    def predict(self, X: Any) -> Array:
        """Targets in the shape that `fit` was given: (N,) or (N, n_targets)."""
        outputs = self._outputs(X)
        targets = self.target_scaler_.inverse_transform(outputs)
        return targets[:, 0] if self._flat else targets

    def __sklearn_tags__(self) -> Any:
        """Say that several targets at once will do, too."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
