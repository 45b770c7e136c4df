"""A compact network as the steps that a microcontroller takes, in float64.

There are two kinds: an `ImageStep`, a convolution with its pooling, and a `DenseStep`. Everything else in a compact
network becomes one of them. A scaling has a diagonal matrix, a pooling on its own follows a convolution that changes
nothing, and what ends with an image is read out by an identity matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.window import Window, im2col
from svd_numpy.sparse import ConvOp, DenseOp, Op, PadOp, PoolOp, ScaleOp, SparseModel, TakeOp

_MOST_SIZE = 2**15 - 1  # of anything that is counted in C, where an int may have 16 bits


@dataclass(frozen=True, eq=False)
class ImageStep:
    """Convolution, then ReLU if `relu`, then pooling.

    Attributes
    ----------
    name : str
        Layer that it comes from.
    window : Window
        Geometry of the convolution.
    matrix : array (taps, O)
        Taps as `Window` numbers them.
    bias : array (O,)
    relu : bool
    pool : Window
        Geometry of the pooling over the convolution's outputs; 1 x 1 if there is none.
    mean : bool
        Whether the pooling takes means, in which pixels outside count as 0, rather than maxima.
    """

    name: str
    window: Window
    matrix: Array
    bias: Array
    relu: bool
    pool: Window
    mean: bool

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one result, (OH, OW, O)."""
        return (*self.pool.out, len(self.bias))

    @property
    def streamed(self) -> bool:
        """Whether the convolution's rows can be pooled one by one, each used once: for maxima that do not overlap."""
        return not self.mean and self.pool.padding[0] == 0 and self.pool.kernel[0] <= self.pool.stride[0]

    @property
    def padding(self) -> tuple[int, int]:
        """Rows above (and below) and columns left (and right) of its images that it may look at.

        If it is not streamed, the rows include those for outputs of the convolution that the pooling then skips.
        """
        skipped = self.pool.padding[0] * self.window.stride[0]
        return self.window.padding[0] + skipped, self.window.padding[1]

    @property
    def seen_rows(self) -> int:
        """Rows of its images, with padding, that it needs at once: for a row of the convolution, or of the results."""
        (kernel, _), (stride, _), (dilation, _) = self.window.kernel, self.window.stride, self.window.dilation
        more = 0 if self.streamed else (self.pool.kernel[0] - 1) * stride
        return more + (kernel - 1) * dilation + 1

    @property
    def row_step(self) -> int:
        """By how many rows of its images the next row of its results looks further down."""
        return self.pool.stride[0] * self.window.stride[0]

    def seen(self, x: Array, pad: float = 0.0) -> Array:
        """x (B, H, W, C), with `pad` around it -> what the convolution sees at each position (B * P, taps)."""
        height, width = self.window.padded
        return im2col(self.window.pad(x, pad), self.window._replace(height=height, width=width, padding=(0, 0)))

    def products(self, x: Array, matrix: Array, bias: Array, pad: float = 0.0) -> Array:
        """x (B, H, W, C), with `pad` around it -> the convolution (B, CH, CW, O), before ReLU and pooling."""
        return (self.seen(x, pad) @ matrix + bias).reshape(len(x), *self.window.out, len(bias))

    def pooled(self, y: Array) -> Array:
        """y (B, CH, CW, O) -> sums or maxima of the pooling's windows (B, OH, OW, O)."""
        views = list(self.pool.views(self.pool.pad(y, 0.0 if self.mean else -np.inf)))
        return np.sum(views, axis=0) if self.mean else np.maximum.reduce(views)

    def apply(self, x: Array) -> Array:
        """x (B, H, W, C) -> y (B, OH, OW, O)."""
        y = self.products(x, self.matrix, self.bias)
        y = self.pooled(np.maximum(y, 0) if self.relu else y)
        return y / math.prod(self.pool.kernel) if self.mean else y


@dataclass(frozen=True, eq=False)
class DenseStep:
    """y = x[inputs] @ matrix + bias, then ReLU if `relu`; inputs (I,) count in the flattened activations before it."""

    name: str
    inputs: Array
    matrix: Array
    bias: Array
    relu: bool

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one result, (O,)."""
        return (len(self.bias),)

    def seen(self, x: Array, pad: float = 0.0) -> Array:
        """x (B, ...) -> what it reads (B, I); there is no padding."""
        return x.reshape(len(x), -1)[:, self.inputs]

    def apply(self, x: Array) -> Array:
        """x (B, ...) -> y (B, O)."""
        y = self.seen(x) @ self.matrix + self.bias
        return np.maximum(y, 0) if self.relu else y


Step = ImageStep | DenseStep


@dataclass(frozen=True, eq=False)
class Steps:
    """A whole network.

    Attributes
    ----------
    in_shape : tuple of int
        Shape of a raw example, (I,) or (C, H, W).
    index : array (n,)
        Position in a flattened raw example of each number that the first step sees.
    shape : tuple of int
        Shape of what the first step sees, (n,) or (H, W, C).
    mean : array (n,) or None
        Subtracted from it; only before an `ImageStep`.
    steps : tuple of Step
        The last one is a `DenseStep`.
    """

    in_shape: tuple[int, ...]
    index: Array
    shape: tuple[int, ...]
    mean: Array | None
    steps: tuple[Step, ...]

    @property
    def channels(self) -> Array:
        """For images: which channels of a raw example are read."""
        return self.index[: self.shape[2]] // (self.shape[0] * self.shape[1])

    @property
    def copied(self) -> bool:
        """Whether the input must be copied before the first step: to subtract the mean, or to put padding around it."""
        first = self.steps[0]
        return isinstance(first, ImageStep) and (self.mean is not None or any(first.padding))

    def taken(self, rows: Array) -> Array:
        """Raw rows (B, I) -> what the first step sees (B, *shape), before the mean is subtracted."""
        return rows[:, self.index].reshape(len(rows), *self.shape)


def steps_of(small: SparseModel) -> Steps:
    """Translate a compact network.

    Raises
    ------
    SvdValueError
        Naming the layer, for one that is too large, a padding on its own, means that leave out their padding, or pixels
        in an order that `compress` does not write.
    """
    take, *ops = small.ops
    assert isinstance(take, TakeOp)
    steps, shape = list[Step](), take.out_shape
    for number, op in enumerate(ops):
        before = ops[number - 1] if number else None
        _refuse(op)
        if isinstance(op, PoolOp) and isinstance(before, ConvOp):
            steps[-1] = _pooled(steps[-1], op)
        elif isinstance(op, PoolOp):
            steps.append(_pooled(_diagonal(op.name, op.window[:3], np.ones(op.window.channels)), op))
        else:
            steps.append(_step(op))
        shape = op.out_shape
    if not steps or isinstance(steps[-1], ImageStep):
        size = math.prod(shape)
        steps.append(DenseStep("outputs", np.arange(size), np.eye(size), np.zeros(size), False))
    mean = None if take.mean is None else take.mean.astype(np.float64)
    first = steps[0]
    if isinstance(first, DenseStep) and mean is not None:
        bias = first.bias - mean[first.inputs] @ first.matrix
        steps[0], mean = DenseStep(first.name, first.inputs, first.matrix, bias, first.relu), None
    found = Steps(take.in_shape, take.index.astype(np.int64), take.out_shape, mean, tuple(steps))
    _check(found)
    return found


def _refuse(op: Op) -> None:
    """Refuse what the C code does not do, before anything is written."""
    if isinstance(op, PadOp):
        raise SvdValueError(
            f"export_c: layer {op.name!r} pads images, which the C code leaves to convolutions; give the convolution "
            "after it the padding (zeros, the same on both sides), or export to ONNX"
        )
    if isinstance(op, PoolOp) and op.kind == "avg_inside" and op.window.padding != (0, 0):
        raise SvdValueError(
            f"export_c: layer {op.name!r} takes means without the padding, expected count_include_pad=True, or no "
            "padding"
        )


def _step(op: Op) -> Step:
    if isinstance(op, DenseOp):
        return DenseStep(op.name, op.inputs.astype(np.int64), _matrix(op), op.bias.astype(np.float64), op.relu)
    if isinstance(op, ConvOp):
        pool = Window(*op.window.out, len(op.bias), (1, 1))
        return ImageStep(op.name, op.window, _matrix(op), op.bias.astype(np.float64), op.relu, pool, False)
    assert isinstance(op, ScaleOp)
    scale, shift = op.scale.astype(np.float64), op.shift.astype(np.float64)
    if len(op.out_shape) == 3:
        return _diagonal(op.name, op.out_shape, scale, shift, op.relu)
    return DenseStep(op.name, np.arange(len(scale)), np.diag(scale), shift, op.relu)


def _matrix(op: DenseOp | ConvOp) -> Array:
    return op.weights.matrix().astype(np.float64)


def _diagonal(
    name: str, shape: Sequence[int], scale: Array, shift: Array | None = None, relu: bool = False
) -> ImageStep:
    """Scale channels of images (H, W, C)."""
    height, width, channels = shape
    window = Window(height, width, channels, (1, 1))
    shift = np.zeros(channels) if shift is None else shift
    return ImageStep(name, window, np.diag(scale), shift, relu, window, False)


def _pooled(step: Step, op: PoolOp) -> ImageStep:
    """Give a step without a pooling the one that follows it."""
    assert isinstance(step, ImageStep)
    return ImageStep(step.name, step.window, step.matrix, step.bias, step.relu, op.window, op.kind != "max")


def _check(net: Steps) -> None:
    for step in net.steps:
        sizes = [len(step.matrix), len(step.bias), *step.out_shape]
        if isinstance(step, ImageStep):
            sizes += [*step.window.padded, *step.pool.padded, math.prod(step.out_shape[1:])]
        if max(sizes) > _MOST_SIZE:
            raise SvdValueError(
                f"export_c: layer {step.name!r} has a side of {max(sizes):,}, expected at most {_MOST_SIZE:,} inputs, "
                "outputs, rows and columns, because int may have 16 bits on a microcontroller"
            )
    if isinstance(net.steps[0], ImageStep):
        height, width, _ = net.shape
        pixels = np.arange(height * width)[:, None]
        if not np.array_equal(net.index, (net.channels * height * width + pixels).ravel()):
            raise SvdValueError(
                "export_c: 'input' takes pixels in an order of its own, expected whole channels in the order of the "
                "image, as compress writes them"
            )
