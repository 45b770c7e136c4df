"""The operations of a compact network as data, each with its meaning in plain NumPy.

A compact network is a list of ops: a `TakeOp`, then any of the others, each applied to the output of the one before.
Rows are (B, F), images (B, H, W, C), channels last. A `DenseOp` after images sees them flattened in that order, and the
network's outputs are flattened likewise. All arrays are float32 or int32 and read-only.

An op bears the name of the layer it comes from. Batch normalisation has been folded into weights and biases, constants
into the biases after them, and dropout does nothing at inference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.padding import Padding, sources
from svd_numpy.kernels.window import Window, im2col

Form = Literal["dense", "sparse"]
PoolKind = Literal["max", "avg", "avg_inside"]


@dataclass(frozen=True, eq=False)
class Weights:
    """A matrix (I, O) in one of two forms.

    Attributes
    ----------
    shape : (int, int)
        Inputs I (for a convolution: taps) and outputs O.
    values : array
        In the dense form (I, O), zeros included. In the sparse form (nnz,): the nonzeros of output 0 by increasing
        input, then those of output 1, and so on.
    rows : array (nnz,) of int32, or None in the dense form
        The input of each value.
    starts : array (O + 1,) of int32, or None in the dense form
        The values of output o are those from starts[o] up to starts[o + 1].
    """

    shape: tuple[int, int]
    values: Array
    rows: Array | None = None
    starts: Array | None = None

    @classmethod
    def from_matrix(cls, matrix: Array, form: Form) -> Weights:
        """Store a matrix (I, O) in the given form."""
        matrix = np.ascontiguousarray(matrix, np.float32)
        if form == "dense":
            return cls(matrix.shape, matrix)
        outputs, rows = np.nonzero(matrix.T)
        starts = np.searchsorted(outputs, np.arange(matrix.shape[1] + 1))
        return cls(matrix.shape, matrix[rows, outputs], rows.astype(np.int32), starts.astype(np.int32))

    @property
    def form(self) -> Form:
        """Which of the two forms this is."""
        return "dense" if self.rows is None else "sparse"

    @property
    def kept(self) -> int:
        """Weights that are not zero."""
        return int(np.count_nonzero(self.values))

    def matrix(self) -> Array:
        """The matrix (I, O), zeros included."""
        if self.rows is None or self.starts is None:
            return self.values
        matrix = np.zeros(self.shape, np.float32)
        matrix[self.rows, np.repeat(np.arange(self.shape[1]), np.diff(self.starts))] = self.values
        return matrix


def _rectified(y: Array, relu: bool) -> Array:
    return np.maximum(y, y.dtype.type(0)) if relu else y


@dataclass(frozen=True, eq=False)
class TakeOp:
    """Select the inputs that the network reads from a raw example.

    Attributes
    ----------
    name : str
        "input".
    in_shape : tuple of int
        Shape of a raw example, (I,) or (C, H, W): channels first, as the user gives it.
    out_shape : tuple of int
        Shape of the selection: (n,), or (H, W, C) with the channels that are read.
    index : array (n,) of int32
        Position of each selected number in a flattened raw example.
    mean : array (n,) or None
        Subtracted from the selection; None if there is no mean, or if the first layer's biases include it.
    """

    name: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    index: Array
    mean: Array | None

    def apply(self, x: Array) -> Array:
        """x (B, prod(in_shape)), uint8 pixels already divided by 255 -> (B, *out_shape)."""
        taken = x[:, self.index]
        return (taken if self.mean is None else taken - self.mean).reshape(len(x), *self.out_shape)


@dataclass(frozen=True, eq=False)
class DenseOp:
    """y = x[inputs] @ weights + bias, then ReLU if `relu`.

    Attributes
    ----------
    name : str
        Name of the original layer.
    before : (int, int)
        Inputs and outputs of that layer.
    inputs : array (I,) of int32
        Which numbers of the (flattened) activations before this op it reads, ascending.
    weights : Weights (I, O)
    bias : array (O,)
    relu : bool
    """

    name: str
    before: tuple[int, ...]
    inputs: Array
    weights: Weights
    bias: Array
    relu: bool

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one result, (O,)."""
        return (self.weights.shape[1],)

    def apply(self, x: Array) -> Array:
        """x (B, ...) -> y (B, O)."""
        rows = x.reshape(len(x), math.prod(x.shape[1:]))[:, self.inputs]
        return _rectified(rows @ self.weights.matrix() + self.bias, self.relu)


@dataclass(frozen=True, eq=False)
class ConvOp:
    """Convolution of the live channels with the live filters, then ReLU if `relu`.

    Attributes
    ----------
    name : str
        Name of the original layer.
    before : (int, int, int, int)
        Kernel height, kernel width, channels (of a group) and filters of that layer.
    window : Window
        Geometry over the live channels. Padding is zeros.
    weights : Weights (KH * KW * C, O)
        Taps as `Window` numbers them: (ky * KW + kx) * C + c.
    bias : array (O,)
    relu : bool
    """

    name: str
    before: tuple[int, ...]
    window: Window
    weights: Weights
    bias: Array
    relu: bool

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one result, (OH, OW, O)."""
        return (*self.window.out, self.weights.shape[1])

    def apply(self, x: Array) -> Array:
        """x (B, H, W, C) -> y (B, OH, OW, O)."""
        y = im2col(x, self.window) @ self.weights.matrix() + self.bias
        return _rectified(y, self.relu).reshape(len(x), *self.out_shape)


@dataclass(frozen=True, eq=False)
class PoolOp:
    """The maximum or the mean of each window, channel by channel.

    Attributes
    ----------
    name : str
        Name of the original layer.
    kind : "max", "avg" or "avg_inside"
        Pixels outside the image count as minus infinity for "max"; for "avg" they count as 0 and enter the mean, for
        "avg_inside" they do not.
    window : Window
        Geometry over the live channels.
    """

    name: str
    kind: PoolKind
    window: Window

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one result, (OH, OW, C)."""
        return (*self.window.out, self.window.channels)

    def apply(self, x: Array) -> Array:
        """x (B, H, W, C) -> y (B, OH, OW, C)."""
        if self.kind == "max":
            views = self.window.views(self.window.pad(x, -np.inf))
            y = next(views).copy()
            for view in views:
                np.maximum(y, view, out=y)
            return y
        total = sum(self.window.views(self.window.pad(x)))
        mean = np.asarray(total) * x.dtype.type(1 / math.prod(self.window.kernel))
        return mean if self.kind == "avg" else mean * self.factors.astype(x.dtype)[:, :, None]

    @property
    def factors(self) -> Array:
        """What means over all pixels of a window are multiplied by, (OH, OW), to be means over those inside."""
        return 1 / self.window.share_inside


@dataclass(frozen=True, eq=False)
class PadOp:
    """Images with pixels added around them.

    Attributes
    ----------
    name : str
        Name of the original layer.
    padding : Padding
    channels : int
        Live channels.
    """

    name: str
    padding: Padding
    channels: int

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one result, (H', W', C)."""
        return (*self.padding.out, self.channels)

    def apply(self, x: Array) -> Array:
        """x (B, H, W, C) -> y (B, H', W', C)."""
        source = sources(self.padding)
        pixels = x.reshape(len(x), -1, self.channels)[:, source] * (source >= 0).astype(x.dtype)[:, None]
        return np.asarray(pixels.reshape(len(x), *self.out_shape))


@dataclass(frozen=True, eq=False)
class ScaleOp:
    """y = x * scale + shift, channel by channel, then ReLU if `relu`.

    What remains of a batch normalisation or ReLU that could not be folded into a layer with weights.

    Attributes
    ----------
    name : str
        Name of the original layer.
    out_shape : tuple of int
        Shape of one result, (F,) or (H, W, C). Inputs have the same shape, or are images that (F,) flattens.
    scale, shift : array (out_shape[-1],)
    relu : bool
    """

    name: str
    out_shape: tuple[int, ...]
    scale: Array
    shift: Array
    relu: bool

    def apply(self, x: Array) -> Array:
        """x (B, ...) -> y (B, *out_shape)."""
        return _rectified(x.reshape(len(x), *self.out_shape) * self.scale + self.shift, self.relu)


Op = TakeOp | DenseOp | ConvOp | PoolOp | ScaleOp | PadOp
WeightedOp = DenseOp | ConvOp


def channels_first(numbers: Array, shape: tuple[int, ...]) -> Array:
    """Reorder the numbers of an image (H, W, C) to channels first; those of other shapes stay as they are."""
    return numbers.reshape(shape).transpose(2, 0, 1).ravel() if len(shape) == 3 else numbers


def apply_ops(ops: tuple[Op, ...], x: Array) -> Array:
    """Run rows x (B, I) of floats through all ops in NumPy, in the dtype of x; return (B, outputs)."""
    rows = len(x)
    for op in ops:
        x = op.apply(x)
    return x.reshape(rows, math.prod(x.shape[1:]))
