"""Dense layers: the plain one, and the variational one with local reparametrisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import check_count, check_flag, check_number
from svd_numpy.layers.base import Array, Layer, Pass
from svd_numpy.params import ParamSpec


def _check_features(layer: Layer, in_shape: tuple[int, ...], in_features: int) -> None:
    if in_shape != (in_features,):
        raise ValueError(
            f"layer {layer.name!r}: got inputs of shape (B, {', '.join(map(str, in_shape))}), "
            f"expected (B, {in_features}); "
            f"make its first argument {int(np.prod(in_shape))}, or mend the layer before it"
        )


class Dense(Layer):
    """y = x @ theta + bias, with one fixed value per weight.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    theta_std : float, optional
        Standard deviation of the Gaussian that theta starts from; default sqrt(2 / in_features)
        (He et al. 2015).
    name : str, optional
    """

    kind = "dense"

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, theta_std: float | None = None,
        name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        self.in_features = check_count("in_features", in_features)
        self.out_features = check_count("out_features", out_features)
        self.has_bias = check_flag("bias", bias)
        theta_std = (2 / in_features) ** 0.5 if theta_std is None else theta_std
        self.theta_std = check_number("theta_std", theta_std, 0, 1e3)
        self.theta: Array
        self.bias: Array

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        return {
            **super().config(),
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.has_bias,
            "theta_std": self.theta_std,
        }

    def _specs(self, rng: np.random.Generator) -> list[ParamSpec]:
        shape = (self.in_features, self.out_features)
        theta = ParamSpec(f"{self.name}.theta", shape, "plain", self.theta_std * rng.standard_normal(shape))
        bias = ParamSpec(f"{self.name}.bias", shape[1:], "plain", np.zeros(1))
        return [theta, bias] if self.has_bias else [theta]

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        _check_features(self, in_shape, self.in_features)
        return (self.out_features,), self._specs(rng)

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        self.theta, self.d_theta = views[f"{self.name}.theta"], grads[f"{self.name}.theta"]
        no_bias = np.zeros(self.out_features, self.theta.dtype)
        self.bias = views.get(f"{self.name}.bias", no_bias)
        self.d_bias = grads.get(f"{self.name}.bias", no_bias.copy())

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, I) -> y (B, O)."""
        self._x = x
        y = self.memory.get("y", (len(x), self.out_features), x.dtype)
        run.backend.dense_forward(x, self.theta, self.bias, y)
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, O) -> dx (B, I)."""
        x = self._x
        dx = self.memory.get("dx", x.shape, x.dtype) if want_dx else None
        run.backend.dense_backward(x, self.theta, dy, self.d_theta, self.d_bias, dx)
        return dx


class VariationalDense(Dense):
    """Dense layer whose weights are Gaussians N(theta, exp(log_sigma2)) (Molchanov et al. 2017, §4).

    In training it draws the pre-activations themselves (local reparametrisation), one noise per example and
    output.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        The bias is an ordinary number; it never enters the variance.
    theta_std : float, optional
        As in `Dense`.
    log_sigma2 : float
        First value of every log_sigma2 (the paper's code: -10).
    name : str, optional
    """

    kind = "dense"

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, theta_std: float | None = None,
        log_sigma2: float = -10.0, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias, theta_std, name)
        self.relu = False  # set by the model where a ReLU follows: sampling rectifies, too
        self.start_log_sigma2 = check_number("log_sigma2", log_sigma2, low=-20, high=10)
        self.log_sigma2: Array

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        return {**super().config(), "log_sigma2": self.start_log_sigma2}

    def _specs(self, rng: np.random.Generator) -> list[ParamSpec]:
        theta, *bias = super()._specs(rng)
        start = np.full(1, self.start_log_sigma2)
        return [
            ParamSpec(theta.name, theta.shape, "theta", theta.start),
            ParamSpec(f"{self.name}.log_sigma2", theta.shape, "log_sigma2", start),
            *bias,
        ]

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        super().bind(views, grads)
        self.log_sigma2 = views[f"{self.name}.log_sigma2"]
        self.d_log_sigma2 = grads[f"{self.name}.log_sigma2"]

    def pruned_theta(self, keep: float) -> Array:
        """Posterior means, zero where theta^2 < keep * sigma^2, that is where log_alpha > -ln(keep)."""
        return np.where(self.theta**2 >= keep * np.exp(self.log_sigma2), self.theta, self.theta.dtype.type(0))

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, I) -> y (B, O): a sample, or the (pruned) mean."""
        if run.mode == "mean":
            return super().forward(x, run)
        self._x = x
        y = self.memory.get("y", (len(x), self.out_features), x.dtype)
        if run.mode == "pruned":
            run.backend.dense_forward(x, self.pruned_theta(run.keep), self.bias, y)
            return y
        key, self._y = run.noise_key(self.index), y
        run.backend.lrt_forward(x, self.theta, self.log_sigma2, self.bias, run.keep, key, self.relu, y, self.memory)
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, O) -> dx (B, I)."""
        if run.mode == "mean":
            self.d_log_sigma2[...] = 0  # without noise nothing depends on it
            return super().backward(dy, run, want_dx)
        x = self._x
        dx = self.memory.get("dx", x.shape, x.dtype) if want_dx else None
        run.backend.lrt_backward(
            x, self.theta, self.log_sigma2, run.keep, dy, self._y if self.relu else None,
            self.d_theta, self.d_log_sigma2, self.d_bias, dx, self.memory,
        )  # fmt: skip
        return dx
