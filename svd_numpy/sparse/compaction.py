"""Compaction: remove from a pruned network what its outputs do not need; they stay the same.

Two passes over the stages are repeated until nothing changes. Forwards: a channel that depends on no input is constant,
and is folded into the bias of the stage that reads it wherever that is exact. Backwards: a channel that nothing reads
loses its weights. Channels that vary and are read are kept.

A convolution with padding sees a constant channel inside the image but zeros around it, which no bias can express. All
its constant channels are then merged into one that is 1 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.window import channels_last
from svd_numpy.sparse.cost import choose_form
from svd_numpy.sparse.ops import ConvOp, DenseOp, Op, PadOp, PoolOp, ScaleOp, TakeOp, Weights
from svd_numpy.sparse.stages import AnyStage, Padded, Pooling, Product, Scaling


def compact(
    stages: Sequence[AnyStage], in_shape: tuple[int, ...], inner_shape: tuple[int, ...], mean: Array
) -> list[Op]:
    """Compact a network.

    Parameters
    ----------
    stages : sequence of stages
        They are modified.
    in_shape, inner_shape : tuple of int
        Shape of an example as the user gives it and as the first stage sees it: (I,) and (I,), or (C, H, W) and
        (H, W, C).
    mean : array (prod(in_shape),)
        Subtracted from every example.

    Returns
    -------
    list of Op
        The first is a `TakeOp`.
    """
    stages = list(stages)
    order = channels_last(np.arange(len(mean)), in_shape).ravel()  # where each input of the first stage comes from
    mean = mean[order].astype(np.float64)
    first = stages[0] if stages else None
    if isinstance(first, Product) and first.window is None:
        first.bias, mean = first.bias - mean @ first.theta, np.zeros_like(mean)
    kept = _propagate(stages, inner_shape)
    start = max((n for n, channels in enumerate(kept) if not channels.size), default=0)
    for number, (stage, following) in enumerate(pairwise(stages), start=1):
        if isinstance(stage, Product) and isinstance(following, Product) and len(stage.out_shape) == 1:
            kept[number] = _by_weights(stage, kept[number])
    # After a boundary where no channel is kept everything is constant, so all stages before it can go.
    ops = [_cut(*piece) for piece in zip(stages[start:], kept[start:], kept[start + 1 :], strict=False)]
    taken = kept[0] if not start else kept[start]
    index = np.arange(len(order)).reshape(inner_shape)[..., taken]
    shape = index.shape if taken.size else (0,)
    offset = _float(mean[index.ravel()]) if mean[index].any() else None
    return [TakeOp("input", in_shape, shape, order[index.ravel()].astype(np.int32), offset), *ops]


# ---- which channels are constant, which are read ----


def _propagate(stages: list[AnyStage], inner_shape: tuple[int, ...]) -> list[Array]:
    """Fold constants and drop unread channels until nothing changes; return the channels kept at every boundary.

    Boundary n lies before stage n, the last one after all stages. Channels are counted along the last axis.
    """
    weights = -1
    while True:
        constant = np.full(inner_shape[-1], np.nan)
        for number, stage in enumerate(stages):
            constant = _forwards(stages[:number], stage, constant)
        kept = _backwards(stages, inner_shape)
        now = sum(int(np.count_nonzero(stage.theta)) for stage in stages if isinstance(stage, Product))
        if now == weights:
            return kept
        weights = now


def _forwards(before: list[AnyStage], stage: AnyStage, constant: Array) -> Array:
    """Fold the constant inputs of a stage where possible; return the constants after it.

    Constants are arrays (C,) over channels, NaN where a channel varies.
    """
    if isinstance(stage, Padded):
        return np.where((stage.padding.mode == "zeros") & (constant != 0), np.nan, constant)
    if isinstance(stage, Pooling):
        blurred = stage.kind == "avg" and stage.window.padding != (0, 0)  # zeros enter the means at the border
        return np.where(blurred & (constant != 0), np.nan, constant)
    constant = _spread(constant, stage)
    if isinstance(stage, Scaling):
        after = np.where(stage.scale == 0, 0.0, constant * stage.scale) + stage.shift
    else:
        _fold(before, stage, constant)
        after = np.where(stage.theta.any(axis=0), np.nan, stage.bias)
    return np.maximum(after, 0) if stage.relu else after  # the maximum of NaN and 0 is NaN


def _spread(channels: Array, stage: AnyStage) -> Array:
    """Repeat values of image channels for every column of the flattened images that a stage sees."""
    return np.resize(channels, stage.in_shape[-1])


def _fold(before: list[AnyStage], stage: Product, constant: Array) -> None:
    """Move the constant inputs of a stage from its weights into its bias, or into one channel of ones."""
    weights = stage.by_channel
    constant = np.where(weights.any(axis=(0, 2)), constant, np.nan)  # only channels that are read
    known = np.flatnonzero(~np.isnan(constant))
    gone = np.einsum("pco,c->po", weights[:, known], constant[known])
    if not stage.padded:
        stage.bias = stage.bias + gone.sum(axis=0)
        weights[:, known] = 0
        return
    weights[:, known[constant[known] == 0]] = 0
    known = known[constant[known] != 0]
    if known.size and (source := _source(before)) is not None:
        weights[:, known] = 0
        weights[:, known[0]] = gone
        source.bias[known[0]] = 1


def _source(before: list[AnyStage]) -> Product | None:
    """The stage whose biases set the constant channels: the last with weights, if no scaling follows it."""
    for stage in reversed(before):
        if isinstance(stage, Product):
            return stage
        if isinstance(stage, Scaling):
            return None
    return None


def _backwards(stages: list[AnyStage], inner_shape: tuple[int, ...]) -> list[Array]:
    """Zero the weights of channels that nothing reads; return the channels read at every boundary."""
    *shapes, last = inner_shape, *(stage.out_shape for stage in stages)
    read: Array = np.ones(last[-1], bool)
    kept = [read]
    for stage, shape in zip(reversed(stages), reversed(shapes), strict=True):
        if isinstance(stage, Product):
            stage.theta[:, ~read] = 0
            read = np.asarray(stage.by_channel.any(axis=(0, 2)))
            if stage.window is not None and not read.any():
                read[0] = True  # saves a special case for a convolution without input channels
        if len(read) != shape[-1]:  # a scaling of flattened images: channels stay or go as a whole
            read = np.asarray(read.reshape(-1, shape[-1]).any(axis=0))
            kept[0] = _spread(read, stage)
        kept.insert(0, read)
    return [np.flatnonzero(channels) for channels in kept]


# ---- cutting out the kept channels ----


def _cut(stage: AnyStage, before: Array, after: Array) -> Op:
    """The op of a stage, given the channels kept before and after it."""
    if isinstance(stage, Pooling):
        return PoolOp(stage.name, stage.kind, stage.window._replace(channels=len(before)))
    if isinstance(stage, Padded):
        return PadOp(stage.name, stage.padding, len(before))
    if isinstance(stage, Scaling):
        shape = (*stage.out_shape[:-1], len(after))
        return ScaleOp(stage.name, shape, _float(stage.scale[after]), _float(stage.shift[after]), stage.relu)
    theta = _float(stage.by_channel[:, before][:, :, after].reshape(-1, len(after)))
    bias = _float(stage.bias[after])
    if stage.window is not None:
        window = stage.window._replace(channels=len(before))
        weights = Weights.from_matrix(theta, choose_form(theta))
        return ConvOp(stage.name, stage.before, window, weights, bias, stage.relu)
    inputs = np.flatnonzero(theta.any(axis=1)).astype(np.int32)
    weights = Weights.from_matrix(theta[inputs], choose_form(theta[inputs]))
    return DenseOp(stage.name, stage.before, inputs, weights, bias, stage.relu)


def _by_weights(stage: Product, channels: Array) -> Array:
    """Sort hidden units by their number of inputs, most first, so that units in a vector have lists of like length."""
    return channels[np.argsort(-np.count_nonzero(stage.theta[:, channels], axis=0), kind="stable")]


def _float(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32)
