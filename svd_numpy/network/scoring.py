"""Score the pruned network on given examples: `evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_count, check_some, check_type
from svd_numpy.data.csr import dense, is_sparse
from svd_numpy.kernels.backend import Array
from svd_numpy.network.core import EVAL_ROWS, require_finite
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.model import Sequential

Score = dict[str, float]
_ALL = slice(None)


def evaluate(model: Sequential, x: Any, y: Any, lanes: int = 0) -> Score:
    """Score the pruned network: {"error": share of wrong predictions or mean squared error, "nll": nats}.

    With `lanes`, rows are pieces of so many long sequences, as in `Dataset.lanes`.
    """
    check_type("model", model, Sequential)
    return Examples(model, x, y, lanes=check_count("lanes", lanes, low=0)).score(model)


class Examples:
    """Examples that are checked once, to score a network on repeatedly.

    Parameters
    ----------
    model : Sequential
        The model that they have to fit.
    x, y : arrays
        Inputs and targets, as in `evaluate`.
    name : str
        Name of the inputs in error messages.
    lanes : int
        As in `Dataset.lanes`.

    Attributes
    ----------
    targets : array
        Labels or targets; a copy, because several runs may be scored on the same array.
    """

    def __init__(self, model: Sequential, x: Any, y: Any, name: str = "x", lanes: int = 0) -> None:
        rows = model.check(x, name)
        n = rows.shape[0]
        if not n:
            check_some(name, dense(rows))
        if lanes and n % lanes:
            raise SvdValueError(f"{name}: got {n} rows, expected a multiple of the {lanes} lanes")
        self.targets = model.check_targets(y, n).copy()
        self.count = max(1, model.likelihood.count(self.targets))
        whole = rows.dtype == np.uint8 or model.input_dtype != model.dtype  # pixels or tokens
        self._x, self._dtype = rows, rows.dtype if whole else model.dtype
        self._scale = 1 / 255 if rows.dtype == np.uint8 else 1.0
        self._lanes, self._rows = lanes, lanes or EVAL_ROWS  # a batch has so many rows
        self._index, most = np.arange(n), min(self._rows, n)
        self._inputs = np.empty((most, *model.inner_shape), model.input_dtype)
        self._d_outputs = np.empty((most, *model.out_shape), model.dtype)

    def batches(self, model: Sequential, run: Pass, part: slice = _ALL) -> Iterator[tuple[float, float]]:
        """Yield the summed NLL and error of all batches or some, on the backend and with the masks of the pass."""
        if self._lanes:
            run.carried = model.first_states(self._lanes)
        for start in range(0, len(self._index), self._rows)[part]:
            batch = slice(start, start + self._rows)
            index, y = self._index[batch], self.targets[batch]
            inputs, d_outputs = self._inputs[: len(index)], self._d_outputs[: len(index)]
            source = self._x
            if is_sparse(source) or source.dtype != self._dtype or not source.flags.c_contiguous:
                # batch by batch: as a whole it may be large
                source, index = np.ascontiguousarray(dense(source[batch]), self._dtype), self._index[: len(index)]
            run.backend.gather_rows(source, index, self._scale, model.input_mean, inputs)
            outputs = model.forward(inputs, run)
            found = model.likelihood.loss(run.backend, outputs, y, d_outputs)
            run.backend.to_host(outputs)
            require_finite("the outputs", outputs, *found)
            yield found

    def score(self, model: Sequential) -> Score:
        """Score the network pruned at its threshold."""
        return self.score_of(self.sums(model))

    @np.errstate(over="ignore", invalid="ignore")  # an overflow raises
    def sums(self, model: Sequential, first: int = 0, every: int = 1) -> Array:
        """Return the summed NLL and error of each batch, (batches, 2); of some batches only, and 0 for the others."""
        part, found = slice(first, None, every), np.zeros((-(-len(self._index) // self._rows), 2))
        with model.exclusive:
            model.to_device()
            found[part] = np.reshape([*self.batches(model, model.pruned_pass(model.backend), part)], (-1, 2))
        return found

    def score_of(self, sums: Array) -> Score:
        """Turn the sums of all batches, (batches, 2), into a score."""
        nll, error = sums.sum(axis=0).tolist()
        return {"error": error / self.count, "nll": nll / self.count}
