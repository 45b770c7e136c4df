"""Two-dimensional convolutions: the plain one and the variational one. Both are dense layers on im2col rows."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from svd_numpy.checks import SvdValueError, check_count
from svd_numpy.kernels.backend import Array, Backend, Buffers
from svd_numpy.kernels.window import Window
from svd_numpy.network.layers.base import Layer, Pass, public_shape
from svd_numpy.network.layers.grouped import Grouped, full_matrix
from svd_numpy.network.layers.weighted import Variational, Weighted
from svd_numpy.network.params import ParamSpec

Pair = int | tuple[int, int]
Sides = Pair | Literal["same"]


def check_pair(name: str, value: Any, low: int = 1) -> tuple[int, int]:
    """Return a pair (vertical, horizontal) of whole numbers; one number stands for both."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise SvdValueError(f"{name}: got {value!r}, expected a number or a pair (vertical, horizontal)")
    return check_count(name, pair[0], low=low), check_count(name, pair[1], low=low)


def slide(
    layer: Layer, in_shape: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int], dilation: tuple[int, int] = (1, 1),
) -> Window:  # fmt: skip
    """Return a layer's window over images (H, W, C); raise if it does not fit."""
    if len(in_shape) != 3:
        raise SvdValueError(
            f"layer {layer.name!r}: got inputs of shape {public_shape(in_shape)}, expected images (B, C, H, W); "
            "give Sequential an input_shape=(C, H, W), and put it before Flatten"
        )
    height, width, channels = in_shape
    window = Window(height, width, channels, kernel, stride, padding, dilation)
    if min(window.out) < 1:
        raise SvdValueError(
            f"layer {layer.name!r}: a kernel of {kernel} with dilation {dilation} is larger than images of "
            f"{height} x {width} with padding {padding}; use a smaller kernel, more padding, or fewer layers before it"
        )
    return window


class Conv2d(Weighted):
    """Cross-correlation of images with a bank of filters, called a convolution as in most libraries.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int)
    stride, dilation : int or (int, int)
        In pixels.
    padding : int, (int, int) or "same"
        Zeros around the images, in pixels. "same" adds as many as keep the size of the images, for a stride of 1 and a
        kernel of odd sides. For anything else, or other modes of padding, put a `Pad2d` before the layer.
    groups : int
        Number of groups into which channels and filters are divided; a filter sees only the channels of its own group.
        Each group is a product of its own, so many groups are slow.
    bias : bool
    theta_std : float, optional
        Standard deviation of the Gaussian from which theta is initialised; default sqrt(2 / taps), with taps =
        in_channels / groups * kernel area (He et al. 2015).
    name : str, optional

    Notes
    -----
    In `Sequential.parameters`, theta has shape (KH, KW, C / groups, O). `Sequential.take` cannot remove channels before
    or filters of a layer with groups.
    """

    kind = "conv"
    axes = {  # noqa: RUF012
        "theta": (None, None, "in", "out"), "log_sigma2": (None, None, "in", "out"), "bias": ("out",),
    }  # fmt: skip

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Sides = 0,
        dilation: Pair = 1, groups: int = 1, bias: bool = True, theta_std: float | None = None,
        name: str | None = None,
    ) -> None:  # fmt: skip
        self.in_channels = check_count("in_channels", in_channels)
        self.out_channels = check_count("out_channels", out_channels)
        self.kernel_size = check_pair("kernel_size", kernel_size)
        self.stride, self.dilation = check_pair("stride", stride), check_pair("dilation", dilation)
        self.padding = self._same() if padding == "same" else check_pair("padding", padding, low=0)
        self.groups = check_count("groups", groups, high=2**16)
        if in_channels % groups or out_channels % groups:
            raise SvdValueError(
                f"groups: got {groups}, expected a divisor of the {in_channels} channels and the {out_channels} filters"
            )
        self.theta_shape = (*self.kernel_size, in_channels // groups, out_channels)
        super().__init__(math.prod(self.theta_shape[:3]), bias, theta_std, name)
        self._memories = [Buffers() for _ in range(groups)]
        if groups > 1:  # the inputs of a weight are counted within its group
            weights = (None, None, None, "out")
            self.axes = {"theta": weights, "log_sigma2": weights, "bias": ("out",)}

    def _same(self) -> tuple[int, int]:
        """The padding that keeps the size of the images."""
        added = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if self.stride != (1, 1):
            raise SvdValueError(
                f"padding: got 'same' with stride {self.stride}, expected stride 1; give numbers instead"
            )
        if any(count % 2 for count in added):
            raise SvdValueError(
                f"padding: got 'same' with kernel_size {self.kernel_size}, which needs {added} pixels (vertical, "
                "horizontal), not the same at both sides; use odd kernels, or put a Pad2d((left, right, top, bottom)) "
                "before the layer and give it padding=0"
            )
        return added[0] // 2, added[1] // 2

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        own = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        values = ((key, getattr(self, key)) for key in own)
        return {**super().config(), **{key: list(v) if isinstance(v, tuple) else v for key, v in values}}

    def fields(self, array: Array, image_shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
        """See `Weighted.fields`."""
        pictures = array.reshape(self.theta_shape).transpose(2, 0, 1, 3)
        return pictures.reshape(array.shape), pictures.shape[:3]

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        self.window = slide(self, in_shape, self.kernel_size, self.stride, self.padding, self.dilation)
        if self.window.channels != self.in_channels:
            raise SvdValueError(
                f"layer {self.name!r}: got images of {self.window.channels} channels, expected {self.in_channels}; "
                f"make its first argument {self.window.channels}, or fix the layer before it"
            )
        return (*self.window.out, self.out_channels), self._specs(rng)

    def take(self, outputs: Array, inputs: Array) -> Array:
        """See `Layer.take`."""
        if self.groups > 1 and (len(inputs) < self.in_channels or len(outputs) < self.out_channels):
            raise SvdValueError(
                f"take: layer {self.name!r} has groups, so it must keep its {self.in_channels} channels and "
                f"{self.out_channels} filters; keep all outputs of it and of the layer before it"
            )
        return super().take(outputs, inputs)

    def full_theta(self, theta: Array) -> Array:
        """See `Weighted.full_theta`."""
        return theta if self.groups == 1 else full_matrix(theta, self.groups, math.prod(self.kernel_size))

    def _products(self, run: Pass) -> Backend | Grouped:
        return run.backend if self.groups == 1 or self.living is not None else Grouped(run.backend, self._memories)

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """See `Layer.resized`."""
        return {**self.config(), "in_channels": n_in, "out_channels": n_out}


class VariationalConv2d(Variational, Conv2d):
    """Convolution whose weights are Gaussians N(theta, exp(log_sigma2)) (Molchanov et al. 2017, §4.2).

    In training it samples the pre-activations rather than the weights, with independent noise for every example,
    output channel and position. Each output has the mean and variance that sampled weights would give it; the
    correlation between outputs of one example, which would share those weights, is neglected, as in the paper.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, theta_std, name
        As in `Conv2d`.
    log_sigma2 : float
        Initial value of every log_sigma2 (the paper's code: -10).
    sigma_max : float, optional
        The largest sigma that training may reach; default: 148 (log_sigma2 = 10).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Sides = 0,
        dilation: Pair = 1, groups: int = 1, bias: bool = True, theta_std: float | None = None,
        log_sigma2: float = -10.0, sigma_max: float | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, theta_std, name
        )
        self._set_variance(log_sigma2, sigma_max)
