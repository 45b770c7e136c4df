"""What dense and convolutional layers have in common: a matrix theta, a bias, and passes over rows of inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import check_flag, check_number
from svd_numpy.kernels.window import Window
from svd_numpy.network.layers.base import Array, Layer, Pass
from svd_numpy.network.params import ParamSpec


class Weighted(Layer):
    """y = x @ theta + bias, on the rows of a batch or on the im2col rows of images.

    Attributes
    ----------
    theta : array (I, O)
        The weights as a matrix; for a convolution I = kernel height * kernel width * channels, in this order.
    theta_shape : tuple of int
        Shape under which the model shows them in `parameters`.
    window : Window or None
        None for a dense layer.
    """

    theta_shape: tuple[int, ...]
    out_shape: tuple[int, ...]  # of one example
    window: Window | None = None

    def __init__(self, n_in: int, bias: bool, theta_std: float | None, name: str | None) -> None:
        super().__init__(name)
        self.has_bias = check_flag("bias", bias)
        theta_std = (2 / n_in) ** 0.5 if theta_std is None else theta_std
        self.theta_std = check_number("theta_std", theta_std, 0, 1e3)
        self.theta: Array
        self.bias: Array

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        return {**super().config(), "bias": self.has_bias, "theta_std": self.theta_std}

    def _specs(self, rng: np.random.Generator) -> list[ParamSpec]:
        start = self.theta_std * rng.standard_normal(self.theta_shape)
        theta = ParamSpec(f"{self.name}.theta", self.theta_shape, "plain", start)
        bias = ParamSpec(f"{self.name}.bias", self.theta_shape[-1:], "plain", np.zeros(1))
        return [theta, bias] if self.has_bias else [theta]

    def _matrix(self, array: Array) -> Array:
        """View (I, O) of an array that the model shows as `theta_shape`."""
        return array.reshape(-1, self.theta_shape[-1])

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        self.theta, self.d_theta = (self._matrix(of[f"{self.name}.theta"]) for of in (views, grads))
        no_bias = np.zeros(self.theta_shape[-1], self.theta.dtype)
        self.bias = views.get(f"{self.name}.bias", no_bias)
        self.d_bias = grads.get(f"{self.name}.bias", no_bias.copy())

    def fields(self, array: Array, image_shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
        """What each output looks at, as pictures: an array (I, O) with its inputs channels first, and their shape.

        The pictures of a dense layer have the shape of the images it is given, those of a convolution its kernel's.
        """
        return array, image_shape

    def _out(self, x: Array) -> Array:
        return self.memory.get("y", (len(x), *self.out_shape), x.dtype)

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, *in_shape) -> y (B, *out_shape)."""
        self._x, y = x, self._out(x)
        run.backend.dense_forward(x, self.theta, self.bias, y, self.memory, self.window)
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, *out_shape) -> dx (B, *in_shape)."""
        x = self._x
        dx = self.memory.get("dx", x.shape, x.dtype) if want_dx else None
        run.backend.dense_backward(x, self.theta, dy, self.d_theta, self.d_bias, dx, self.memory, self.window)
        return dx


class Variational(Weighted):
    """A layer whose weights are Gaussians N(theta, exp(log_sigma2)) (Molchanov et al. 2017, §4).

    In training it draws the pre-activations themselves (local reparametrisation): one noise per example and
    output; of a convolution, per position as well. To be mixed in before `Dense` or `Conv2d`, with the first value
    of every log_sigma2 in `start_log_sigma2`.
    """

    start_log_sigma2: float
    log_sigma2: Array
    relu = False  # set by the model where a ReLU follows: then sampling rectifies, too

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
        self.log_sigma2, self.d_log_sigma2 = (self._matrix(of[f"{self.name}.log_sigma2"]) for of in (views, grads))

    def pruned_theta(self, keep: float) -> Array:
        """Posterior means (I, O), zero where theta^2 < keep * sigma^2, that is where log_alpha > -ln(keep)."""
        return np.where(self.theta**2 >= keep * np.exp(self.log_sigma2), self.theta, self.theta.dtype.type(0))

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, *in_shape) -> y (B, *out_shape): a sample, or the (pruned) mean."""
        if run.mode == "mean":
            return super().forward(x, run)
        self._x, y = x, self._out(x)
        if run.mode == "pruned":
            run.backend.dense_forward(x, self.pruned_theta(run.keep), self.bias, y, self.memory, self.window)
            return y
        key, self._y = run.noise_key(self.index), y
        run.backend.lrt_forward(
            x, self.theta, self.log_sigma2, self.bias, run.keep, key, self.relu, y, self.memory, self.window
        )
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, *out_shape) -> dx (B, *in_shape)."""
        if run.mode == "mean":
            run.backend.clear(self.d_log_sigma2)  # without noise nothing depends on it
            return super().backward(dy, run, want_dx)
        x = self._x
        dx = self.memory.get("dx", x.shape, x.dtype) if want_dx else None
        run.backend.lrt_backward(
            x, self.theta, self.log_sigma2, run.keep, dy, self._y if self.relu else None,
            self.d_theta, self.d_log_sigma2, self.d_bias, dx, self.memory, self.window,
        )  # fmt: skip
        return dx
