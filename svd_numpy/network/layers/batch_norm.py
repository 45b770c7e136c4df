"""Batch normalisation (Ioffe & Szegedy 2015)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_count, check_flag, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers.base import Layer, Pass, public_shape
from svd_numpy.network.params import ParamSpec


class BatchNorm(Layer):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, channel by channel, for rows (B, F) or images (B, C, H, W).

    In training, mean and var are those of the batch (and for images, of all positions); `predict` and `sample` use
    their running averages.

    Parameters
    ----------
    num_features : int
        Channels of images, or columns of rows.
    eps : float
        Added to the variance.
    momentum : float or None
        In [0, 1]: running = (1 - momentum) * running + momentum * batch, once per training step. None: the plain
        average over all training steps. The running variance averages unbiased ones.
    affine : bool
        Whether there are gamma and beta; without them, they count as 1 and 0.
    name : str, optional

    Attributes
    ----------
    gamma, beta : array (num_features,)
        Parameters `<name>.gamma` and `<name>.beta`, if `affine`.
    running_mean, running_var : array (num_features,) in float64
        Not parameters, but part of the model: saved, copied and loaded with it. They start at 0 and 1.
    batches : array (num_features,) in float64
        Likewise, if `momentum` is None: how many batches the averages are over, the same number for every channel.

    Raises
    ------
    ValueError
        When the model is built, for a wrong number of channels; in training, for a batch with one number per channel.
    """

    kind = "batch_norm"
    output_arrays = ("gamma", "beta")
    axes = dict.fromkeys(("gamma", "beta", "running_mean", "running_var", "batches"), ("in",))

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        self.num_features = check_count("num_features", num_features)
        self.eps = check_number("eps", eps, low=1e-12, high=1)
        self.momentum = None if momentum is None else check_number("momentum", momentum, low=0, high=1)
        self.affine = check_flag("affine", affine)
        self.gamma: Array
        self.beta: Array
        self.running_mean: Array
        self.running_var: Array
        self.batches: Array

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        own = {"num_features": self.num_features, "eps": self.eps, "momentum": self.momentum}
        return {**super().config(), **own, "affine": self.affine}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        if in_shape[-1] != self.num_features:
            what = "channels" if len(in_shape) == 3 else "features"
            raise SvdValueError(
                f"layer {self.name!r}: got inputs of shape {public_shape(in_shape)}, that is {in_shape[-1]} {what}, "
                f"expected {self.num_features}; use BatchNorm({in_shape[-1]}), or fix the layer before it"
            )
        shape = (self.num_features,)
        gamma = ParamSpec(f"{self.name}.gamma", shape, np.ones(1))
        beta = ParamSpec(f"{self.name}.beta", shape, np.zeros(1))
        return in_shape, [gamma, beta] if self.affine else []

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """See `Layer.resized`."""
        return {**self.config(), "num_features": n_in}

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        if self.affine:
            self.gamma, self.d_gamma = (of[f"{self.name}.gamma"] for of in (views, grads))
            self.beta, self.d_beta = (of[f"{self.name}.beta"] for of in (views, grads))
        else:
            self._make_constants(np.float64)
        self.running_mean, self.running_var = np.zeros(self.num_features), np.ones(self.num_features)
        self.batches = np.zeros(self.num_features)

    def _make_constants(self, dtype: Any) -> None:
        """Stand-ins for gamma, beta and their gradients in a layer without them."""
        self.gamma, self.beta, self.d_gamma, self.d_beta = (
            np.full(self.num_features, value, dtype) for value in (1, 0, 0, 0)
        )

    def state(self) -> dict[str, Array]:
        """See `Layer.state`."""
        averages = {"running_mean": self.running_mean, "running_var": self.running_var}
        return averages | ({"batches": self.batches} if self.momentum is None else {})

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, ..., C) -> y of the same shape."""
        mean, var = self.running_mean, self.running_var
        if run.training:
            if math.prod(x.shape[:-1]) < 2:
                raise SvdValueError(
                    f"layer {self.name!r}: got a batch of shape {public_shape(x.shape[1:]).replace('B', '1', 1)}, one "
                    "number per channel, whose variance is 0; expected more examples: choose a batch_size that leaves "
                    "no single example over"
                )
            mean, var = (self.memory.get(name, (self.num_features,), np.float64) for name in ("mean", "var"))
            run.backend.batch_moments(x, mean, var, self.memory)
        if not self.affine and self.gamma.dtype != x.dtype:  # without parameters, only the inputs tell the dtype
            self._make_constants(x.dtype)
        y = self.memory.get("y", x.shape, x.dtype)
        run.backend.batch_norm_forward(x, mean, var, self.eps, self.gamma, self.beta, y)
        self._x, self._mean, self._var = x, mean, var
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy -> dx. With `run.learn`, update the running averages: the loss is known to be finite by now."""
        x = self._x
        dx = self.memory.get("dx", x.shape, x.dtype) if want_dx else None
        run.backend.batch_norm_backward(
            x, self._mean, self._var, self.eps, self.gamma, run.training, dy,
            self.d_gamma, self.d_beta, dx, self.memory,
        )  # fmt: skip
        if run.learn:
            count = math.prod(x.shape[:-1])
            unbiased = count / (count - 1)
            if self.momentum is None:
                run.backend.average(self.running_mean, self._mean, self.batches, 1)
                run.backend.average(self.running_var, self._var, self.batches, 0, unbiased)
            else:
                run.backend.blend(self.running_mean, self._mean, self.momentum)
                run.backend.blend(self.running_var, self._var, self.momentum, unbiased)
        return dx
