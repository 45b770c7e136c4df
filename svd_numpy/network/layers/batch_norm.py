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
            mean, var = (self.memory.get(name, (self.num_features,), np.float64) for name in ("mean", "var"))
            if run.surveyed is None:
                self._count = math.prod(x.shape[:-1])
                run.backend.batch_moments(x, mean, var, self.memory)
            else:
                self._count = _merge(run.surveyed, mean, var)
            if self._count < 2:
                raise SvdValueError(
                    f"layer {self.name!r}: got a batch of shape {public_shape(x.shape[1:]).replace('B', '1', 1)}, one "
                    "number per channel, whose variance is 0; expected more examples: choose a batch_size that leaves "
                    "no single example over"
                )
        if not self.affine and self.gamma.dtype != x.dtype:  # without parameters, only the inputs tell the dtype
            self._make_constants(x.dtype)
        y = self.memory.get("y", x.shape, x.dtype)
        run.backend.batch_norm_forward(x, mean, var, self.eps, self.gamma, self.beta, y)
        self._x, self._mean, self._var = x, mean, var
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy -> dx. With `run.learn`, update the running averages: the loss is known to be finite by now."""
        if run.surveyed is None:
            dx = self._differentiate(dy, run, run.training, want_dx)
        else:
            dx = self._dx
            if dx is not None:
                self._pull(dx, run)
        if run.learn:
            unbiased = self._count / (self._count - 1)
            if self.momentum is None:
                run.backend.average(self.running_mean, self._mean, self.batches, 1)
                run.backend.average(self.running_var, self._var, self.batches, 0, unbiased)
            else:
                run.backend.blend(self.running_mean, self._mean, self.momentum)
                run.backend.blend(self.running_var, self._var, self.momentum, unbiased)
        return dx

    def _differentiate(self, dy: Array, run: Pass, of_batch: bool, want_dx: bool) -> Array | None:
        """Write d_gamma and d_beta; return dx if wanted."""
        dx = self.memory.get("dx", self._x.shape, self._x.dtype) if want_dx else None
        run.backend.batch_norm_backward(
            self._x, self._mean, self._var, self.eps, self.gamma, of_batch, dy,
            self.d_gamma, self.d_beta, dx, self.memory,
        )  # fmt: skip
        return dx

    def survey(self, x: Array, run: Pass) -> Array:
        """See `Layer.survey`: how many numbers each channel has, their means and their variances."""
        mean, var = (self.memory.get(name, (self.num_features,), np.float64) for name in ("mean", "var"))
        run.backend.batch_moments(x, mean, var, self.memory)
        return np.concatenate([[math.prod(x.shape[:-1])], mean, var])

    def survey_back(self, dy: Array, run: Pass, want_dx: bool) -> Array:
        """See `Layer.survey_back`: d_gamma and d_beta; and dx as if mean and var were constants."""
        self._dx = self._differentiate(dy, run, False, want_dx)
        return np.concatenate([self.d_gamma, self.d_beta]).astype(np.float64)

    def _pull(self, dx: Array, run: Pass) -> None:
        """Subtract gamma / std * (d_beta + n d_gamma) / R from dx, with the sums and the R of all shards."""
        assert run.surveyed is not None
        d_gamma, d_beta = run.surveyed.sum(axis=0).reshape(2, -1)
        share = self.gamma / np.sqrt(self._var + self.eps) / self._count
        pull = self.memory.get("pull", dx.shape, dx.dtype)
        scale, shift = ((share * each).astype(dx.dtype) for each in (d_gamma, d_beta))
        run.backend.batch_norm_forward(self._x, self._mean, self._var, self.eps, scale, shift, pull)
        np.subtract(dx, pull, out=dx)


def _merge(surveyed: Array, mean: Array, var: Array) -> int:
    """Write mean and variance of a batch, given those of its shards (`BatchNorm.survey`); return its count."""
    counts, (means, variances) = surveyed[:, :1], np.split(surveyed[:, 1:], 2, axis=1)
    total = counts.sum()
    mean[:] = (counts * means).sum(axis=0) / total
    var[:] = (counts * (variances + (means - mean) ** 2)).sum(axis=0) / total
    return int(total)
