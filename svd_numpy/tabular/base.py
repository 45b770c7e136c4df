"""What the scikit-learn estimators share: parameters, training, and what can be read off afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from svd_numpy.checks import SvdValueError, check_count, check_flag, check_number
from svd_numpy.data import Dataset
from svd_numpy.data.csr import dense, is_sparse
from svd_numpy.network.core import EVAL_ROWS
from svd_numpy.network.fold import fold_gates
from svd_numpy.network.layers.weighted import Weighted
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Likelihood
from svd_numpy.network.sparsity import measure_sparsity
from svd_numpy.tabular.networks import estimate_noise, make_config, make_network, used_inputs
from svd_numpy.tabular.online import one_pass
from svd_numpy.train.loop import fit
from svd_numpy.train.pruning import Pruning

Array = NDArray[Any]


class SparseVD(BaseEstimator):  # type: ignore[misc]
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
    prior : "log_uniform", "log_uniform_exact", "ard" or "normal"
    threshold : float
        A weight is pruned when its log_alpha exceeds this.
    early_stopping : bool
        Set rows aside, watch the NLL of the pruned network on them, stop when it no longer falls, and keep the best
        weights. Only the second half of the epochs is watched, or the fine-tuning if there is any, because until then
        the network becomes sparser, and usually worse, from epoch to epoch. `epochs` is the most that there can be.
        For `fit` only.
    validation_fraction : float
        Share of the rows set aside, between 0 and 1.
    n_iter_no_change : int
        Epochs to wait for an improvement.
    warm_start : bool
        Whether `fit` begins with the weights, and the standardisation, of the one before. The schedules are those of
        any other fit, so a network that was sparse loses zeros until the KL weight has risen again.
    remove_above : float, optional
        Weights whose log_alpha is above it leave for good while training (`TrainConfig.remove_above`): `fit` gets
        faster on large tables and networks.
    gates : str, optional
        A family of `Gate`, such as "ard": every column and every hidden unit is multiplied by a random factor, and
        those whose factors are all noise are closed. Then fewer columns are selected, and fewer units are left.
    pruning : Pruning, optional
        The baseline: ordinary weights, pruned by this rule in the place of Sparse VD, such as
        `GradualMagnitude(start=0.1, stop=0.7, sparsity=0.9)`. Its epochs are shares of `epochs`. For `fit` only, and
        without `early_stopping`, `finetune_epochs` and `remove_above`.
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
        The network; it takes what `scaler_` returns.
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
    coef_, intercept_ : array, array or float
        Of a linear model (`hidden_sizes=()`) only: the function of raw columns that `predict` or the log odds are, with
        scikit-learn's shapes.
    n_iter_ : int
        Epochs trained by `fit`; calls of `partial_fit`, each of which is one epoch of its rows, are added.
    n_samples_seen_ : int
        Rows given to `fit`, and to `partial_fit` since.
    scaler_ : StandardScaler
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.
    """

    model_: Sequential
    scaler_: StandardScaler
    n_iter_: int
    n_samples_seen_: int
    coefs_: list[Array]
    intercepts_: list[Array]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Complete the docstring of a subclass: parameters and attributes are those above."""
        super().__init_subclass__(**kwargs)
        cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n{(SparseVD.__doc__ or '').partition(chr(10))[2]}"

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
        self.warm_start = warm_start
        self.remove_above = remove_above
        self.gates = gates
        self.pruning = pruning

    @property
    def _start(self) -> Sequential | None:
        """The network that `fit` is to begin with."""
        return getattr(self, "model_", None) if check_flag("warm_start", self.warm_start) else None

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _network(self, n_in: int, n_outputs: int, likelihood: str | Likelihood, seed: int) -> Sequential:
        return make_network(
            n_in, self.hidden_sizes, n_outputs, likelihood=likelihood, seed=seed, prior=self.prior,
            threshold=self.threshold, backend=self.backend, gates=self.gates, variational=self.pruning is None,
        )  # fmt: skip

    def _train(
        self, x: Array, y: Array, weights: Array | None, n_classes: int, n_outputs: int, likelihood: str | Likelihood
    ) -> None:
        """Standardise the inputs, train, and record what survived."""
        seed, start = self._seed(), self._start
        if check_flag("early_stopping", self.early_stopping) and self.pruning is not None:
            raise SvdValueError("early_stopping: got True with a pruning, which must run to its end; leave one out")
        model = self._network(x.shape[1], n_outputs, likelihood, seed)
        if start is not None:
            model.init_from(start)
        scaler = standardiser(x, weights) if start is None else self.scaler_
        x = dense(x) if scaler.with_mean else x  # if the first rows were dense, all become so
        _centre(model, scaler)
        table = _table(scaler.transform(x), y, weights, n_classes)
        patience = 0
        if self.early_stopping:
            patience = check_count("n_iter_no_change", self.n_iter_no_change)
            fraction = check_number("validation_fraction", self.validation_fraction, low=0, high=1)
            table = table.split(min(max(1, round(fraction * x.shape[0])), x.shape[0] - 1), seed)
        n_rows = table.x_train.shape[0]
        config = make_config(
            n_rows, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, kl_weight=self.kl_weight,
            finetune_epochs=self.finetune_epochs, threshold=self.threshold, seed=seed, patience=patience,
            remove_above=self.remove_above, pruning=self.pruning,
        )  # fmt: skip
        history = fit(model, table, config, [estimate_noise], progress=False)
        self.model_, self.scaler_ = model, scaler
        self.n_iter_, self.n_samples_seen_ = len(history), x.shape[0]
        self._steps = len(history) * math.ceil(n_rows / self.batch_size)
        self._read_off()

    def _pass(
        self, x: Array, y: Array, weights: Array | None, n_classes: int, n_outputs: int, likelihood: str | Likelihood,
        n_rows: int | None,
    ) -> None:  # fmt: skip
        """Train on each row once, and record what survived. The first call decides how inputs are standardised."""
        if self.pruning is not None:
            raise SvdValueError(f"pruning: got {self.pruning!r} in partial_fit, which knows no last epoch; use fit")
        seed, first = self._seed(), not hasattr(self, "model_")
        model = self._network(x.shape[1], n_outputs, likelihood, seed) if first else self.model_
        scaler = standardiser(x, weights) if first else self.scaler_
        _centre(model, scaler)
        seen, steps, passes = (0, 0, 0) if first else (self.n_samples_seen_, self._steps, self.n_iter_)
        n_rows = seen + x.shape[0] if n_rows is None else check_count("n_rows", n_rows, low=x.shape[0])
        x = dense(x) if scaler.with_mean else x  # if the first rows were dense, all become so
        self._steps = one_pass(
            model, _table(scaler.transform(x), y, weights, n_classes), steps, n_rows,
            batch_size=check_count("batch_size", self.batch_size), lr=self.lr,
            kl_weight=check_number("kl_weight", self.kl_weight, low=0, high=1000), seed=seed,
        )  # fmt: skip
        self.model_, self.scaler_ = model, scaler
        self.n_iter_, self.n_samples_seen_ = passes + 1, seen + x.shape[0]
        self._read_off()

    def _read_off(self) -> None:
        """Set the attributes that say what is left of the network."""
        report, model = measure_sparsity(self.model_), fold_gates(self.model_)
        layers = [layer for layer in model.layers if isinstance(layer, Weighted)]
        self.coefs_ = [layer.pruned_theta(model.threshold) for layer in layers]
        self.intercepts_ = [layer.bias.copy() for layer in layers]
        self.sparsity_, self.compression_ = report.overall, report.compression
        self.selected_features_ = used_inputs(model)
        paths = np.abs(self.coefs_[0].astype(np.float64))
        for theta in self.coefs_[1:]:
            paths = paths @ np.abs(theta)
        importances = paths.sum(axis=1) * self.selected_features_
        self.feature_importances_ = importances / (importances.sum() or 1.0)

    def _linear(self) -> tuple[Array, Array]:
        """Slopes (O, I) and intercepts (O,) of the outputs as functions of raw columns; only of a linear model."""
        if not hasattr(self, "coefs_") or len(self.coefs_) > 1:
            raise AttributeError(f"only a fitted {type(self).__name__} with hidden_sizes=() has coef_ and intercept_")
        slopes = self.coefs_[0].T.astype(np.float64) / self.scaler_.scale_
        return slopes, self.intercepts_[0] - slopes @ self.scaler_.mean_

    def _rows(self, X: Any) -> Iterator[Array]:
        """Standardised rows of a table, some at a time: a sparse matrix is never dense as a whole."""
        check_is_fitted(self)
        x = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        for start in range(0, x.shape[0], EVAL_ROWS):
            yield self.scaler_.transform(dense(x[start : start + EVAL_ROWS]))

    def _outputs(self, X: Any) -> Array:
        """Outputs (B, O) of the pruned network in float64."""
        return np.concatenate([self.model_.predict(rows).astype(np.float64) for rows in self._rows(X)])

    def __sklearn_tags__(self) -> Any:
        """Say that sparse matrices will do, too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _centre(model: Sequential, scaler: StandardScaler) -> None:
    """Let the network subtract the means that the scaler does not."""
    if not scaler.with_mean:
        model.input_mean[:] = scaler.mean_ / scaler.scale_


def _table(x: Array, y: Array, weights: Array | None, n_classes: int) -> Dataset:
    return Dataset("table", x, y, x[:0], y[:0], None, n_classes, "given to fit", weights=weights)


def standardiser(x: Array, weights: Array | None) -> StandardScaler:
    """Return what standardises these columns to (weighted) mean 0 and variance 1, whatever scikit-learn is set to.

    Sparse columns only get variance 1; the network subtracts their means, so that they stay sparse.
    """
    scaler = StandardScaler(with_mean=not is_sparse(x)).set_output(transform="default")
    return scaler.fit(x, sample_weight=weights)


def weighted(sample_weight: Any, x: Array, *more: Array) -> tuple[Array | None, Array, list[Array]]:
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
