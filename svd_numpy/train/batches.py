"""The training examples of a run, in the current epoch's order and with its image moves."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, as_native, check_moves, check_some
from svd_numpy.data import Dataset
from svd_numpy.data.csr import dense, is_sparse
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.kernels.stack import Rows
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig

_MOVES = 7  # keeps the random numbers that move images apart from those that order them


class Batches:
    """What the steps of an epoch read: the inputs, and tables (order, targets, moves) that the host writes every epoch.

    The order is a function of (seed, epoch), the moves are one of (seed, epoch, step), so a resumed run has those of an
    uninterrupted one. Data in lanes keep their own order.

    Attributes
    ----------
    inputs : array or CSR matrix (N, I)
        uint8 pixels, floats or tokens, with only the columns that the model reads.
    scale : float
        Factor on the inputs: 1 / 255 for pixels, otherwise 1.
    order : int64 array (N,)
        Row of `inputs` for each example of the epoch, batch after batch.
    targets : array (N, ...)
        Labels or targets in that order.
    moves : int32 array (N, 3) or None
        (down, right, mirror) in that order (`Backend.gather_rows`).
    frame : tuple of int
        Shape of one gathered example: the model's `inner_shape`, or (H, W, C) if images are moved before they are
        flattened for it.
    n_counted : int
        Number of targets of examples whose weight is not 0: the N that the KL is divided by. Of sequences with an
        output at every step, each step with a label counts.
    """

    def __init__(self, model: Sequential, data: Dataset, config: TrainConfig) -> None:
        rows = model.check(data.x_train, "x_train")
        n = rows.shape[0]
        if not n:
            check_some("x_train", dense(rows))
        self._sparse = is_sparse(rows)
        if self._sparse and model.backend.name == "cuda":
            raise SvdValueError(
                "x_train: got a sparse matrix, which becomes dense on the processor, batch by batch; with the backend "
                "'cuda', give an array: its .toarray()"
            )
        self._targets = model.check_targets(data.y_train, n)
        self._config, self._epoch, self._lanes = config, -1, data.lanes
        self._likelihood = model.likelihood
        if model.backend.name == "cuda" and model.rows(n) != self._likelihood.count(self._targets):
            raise SvdValueError("y_train: got steps without a label (-1), which the backend 'cuda' does not know yet")
        if data.lanes and config.batch_size != data.lanes:
            raise SvdValueError(
                f"batch_size: got {config.batch_size}, but the rows of data {data.name!r} are in {data.lanes} lanes, "
                f"which are trained side by side; expected {data.lanes}"
            )
        self.inputs = rows if self._sparse else as_native(rows)
        self.scale = 1 / 255 if rows.dtype == np.uint8 else 1.0
        self.order, self.targets = np.empty(n, np.int64), np.empty_like(self._targets)
        self.frame = _frame(model, data, config)
        self.moves = np.zeros((n, 3), np.int32) if config.shift or config.mirror else None
        self.per_epoch = -(-n // config.batch_size)
        counted = self._targets if data.weights is None else self._targets[data.weights != 0]
        self.n_counted = self._likelihood.count(counted)
        self._weights: Array | None = None
        if data.weights is not None:
            of_row = (data.weights / data.weights.mean()).astype(model.dtype)
            self._weights = np.repeat(of_row[:, None], math.prod(model.out_shape), axis=1)  # as `multiply` wants them
            self._factors = np.empty((min(config.batch_size, n), *model.out_shape), model.dtype)
            self._no_mean = np.zeros(self._weights.shape[1], model.dtype)

    def examples(self, rows: slice, mean: Array) -> tuple[Rows, Array | None]:
        """Inputs of a batch, still to be gathered, and their moves, if there are any; sparse ones become dense here."""
        index, moves = self.order[rows], None if self.moves is None else self.moves[rows]
        if self._sparse:
            return Rows(dense(self.inputs[index]), np.arange(len(index)), self.scale, mean), moves
        return Rows(self.inputs, index, self.scale, mean), moves

    def weigh(self, backend: Backend, rows: slice, d_outputs: Array) -> None:
        """Multiply the gradients of a batch's outputs, (B, ...), by the weights of its examples, if there are any."""
        if self._weights is None:
            return
        factors = self._factors[: len(d_outputs)]
        backend.gather_rows(self._weights, self.order[rows], 1.0, self._no_mean, factors)
        backend.multiply(d_outputs, factors, d_outputs)

    def tables(self) -> list[Array]:
        """The tables, which are rewritten every epoch."""
        return [self.order, self.targets, *([] if self.moves is None else [self.moves])]

    def rows(self, step: int) -> slice:
        """Rows of the tables that a step reads."""
        start = step % self.per_epoch * self._config.batch_size
        return slice(start, min(start + self._config.batch_size, len(self.order)))

    def count(self, rows: slice) -> int:
        """Number of targets in some rows of the tables."""
        return self._likelihood.count(self.targets[rows])

    def begin(self, step: int) -> bool:
        """Write order and targets for the epoch of this step; return False if they are there already."""
        epoch = step // self.per_epoch
        if epoch == self._epoch:
            return False
        self._epoch = epoch
        shuffled = np.random.default_rng([self._config.seed, epoch]).permutation(len(self.order))
        self.order[:] = np.arange(len(self.order)) if self._lanes else shuffled
        self.targets[:] = self._targets[self.order]
        return True

    def draw_moves(self, step: int) -> NDArray[np.int32] | None:
        """Draw the moves of a step's images into the table and return them; None if images are not moved."""
        if self.moves is None:
            return None
        shift, drawn = self._config.shift, self.moves[self.rows(step)]
        if not self._config.finetune_moves and step >= self._config.epochs * self.per_epoch:
            drawn[:] = 0
            return drawn
        rng = np.random.default_rng([self._config.seed, step // self.per_epoch, step, _MOVES])
        drawn[:, :2] = rng.integers(-shift, shift, (len(drawn), 2), np.int32, endpoint=True)
        drawn[:, 2] = rng.integers(0, 2 if self._config.mirror else 1, len(drawn), np.int32)
        return drawn


def _frame(model: Sequential, data: Dataset, config: TrainConfig) -> tuple[int, ...]:
    """Shape of one gathered example (`Batches.frame`); raise if its moves make no sense."""
    if not (config.shift or config.mirror):
        return model.inner_shape
    shape = model.in_shape
    if len(shape) == 1 and data.image_shape is not None and data.image_shape[0] == 1:
        shape = data.image_shape  # flat in either order of axes; more channels would not be
    check_moves(config.shift, config.mirror, shape)
    return (*shape[1:], shape[0])
