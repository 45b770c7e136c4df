"""Compaction: what a pruned network need not compute is taken out of it, and its outputs stay the same.

Two passes over the stages, until nothing changes. Forwards: a channel that depends on no input is a constant; it goes
into the bias of the stage that reads it, where that is exact. Backwards: a channel that nothing reads needs no
weights. What is neither constant nor unread is kept.

A convolution with padding sees a constant channel only inside the image and zeros around it, which no bias can say.
All constant channels together then become one that is 1 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.window import channels_last
from svd_numpy.sparse.cost import choose_form
from svd_numpy.sparse.ops import ConvOp, DenseOp, Op, PoolOp, ScaleOp, TakeOp, Weights
from svd_numpy.sparse.stages import AnyStage, Pooling, Product, Scaling


def compact(
    stages: Sequence[AnyStage], in_shape: tuple[int, ...], inner_shape: tuple[int, ...], mean: Array
) -> list[Op]:
    """Compact a network.

    Parameters
    ----------
    stages : sequence of stages
        Changed in the course.
    in_shape, inner_shape : tuple of int
        Of an example as the user gives it, and as the first stage sees it: (I,) and (I,), or (C, H, W) and (H, W, C).
    mean : array (prod(in_shape),)
        Subtracted from every example.

    Returns
    -------
    list of Op
        The first is a `TakeOp`.
    """
    stages = list(stages)
    order = channels_last(
        np.arange(len(mean)), in_shape
    ).ravel()  # where the numbers of a first stage's input come from
    mean = mean[order].astype(np.float64)
    first = stages[0] if stages else None
    if isinstance(first, Product) and first.window is None:
        first.bias, mean = first.bias - mean @ first.theta, np.zeros_like(mean)
    kept = _propagate(stages, inner_shape)
    start = max((n for n, channels in enumerate(kept) if not channels.size), default=0)
    for number, (stage, following) in enumerate(pairwise(stages), start=1):
        if isinstance(stage, Product) and isinstance(following, Product) and len(stage.out_shape) == 1:
            kept[number] = _by_weights(stage, kept[number])
    # Behind a boundary where nothing is kept there are only constants, and what comes before it is not needed.
    ops = [_cut(*piece) for piece in zip(stages[start:], kept[start:], kept[start + 1 :], strict=False)]
    taken = kept[0] if not start else kept[start]
    index = np.arange(len(order)).reshape(inner_shape)[..., taken]
    shape = index.shape if taken.size else (0,)
    offset = _float(mean[index.ravel()]) if mean[index].any() else None
    return [TakeOp("input", in_shape, shape, order[index.ravel()].astype(np.int32), offset), *ops]


# ---- what is constant, what is read ----


def _propagate(stages: list[AnyStage], inner_shape: tuple[int, ...]) -> list[Array]:
    """Fold constants and drop what is unread until nothing changes; return the channels kept at every boundary.

    Boundary n lies before stage n; the last one are the outputs. Channels are numbers along the last axis there.
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
    """From the constants before a stage (C,), NaN where a channel varies, to those behind it; fold what can be."""
    if isinstance(stage, Pooling):
        blurred = stage.kind == "avg" and stage.window.padding != (0, 0)  # zeros enter the means at the border
        return np.where(blurred & (constant != 0), np.nan, constant)
    constant = _spread(constant, stage)
    if isinstance(stage, Scaling):
        behind = np.where(stage.scale == 0, 0.0, constant * stage.scale) + stage.shift
    else:
        _fold(before, stage, constant)
        behind = np.where(stage.theta.any(axis=0), np.nan, stage.bias)
    return np.maximum(behind, 0) if stage.relu else behind  # the maximum of NaN and 0 is NaN


def _spread(channels: Array, stage: AnyStage) -> Array:
    """What is said of the channels of images, said of the columns that a stage on flattened images sees."""
    return np.resize(channels, stage.in_shape[-1])


def _fold(before: list[AnyStage], stage: Product, constant: Array) -> None:
    """Take the constant inputs of a stage out of its weights."""
    weights = stage.by_channel
    constant = np.where(weights.any(axis=(0, 2)), constant, np.nan)  # those that are read
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
    """The stage whose biases are what a constant channel holds: one with weights, with nothing but poolings behind."""
    for stage in reversed(before):
        if isinstance(stage, Product):
            return stage
        if isinstance(stage, Scaling):
            return None
    return None


def _backwards(stages: list[AnyStage], inner_shape: tuple[int, ...]) -> list[Array]:
    """Zero the weights of channels that nothing reads; return the channels that are read at every boundary."""
    read: Array = np.ones(stages[-1].out_shape[-1], bool)
    kept = [read]
    for stage, shape in zip(reversed(stages), [s.out_shape for s in stages[-2::-1]] + [inner_shape], strict=True):
        if isinstance(stage, Product):
            stage.theta[:, ~read] = 0
            read = np.asarray(stage.by_channel.any(axis=(0, 2)))
            if stage.window is not None and not read.any():
                read[0] = True  # a convolution of no images at all is not worth a special case
        if len(read) != shape[-1]:  # a scaling of flattened images: whole channels stay, or go
            read = np.asarray(read.reshape(-1, shape[-1]).any(axis=0))
            kept[0] = _spread(read, stage)
        kept.insert(0, read)
    return [np.flatnonzero(channels) for channels in kept]


# ---- cutting out what is kept ----


def _cut(stage: AnyStage, before: Array, behind: Array) -> Op:
    """The op of a stage, from the channels kept before and behind it."""
    if isinstance(stage, Pooling):
        return PoolOp(stage.name, "max" if stage.kind == "max" else "avg", stage.window._replace(channels=len(before)))
    if isinstance(stage, Scaling):
        shape = (*stage.out_shape[:-1], len(behind))
        return ScaleOp(stage.name, shape, _float(stage.scale[behind]), _float(stage.shift[behind]), stage.relu)
    theta = _float(stage.by_channel[:, before][:, :, behind].reshape(-1, len(behind)))
    bias = _float(stage.bias[behind])
    if stage.window is not None:
        window = stage.window._replace(channels=len(before))
        weights = Weights.from_matrix(theta, choose_form(theta))
        return ConvOp(stage.name, stage.before, window, weights, bias, stage.relu)
    inputs = np.flatnonzero(theta.any(axis=1)).astype(np.int32)
    weights = Weights.from_matrix(theta[inputs], choose_form(theta[inputs]))
    return DenseOp(stage.name, stage.before, inputs, weights, bias, stage.relu)


def _by_weights(stage: Product, channels: Array) -> Array:
    """Hidden units with their inputs' number falling: vectors of neighbours then have lists of like length."""
    return channels[np.argsort(-np.count_nonzero(stage.theta[:, channels], axis=0), kind="stable")]


def _float(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32)
