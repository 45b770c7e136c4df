"""The objective, which is minimised: mean NLL + kl_weight * KL / n_train, all in nats.

`n_train` is always the number of training examples, never of batches; of sequences with an output at every step, each
step with a label counts as an example. NLL, KL and kl_weight are kept and
logged separately. kl_weight = 1 gives the negative evidence lower bound per example (Molchanov et al. 2017, eq. 3);
a smaller one tempers it.

If examples have weights w (`Dataset.weights`), the first term is mean(w NLL), with w scaled to a mean of 1, so that it
keeps its size beside the KL; `n_train` is then the number of examples whose weight is not 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_labels, check_number, check_targets
from svd_numpy.kernels.backend import Array, Backend


def _rows(array: Array) -> Array:
    """Outputs (B, O); those of sequences (B, T, O) as (B * T, O)."""
    return array if array.ndim == 2 else array.reshape(-1, array.shape[-1])


@dataclass(frozen=True)
class Categorical:
    """Classification: softmax over the outputs, cross-entropy with integer labels."""

    name = "categorical"

    def check(self, y: Any, rows: tuple[int, ...], n_outputs: int, dtype: Any) -> Array:
        """Return labels of shape `rows`, (B,) or (B, T) with one per step, as int64; raise if they do not fit."""
        if len(rows) == 1:
            return check_labels("y", y, rows[0], n_outputs)
        if np.shape(y) != rows:
            raise SvdValueError(f"y: got shape {np.shape(y)}, expected {rows}, one label per step of every example")
        given = np.ravel(y)
        missing = given == -1
        labels = check_labels("y", np.where(missing, 0, given), len(given), n_outputs)
        return np.where(missing, -1, labels).reshape(rows)

    def count(self, y: Array) -> int:
        """How many labels there are: -1, only in sequences, is none."""
        return len(y) if y.ndim == 1 else int(np.count_nonzero(y >= 0))

    def loss(self, backend: Backend, outputs: Array, y: Array, d_outputs: Array) -> tuple[float, float]:
        """Return (summed NLL in nats, number of wrong predictions); d_outputs = d(mean NLL)/d(outputs).

        Sums and mean are over the outputs that have a label; the others have a gradient of 0.
        """
        outputs, labels, d_outputs = _rows(outputs), y.reshape(-1), _rows(d_outputs)
        there = np.flatnonzero(labels >= 0) if y.ndim > 1 else labels
        if len(there) == len(labels):
            return backend.softmax_cross_entropy(outputs, labels, d_outputs)
        d_outputs[:] = 0
        if not len(there):
            return 0.0, 0.0
        d_there = np.empty((len(there), outputs.shape[1]), outputs.dtype)
        found = backend.softmax_cross_entropy(outputs[there], labels[there], d_there)
        d_outputs[there] = d_there
        return found

    def mean(self, outputs: Array) -> Array:
        """Class probabilities of logits, of the same shape."""
        shifted = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Gaussian:
    """Regression: y ~ N(outputs, std^2) with a fixed std in the units of y."""

    std: float = 1.0
    name = "gaussian"

    def __post_init__(self) -> None:
        check_number("std", self.std, low=1e-6, high=1e6)

    def check(self, y: Any, rows: tuple[int, ...], n_outputs: int, dtype: Any) -> Array:
        """Return targets (*rows, O) in the model's dtype; raise if they do not fit."""
        if len(rows) > 1:
            if np.shape(y) != (*rows, n_outputs):
                raise SvdValueError(
                    f"y: got shape {np.shape(y)}, expected {(*rows, n_outputs)}, targets for every step"
                )
            y = np.reshape(y, (-1, n_outputs))
        targets = np.ascontiguousarray(check_targets("y", y, math.prod(rows), n_outputs), dtype=dtype)
        return targets.reshape(*rows, n_outputs)

    def count(self, y: Array) -> int:
        """How many targets (..., O) there are."""
        return math.prod(y.shape[:-1])

    def loss(self, backend: Backend, outputs: Array, y: Array, d_outputs: Array) -> tuple[float, float]:
        """Return (summed NLL in nats, summed squared error); d_outputs = d(mean NLL)/d(outputs)."""
        return backend.gaussian_nll(_rows(outputs), _rows(y), self.std, _rows(d_outputs))

    def mean(self, outputs: Array) -> Array:
        """The predicted mean: the outputs themselves."""
        return outputs


Likelihood = Categorical | Gaussian


def make_likelihood(name: str | Likelihood, **options: float) -> Likelihood:
    """Make the likelihood "categorical" or "gaussian" (with its std); a likelihood object is returned unchanged."""
    if isinstance(name, Categorical | Gaussian):
        return name
    known: dict[str, type[Categorical] | type[Gaussian]] = {"categorical": Categorical, "gaussian": Gaussian}
    if not isinstance(name, str) or name not in known:
        raise SvdValueError(f"likelihood: got {name!r}, expected one of {tuple(known)} or Gaussian(std)")
    return known[name](**options)
