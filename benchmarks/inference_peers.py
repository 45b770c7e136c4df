"""Candidates of the inference benchmark without PyTorch: the compact network, and what NumPy and SciPy make of it.

All see the same trained network, in the file that the variable NETWORK names, and the same images, float32 in [0, 1].
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from workload import Step, Workload

import svd_numpy as svd
from svd_numpy.sparse import DenseOp, SparseModel, TakeOp

NETWORK = "SVD_NUMPY_BENCHMARK_NETWORK"
Array = NDArray[Any]


class Answer:
    """What a step returns: the last outputs, looked at only outside the timed blocks."""

    def __init__(self, read: Callable[[Any], float]) -> None:
        self.outputs: Any = None
        self._read = read

    def __float__(self) -> float:
        return self._read(self.outputs)


def step_of(
    predict: Callable[[Any], Any], x: Any, read: Callable[[Any], float] = lambda y: float(np.abs(y).mean())
) -> Step:
    """A step: predict one batch. Its "loss" is the mean absolute output, by which candidates are seen to agree."""
    answer = Answer(read)

    def step() -> Answer:
        answer.outputs = predict(x)
        return answer

    return step


def network() -> svd.Sequential:
    """The trained network, pruned for good."""
    model = svd.Sequential.load(os.environ[NETWORK])
    return svd.sparsify(model, model.threshold)


def images(workload: Workload, batch: int, shape: tuple[int, ...]) -> Array:
    """The first images as float32 (batch, *shape), divided by 255."""
    return (workload.images[:batch] / np.float32(255)).astype(np.float32).reshape(batch, *shape)


def build_ours(workload: Workload, batch: int, threads: int) -> Step:
    """The compact network, as anybody calls it."""
    model = network()
    return step_of(svd.compress(model).predict, images(workload, batch, model.in_shape))


def build_ours_pixels(workload: Workload, batch: int, threads: int) -> Step:
    """The same on uint8 pixels."""
    model = network()
    x = np.ascontiguousarray(workload.images[:batch]).reshape(batch, *model.in_shape)
    return step_of(svd.compress(model).predict, x)


def build_reference(workload: Workload, batch: int, threads: int) -> Step:
    """The trained network itself: dense products with zeros in them."""
    model = network()
    return step_of(model.predict, images(workload, batch, model.in_shape))


def _layers(small: SparseModel) -> list[DenseOp]:
    take, *layers = small.ops
    if not isinstance(take, TakeOp) or not all(isinstance(op, DenseOp) for op in layers):
        raise ImportError("written for dense networks only")  # the worker's word for "not available"
    return [op for op in layers if isinstance(op, DenseOp)]


def build_shrunk(workload: Workload, batch: int, threads: int) -> Step:
    """The compact network as small dense matrices, in NumPy."""
    model = network()
    small = svd.compress(model, backend="numpy")
    layers = [(op.weights.matrix(), op.bias, op.relu) for op in _layers(small)]
    index = small.ops[0].index  # type: ignore[union-attr]

    def predict(x: Array) -> Array:
        x = x[:, index]
        for weights, bias, relu in layers:
            x = x @ weights
            x += bias
            if relu:
                np.maximum(x, 0, out=x)
        return x

    return step_of(predict, images(workload, batch, model.in_shape))


def build_scipy(workload: Workload, batch: int, threads: int) -> Step:
    """The compact network as CSR matrices, in SciPy: outputs by inputs, times the batch in columns."""
    from scipy.sparse import csr_array

    model = network()
    small = svd.compress(model, backend="numpy")
    layers = [(csr_array(op.weights.matrix().T), op.bias[:, None], op.relu) for op in _layers(small)]
    index = small.ops[0].index  # type: ignore[union-attr]

    def predict(x: Array) -> Array:
        x = np.ascontiguousarray(x[:, index].T)
        for weights, bias, relu in layers:
            x = weights @ x
            x += bias
            if relu:
                np.maximum(x, 0, out=x)
        return x.T

    return step_of(predict, images(workload, batch, model.in_shape))
