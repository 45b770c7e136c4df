"""How good the pruned network is on given examples: `evaluate`."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import check_inputs
from svd_numpy.kernels.backend import Backend
from svd_numpy.network.layers.base import Mode, Pass
from svd_numpy.network.model import EVAL_ROWS, Sequential, require_finite

Score = dict[str, float]


def evaluate(model: Sequential, x: Any, y: Any) -> Score:
    """Score the pruned network: {"error": share of wrong guesses or mean squared error, "nll": nats}."""
    examples = Examples(model, x, y)
    with model.exclusive:
        model.to_device()
        return examples.score(model, model.backend, "pruned")[0]


class Examples:
    """Examples to score a network on, again and again.

    Parameters
    ----------
    model : Sequential
        For which they are checked and made ready.
    x, y : arrays
        Inputs and targets, as `evaluate` takes them.
    name : str
        Of the inputs, in errors.
    """

    def __init__(self, model: Sequential, x: Any, y: Any, name: str = "x") -> None:
        rows = check_inputs(name, x, model.in_shape)
        self._y = model.likelihood.check(y, len(rows), model.n_outputs, model.dtype)
        pixels = rows.dtype == np.uint8
        self._x = np.ascontiguousarray(rows, None if pixels else model.dtype)
        self._scale = 1 / 255 if pixels else 1.0
        self._index, most = np.arange(len(rows)), min(EVAL_ROWS, len(rows))
        self._inputs = np.empty((most, *model.inner_shape), model.dtype)
        self._d_outputs = np.empty((most, model.n_outputs), model.dtype)

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
    def score(self, model: Sequential, backend: Backend, mode: Mode) -> list[Score]:
        """Score every run of a backend (`Backend.several`) in the same launches.

        Parameters
        ----------
        model : Sequential
            The first run's.
        backend : Backend
            It has seen the weights of every run.
        mode : "pruned" or "mean"
            Prune the first run's weights, or take those of every run as they are.
        """
        total, run = np.zeros((1, 2)), Pass(backend, mode, model.keep, model.seed)
        for start in range(0, len(self._x), EVAL_ROWS):
            batch = slice(start, start + EVAL_ROWS)
            index, y = self._index[batch], self._y[batch]
            inputs, d_outputs = self._inputs[: len(index)], self._d_outputs[: len(index)]
            backend.gather_rows(self._x, index, self._scale, model.input_mean, inputs)
            outputs = model.forward(inputs, run)
            backend.to_host(outputs)  # of the first run; of the others only the NLL is seen
            require_finite("the outputs", outputs)
            total = total + np.array(model.likelihood.losses(backend, outputs, y, d_outputs))  # (runs, 2)
        nll, error = total.T / len(self._x)
        require_finite("the NLL", nll)
        return [{"error": float(e), "nll": float(n)} for n, e in zip(nll, error, strict=True)]
