"""Dropout: in training, each activation is multiplied by a random factor of mean 1."""

from __future__ import annotations

from typing import Any

from svd_numpy.checks import check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers.base import Layer, Pass


class _Noise(Layer):
    """y = x * factors in training, otherwise y = x; the factors depend only on the noise key of the pass."""

    def __init__(self, p: float = 0.5, name: str | None = None) -> None:
        super().__init__(name)
        self.p = check_number("p", p, low=0, high=0.999)
        self._factors: Array | None = None  # None: the last pass had none

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        return {**super().config(), "p": self.p}

    def _draw(self, run: Pass, factors: Array) -> None:
        """Fill factors (B, units)."""
        raise NotImplementedError

    def forward(self, x: Array, run: Pass) -> Array:
        """x of any shape -> y of the same shape: in training a new array, otherwise x itself."""
        if not run.training or self.p == 0:
            self._factors = None
            return x
        self._factors = self.memory.get("factors", x.shape, x.dtype)
        self._draw(run, self._factors.reshape(len(x), -1))
        y = self.memory.get("y", x.shape, x.dtype)
        run.backend.multiply(x, self._factors, y)
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dx = dy * factors, in place."""
        if self._factors is not None:
            run.backend.multiply(dy, self._factors, dy)
        return dy


class Dropout(_Noise):
    """In training, each activation is 0 with probability p, else divided by 1 - p (Srivastava et al. 2014).

    Parameters
    ----------
    p : float
        In [0, 0.999]; 0 drops nothing.
    name : str, optional

    Notes
    -----
    Which ones are dropped depends only on the model's seed, the layer, the step, the example and the unit, so that the
    loss at a given step is a function of the parameters. `predict` and `sample` drop nothing.
    """

    kind = "dropout"
    homogeneous = "any"

    def _draw(self, run: Pass, factors: Array) -> None:
        run.backend.dropout_factors(run.noise_key(self.index), self.p, factors)


class GaussianDropout(_Noise):
    """In training, each activation is multiplied by 1 + sqrt(p / (1 - p)) * noise.

    The factor has the same mean and variance as `Dropout`'s (Srivastava et al. 2014, §10; Kingma et al. 2015, §3).

    Parameters
    ----------
    p : float
        In [0, 0.999]: the equivalent drop rate; 0 changes nothing.
    name : str, optional

    Notes
    -----
    `predict` and `sample` do not multiply; see `Dropout`.
    """

    kind = "gaussian_dropout"
    homogeneous = "any"

    def _draw(self, run: Pass, factors: Array) -> None:
        run.backend.gaussian_factors(run.noise_key(self.index), (self.p / (1 - self.p)) ** 0.5, factors)
