"""The common base of dense and convolutional layers: a matrix theta, a bias, and passes over rows of inputs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from svd_numpy.checks import check_flag, check_number
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.kernels.priors import LOG_SIGMA2_MAX, LOG_SIGMA2_MIN, log_alpha
from svd_numpy.kernels.stack import StackLayer
from svd_numpy.kernels.window import Window
from svd_numpy.network.layers.base import Layer, Pass
from svd_numpy.network.layers.grouped import Grouped
from svd_numpy.network.params import ParamSpec

Part = tuple[int, slice]  # of a matrix: an axis, and a range of it


class Weighted(Layer):
    """y = x @ theta + bias, on the rows of a batch or on the im2col rows of images.

    Attributes
    ----------
    theta : array (I, O)
        The weights as a matrix; for a convolution I = kernel height * kernel width * channels (of a group), in this
        order.
    theta_shape : tuple of int
        Their shape in `Sequential.parameters`.
    window : Window or None
        None for a dense layer.
    living : Living or None
        If set before the layer is built, theta is an array (n,) of the weights that are listed there.
    """

    output_arrays: tuple[str, ...] = ("theta", "bias")
    theta_shape: tuple[int, ...]
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
        shape = self.theta_shape if self.living is None else (len(self.living.rows),)
        theta = ParamSpec(f"{self.name}.theta", shape, self.theta_std * rng.standard_normal(shape))
        bias = ParamSpec(f"{self.name}.bias", self.theta_shape[-1:], np.zeros(1))
        return [theta, bias] if self.has_bias else [theta]

    def _matrix(self, array: Array) -> Array:
        """View an array of shape `theta_shape` as (I, O); one of listed weights stays as it is."""
        return array.reshape(-1, self.theta_shape[-1]) if self.living is None else array

    def _parts(self) -> dict[str, Part]:
        """Kinds of groups whose weights may share a factor: rows (axis 0) or columns (axis 1) of theta."""
        return {}

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        self.theta, self.d_theta = (self._matrix(of[f"{self.name}.theta"]) for of in (views, grads))
        no_bias = np.zeros(self.theta_shape[-1], self.theta.dtype)
        self.bias = views.get(f"{self.name}.bias", no_bias)
        self.d_bias = grads.get(f"{self.name}.bias", no_bias.copy())

    def fields(self, array: Array, image_shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
        """Arrange the columns of an array (I, O) as pictures, channels first; return the array and a picture's shape.

        For a dense layer that is the shape of its input images, for a convolution that of its kernel.
        """
        return array, image_shape

    def alive(self, threshold: float) -> Array:
        """See `Layer.alive`: an ordinary weight is alive unless it is 0."""
        return self.theta != 0

    def pruned_theta(self, threshold: float) -> Array:
        """Weights (I, O), 0 where they do not survive a threshold on log_alpha (`alive`)."""
        return np.where(self.alive(threshold), self.theta, self.theta.dtype.type(0))

    def take(self, outputs: Array, inputs: Array) -> Array:
        """See `Layer.take`."""
        return outputs

    def _rows(self, x: Array) -> Array:
        """Inputs in the form that the operations take: images unchanged, sequences with their steps as rows."""
        return x if self.window is not None or x.ndim == 2 else x.reshape(-1, x.shape[-1])

    def _used_theta(self, run: Pass) -> Array:
        """The weights of this pass: theta, with zeros where the mask of the pass is 0."""
        mask = run.masks.get(self.name)
        if mask is None:
            return self.theta
        masked = self.memory.get("masked", self.theta.shape, self.theta.dtype)
        run.backend.apply_mask(self.theta, mask, masked)
        return masked

    def _prepare(self, x: Array, run: Pass) -> tuple[Array, Array, Array]:
        """Return inputs and outputs as rows, and the weights of this pass; keep inputs and weights for `backward`."""
        y = self.memory.get("y", (len(x), *self.out_shape), x.dtype)
        self._x, self._theta = self._rows(x), self._used_theta(run)
        return self._x, self._rows(y), self._theta

    def _products(self, run: Pass) -> Backend | Grouped:
        """What multiplies inputs and weights, forwards and backwards."""
        return run.backend

    def full_theta(self, theta: Array) -> Array:
        """The matrix of a layer without groups that does the same: theta (I, O) itself where there are none."""
        return theta

    @property
    def tells_pulls(self) -> bool:
        """Whether `input_pulls` holds: in a dense layer that reads rows, with all its weights, as written here."""
        return self.window is None and self.living is None and len(self.in_shape) == 1 and self.is_as_written

    @property
    def is_as_written(self) -> bool:
        """Whether both passes are those of this file, rather than a subclass's own."""
        return type(self).forward.__module__ == type(self).backward.__module__ == __name__

    def input_pulls(self, run: Pass) -> Array:
        """sum_b x dx of the last backward pass, (I,), which needs no dx: all of it is in the gradients of the weights.

        Since y depends on x theta and x^2 sigma^2 alone, that is sum_o theta d_theta + 2 sigma^2 d_sigma2.
        """
        return self._pulls(run, None, None)

    def _pulls(self, run: Pass, log_sigma2: Array | None, d_sigma2: Array | None) -> Array:
        pulls = self.memory.get("pulls", (len(self.theta),), self.theta.dtype)
        run.backend.weight_pulls(self._theta, self.d_theta, log_sigma2, d_sigma2, pulls)
        return pulls

    def _dx(self, want_dx: bool) -> Array | None:
        return self.memory.get("dx", self._x.shape, self._x.dtype) if want_dx else None

    def _shaped(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """Rows in the shape that the neighbouring layers expect: (B, *shape)."""
        return rows if rows.ndim == 1 + len(shape) else rows.reshape(-1, *shape)

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, *in_shape) -> y (B, *out_shape)."""
        x, y, theta = self._prepare(x, run)
        self._products(run).dense_forward(x, theta, self.bias, y, self.memory, self.window, self.living)
        return self._shaped(y, self.out_shape)

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, *out_shape) -> dx (B, *in_shape)."""
        dx = self._dx(want_dx)
        self._products(run).dense_backward(
            self._x, self._theta, self._rows(dy), self.d_theta, self.d_bias, dx, self.memory, self.window, self.living
        )
        return None if dx is None else self._shaped(dx, self.in_shape)


class Variational(Weighted):
    """A layer whose weights are Gaussians N(theta, exp(log_sigma2)) (Molchanov et al. 2017, §4).

    The base of `LocallySampled` and `SampledWeights`, which differ in where the noise enters; `start_log_sigma2` is the
    initial value of every log_sigma2, `sigma_max` the largest sigma that training may reach.
    """

    start_log_sigma2: float
    sigma_max: float | None = None
    log_sigma2: Array

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        cap = {} if self.sigma_max is None else {"sigma_max": self.sigma_max}
        return {**super().config(), "log_sigma2": self.start_log_sigma2, **cap}

    def _set_variance(self, log_sigma2: Any, sigma_max: Any) -> None:
        """Check and set the initial log_sigma2 and the bound of sigma."""
        high: float = LOG_SIGMA2_MAX
        if sigma_max is not None:
            lowest, highest = (math.exp(bound / 2) for bound in (LOG_SIGMA2_MIN, LOG_SIGMA2_MAX))
            self.sigma_max = check_number("sigma_max", sigma_max, lowest, highest)
            high = 2 * math.log(self.sigma_max)
        self.start_log_sigma2 = check_number("log_sigma2", log_sigma2, LOG_SIGMA2_MIN, high)

    def _specs(self, rng: np.random.Generator) -> list[ParamSpec]:
        theta, *others = super()._specs(rng)
        high = None if self.sigma_max is None else 2 * math.log(self.sigma_max)
        return [replace(theta, log_sigma2=np.full(1, self.start_log_sigma2), high=high), *others]

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        super().bind(views, grads)
        self.log_sigma2, self.d_log_sigma2 = (self._matrix(of[f"{self.name}.log_sigma2"]) for of in (views, grads))

    def alive(self, threshold: float) -> Array:
        """See `Layer.alive`: where log_alpha <= threshold."""
        return log_alpha(self.theta, self.log_sigma2) <= threshold


class LocallySampled(Variational):
    """It samples the pre-activations rather than the weights (local reparametrisation: Kingma et al. 2015).

    The noise is independent for every example and output, and in a convolution for every position. A mixin to put
    before `Dense` or `Conv2d`.
    """

    relu = False  # set by the model if a ReLU follows: sampling then rectifies, too

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, *in_shape) -> y (B, *out_shape): a sample, or the mean."""
        if run.mode == "mean":
            return super().forward(x, run)
        x, y, theta = self._prepare(x, run)
        self._y, key = y, run.noise_key(self.index)
        if len(self.out_shape) == 2:  # every step of a sequence is a row with its own noise
            key = key._replace(first_sample=key.first_sample * self.out_shape[0])
        self._products(run).lrt_forward(
            x, theta, self.log_sigma2, self.bias, run.keep, key, self.relu, y, self.memory, self.window, self.living
        )
        return self._shaped(y, self.out_shape)

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, *out_shape) -> dx (B, *in_shape)."""
        if run.mode == "mean":
            run.backend.clear(self.d_log_sigma2)  # without noise nothing depends on it
            return super().backward(dy, run, want_dx)
        dx = self._dx(want_dx)
        self._products(run).lrt_backward(
            self._x, self._theta, self.log_sigma2, run.keep, self._rows(dy), self._y if self.relu else None,
            self.d_theta, self.d_log_sigma2, self.d_bias, dx, self.memory, self.window, self.living,
        )  # fmt: skip
        return None if dx is None else self._shaped(dx, self.in_shape)

    def input_pulls(self, run: Pass) -> Array:
        """See `Weighted.input_pulls`."""
        noisy = (self.log_sigma2, self.d_log_sigma2) if run.mode == "sample" else (None, None)
        return self._pulls(run, *noisy)

    def stack_layer(self) -> StackLayer | None:
        """See `Layer.stack_layer`: it may, on a list of weights, with rows as inputs."""
        fits = self.window is None and len(self.out_shape) == 1 and self.is_as_written
        if self.living is None or not fits:
            return None
        return StackLayer(
            self.index, self.living, self.relu, self.theta, self.log_sigma2, self.bias, self.d_theta,
            self.d_log_sigma2, self.d_bias,
        )  # fmt: skip
