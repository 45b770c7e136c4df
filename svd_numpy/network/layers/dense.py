"""Dense layers: the plain one and the variational one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_count
from svd_numpy.network.layers.base import public_shape
from svd_numpy.network.layers.weighted import Variational, Weighted
from svd_numpy.network.params import ParamSpec


class Dense(Weighted):
    """y = x @ theta + bias, with one fixed value per weight; applied to every step of sequences (B, T, I).

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    theta_std : float, optional
        Standard deviation of the Gaussian from which theta is initialised; default sqrt(2 / in_features)
        (He et al. 2015).
    name : str, optional
    """

    kind = "dense"
    axes = {"theta": ("in", "out"), "log_sigma2": ("in", "out"), "bias": ("out",)}  # noqa: RUF012

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, theta_std: float | None = None,
        name: str | None = None,
    ) -> None:  # fmt: skip
        self.in_features = check_count("in_features", in_features)
        self.out_features = check_count("out_features", out_features)
        super().__init__(in_features, bias, theta_std, name)
        self.theta_shape = (in_features, out_features)

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        return {**super().config(), "in_features": self.in_features, "out_features": self.out_features}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        if len(in_shape) > 2 or in_shape[-1] != self.in_features:
            features = in_shape[-1] if len(in_shape) < 3 else math.prod(in_shape)
            remedy = "put a Flatten before it, with" if len(in_shape) > 2 else "make its first argument"
            raise SvdValueError(
                f"layer {self.name!r}: got inputs of shape {public_shape(in_shape)}, "
                f"expected (B, {self.in_features}); "
                f"{remedy} {features}, or fix the layer before it"
            )
        return (*in_shape[:-1], self.out_features), self._specs(rng)

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """See `Layer.resized`."""
        return {**self.config(), "in_features": n_in, "out_features": n_out}


class VariationalDense(Variational, Dense):
    """Dense layer whose weights are Gaussians N(theta, exp(log_sigma2)) (Molchanov et al. 2017, §4).

    In training it samples the pre-activations rather than the weights (local reparametrisation), with independent noise
    for every example and output.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        The bias is an ordinary number; it never enters the variance.
    theta_std : float, optional
        As in `Dense`.
    log_sigma2 : float
        Initial value of every log_sigma2 (the paper's code: -10).
    sigma_max : float, optional
        The largest sigma that training may reach; default: 148 (log_sigma2 = 10).
    name : str, optional
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, theta_std: float | None = None,
        log_sigma2: float = -10.0, sigma_max: float | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias, theta_std, name)
        self._set_variance(log_sigma2, sigma_max)
