"""What is minimised: mean NLL + kl_weight * KL / n_train, all in nats.

`n_train` is always the number of training examples, never of batches; NLL, KL and kl_weight are kept and
logged apart. kl_weight = 1 is the (negative) evidence lower bound per example (Molchanov et al. 2017, eq. 3);
below 1 it is tempered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, check_labels, check_number, check_targets
from svd_numpy.kernels.backend import Backend

Array = NDArray[Any]


@dataclass(frozen=True)
class Categorical:
    """Classification: softmax over the outputs, cross-entropy with integer labels."""

    name = "categorical"

    def check(self, y: Any, rows: int, n_outputs: int, dtype: Any) -> Array:
        """Return labels (B,) int64, or say what is wrong with them."""
        return check_labels("y", y, rows, n_outputs)

    def loss(self, backend: Backend, outputs: Array, y: Array, d_outputs: Array) -> tuple[float, float]:
        """Return (summed NLL in nats, number of wrong guesses); d_outputs = d(mean NLL)/d(outputs)."""
        return self.losses(backend, outputs, y, d_outputs)[0]

    def losses(self, backend: Backend, outputs: Array, y: Array, d_outputs: Array) -> list[tuple[float, float]]:
        """Return what `loss` does for every run of the backend (`Backend.several`)."""
        found = backend.softmax_cross_entropy(outputs, y, d_outputs)
        return [self.outcome(one, len(y)) for one in backend.each(found)]

    def outcome(self, found: tuple[float, float], rows: int) -> tuple[float, float]:
        """Turn what the backend's operation returned for so many rows into what `loss` returns."""
        nll, correct = found
        return nll, float(rows - correct)

    def mean(self, outputs: Array) -> Array:
        """Class probabilities (B, C) of logits."""
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Gaussian:
    """Regression: y ~ N(outputs, std^2) with a fixed std in the units of y."""

    std: float = 1.0
    name = "gaussian"

    def __post_init__(self) -> None:
        check_number("std", self.std, low=1e-6, high=1e6)

    def check(self, y: Any, rows: int, n_outputs: int, dtype: Any) -> Array:
        """Return targets (B, O) of the model's dtype, or say what is wrong with them."""
        return np.ascontiguousarray(check_targets("y", y, rows, n_outputs), dtype=dtype)

    def loss(self, backend: Backend, outputs: Array, y: Array, d_outputs: Array) -> tuple[float, float]:
        """Return (summed NLL in nats, summed squared error); d_outputs = d(mean NLL)/d(outputs)."""
        return self.losses(backend, outputs, y, d_outputs)[0]

    def losses(self, backend: Backend, outputs: Array, y: Array, d_outputs: Array) -> list[tuple[float, float]]:
        """See `Categorical.losses`."""
        found = backend.gaussian_nll(outputs, y, self.std, d_outputs)
        return [self.outcome(one, len(y)) for one in backend.each(found)]

    def outcome(self, found: tuple[float, float], rows: int) -> tuple[float, float]:
        """See `Categorical.outcome`."""
        return found

    def mean(self, outputs: Array) -> Array:
        """The predicted mean: the outputs themselves."""
        return outputs


Likelihood = Categorical | Gaussian


def make_likelihood(name: str | Likelihood, **options: float) -> Likelihood:
    """Turn "categorical" or "gaussian" (with its std) into the likelihood; an object is returned as it is."""
    if isinstance(name, Categorical | Gaussian):
        return name
    known: dict[str, type[Categorical] | type[Gaussian]] = {"categorical": Categorical, "gaussian": Gaussian}
    if not isinstance(name, str) or name not in known:
        raise SvdValueError(f"likelihood: got {name!r}, expected one of {tuple(known)} or Gaussian(std)")
    return known[name](**options)
