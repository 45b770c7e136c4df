"""Weights in few bits: every array of a compact network rounded to multiples of a power of two, its step.

A rounded network is still a `SparseModel` that computes in float32; the saving appears in its packed file
(`svd_numpy.sparse.storage.packed`), which detects the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from svd_numpy.checks import MOST_BITS, SvdValueError, check_bits, check_number, check_type
from svd_numpy.kernels.backend import Array
from svd_numpy.network.objective import Categorical
from svd_numpy.sparse import ConvOp, DenseOp, Op, ScaleOp, SparseModel, TakeOp, Weights
from svd_numpy.sparse.storage.precision import step_of


def numbers_of(op: Op) -> dict[str, Array]:
    """Arrays of an op that can be rounded, under the names of the layer's parameters."""
    if isinstance(op, DenseOp | ConvOp):
        return {f"{op.name}.theta": op.weights.values, f"{op.name}.bias": op.bias}
    if isinstance(op, ScaleOp):
        return {f"{op.name}.scale": op.scale, f"{op.name}.shift": op.shift}
    if isinstance(op, TakeOp) and op.mean is not None:
        return {f"{op.name}.mean": op.mean}
    return {}


def quantise(small: SparseModel, bits: int | Mapping[str, int]) -> SparseModel:
    """Round the numbers of a compact network to few bits.

    Parameters
    ----------
    small : SparseModel
    bits : int, or mapping of array name to int
        2 to 24, sign included. One number applies to every array; a mapping applies to those it names, such as
        "conv1.theta", "conv1.bias" or "input.mean", and leaves the others unchanged. The step of an array is the
        smallest power of two whose multiples can reach its largest number with these bits.

    Returns
    -------
    SparseModel
        Without the weights that were rounded to 0.
    """
    check_type("small", small, SparseModel)
    names = [name for op in small.ops for name in numbers_of(op)]
    wanted = check_bits(bits, names)

    def rounded(name: str, array: Array) -> Array:
        if name not in wanted or not array.size:
            return array
        step = step_of(float(np.abs(array).max()), wanted[name])
        return np.asarray(np.rint(array / step) * step + 0, np.float32)  # + 0 turns -0 into 0

    return SparseModel([_changed(op, rounded) for op in small.ops], small.likelihood, small.backend.name)


def _changed(op: Op, change: Callable[[str, Array], Array]) -> Op:
    if isinstance(op, DenseOp | ConvOp):
        matrix = change(f"{op.name}.theta", op.weights.matrix())
        weights = Weights.from_matrix(matrix, op.weights.form)
        return replace(op, weights=weights, bias=change(f"{op.name}.bias", op.bias))
    if isinstance(op, ScaleOp):
        return replace(op, scale=change(f"{op.name}.scale", op.scale), shift=change(f"{op.name}.shift", op.shift))
    if isinstance(op, TakeOp) and op.mean is not None:
        return replace(op, mean=change(f"{op.name}.mean", op.mean))
    return op


def search_bits(
    small: SparseModel, x: Any, y: Any, tolerance: float = 0.001, start: int | Mapping[str, int] = 12
) -> dict[str, int]:
    """Find the fewest bits for every array that keep the error on validation data.

    First all arrays lose one bit at a time together, then each array alone, the largest first. That takes about three
    predictions per array.

    Parameters
    ----------
    small : SparseModel
    x, y : arrays (B, ...), (B,) or (B, O)
        Validation data, not the data on which the error is reported.
    tolerance : float
        By how much the error may rise: the share of wrong predictions, or the root mean square error in units of y.
    start : int or mapping of array name to int
        Bits to start from, such as `posterior_bits`; arrays that a mapping does not name start from 12.

    Returns
    -------
    dict of str to int
        For `quantise`.

    Raises
    ------
    ValueError
        If the error is beyond the tolerance with the bits to start from.
    """
    check_type("small", small, SparseModel)
    tolerance = check_number("tolerance", tolerance, low=0)
    sizes = {name: array.size for op in small.ops for name, array in numbers_of(op).items() if array.size}
    bits = dict.fromkeys(sizes, 12) | check_bits(start, list(sizes))
    most = error_of(small, x, y) + tolerance

    def fits(candidate: Mapping[str, int]) -> bool:
        return error_of(quantise(small, candidate), x, y) <= most

    if not fits(bits):
        raise SvdValueError(
            f"search_bits: with {bits} bits the error is already more than {tolerance:g} above that of float32; start "
            f"from more, at most {MOST_BITS}, or allow a larger tolerance"
        )
    while any(old > 2 for old in bits.values()) and fits(
        fewer := {name: max(2, old - 1) for name, old in bits.items()}
    ):
        bits = fewer
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        while bits[name] > 2 and fits(fewer := bits | {name: bits[name] - 1}):
            bits = fewer
    return bits


def error_of(small: SparseModel, x: Any, y: Any) -> float:
    """Share of wrong predictions, or for a Gaussian likelihood the root mean square error."""
    outputs = small.predict(x)
    y = small.likelihood.check(y, (len(outputs),), small.n_outputs, np.float32)
    if isinstance(small.likelihood, Categorical):
        return float(np.mean(outputs.argmax(axis=1) != y))
    return math.sqrt(np.mean((outputs - y) ** 2, dtype=np.float64))
