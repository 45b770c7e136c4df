"""Signs per sequence: the sequences of a batch share one sample of the noise, each with signs of its own.

The weights of sequence b are w + noise * (rows_b columns_b^T), with rows_b and columns_b of +1 and -1 that stay the
same over all steps (Flipout: Wen et al. 2018). Each sequence sees weights with the same distribution as before, but
those of two sequences are uncorrelated, so a batch averages this noise as it averages that of the data.
"""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.backend import Array, Backend, Buffers
from svd_numpy.kernels.recurrence import Recurrence


def _flat(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


class SignedNoise:
    """What the noise of one batch adds, sequence by sequence.

    Parameters
    ----------
    noise : array (I, O)
        sigma times a standard normal, with the factors of groups.
    rows, columns : arrays (B, I) and (B, O)
        Signs.
    memory : Buffers
        Kept by the layer from batch to batch.

    Attributes
    ----------
    d_noise : array (I, O)
        The gradient of `noise`, once all parts of the backward pass are done.
    """

    def __init__(self, noise: Array, rows: Array, columns: Array, memory: Buffers) -> None:
        self.noise, self._rows, self._columns, self._memory = noise, rows, columns, memory
        self.d_noise = memory.get("d_noise", noise.shape, noise.dtype)

    def signed(self, b: int, part: slice, matrix: Array) -> Array:
        """A matrix of some rows of the weights, with the signs of sequence b."""
        return np.asarray(matrix * self._rows[b, part, None] * self._columns[b])

    def _of_tokens(self, x: Array, y: Array) -> Array:
        """Rows y (B, T, O) of tokens x (B, T), with the signs of their sequences."""
        return np.asarray(y * self._columns[:, None] * np.take_along_axis(self._rows, x, axis=1)[..., None])

    def add_tokens(self, ops: Recurrence, x: Array, y: Array) -> None:
        """Add the noise of the rows that tokens x (B, T) take to y (B, T, O)."""
        drawn = self._memory.get("drawn", y.shape, y.dtype)
        ops.take_rows(self.noise, x.reshape(-1), None, _flat(drawn))
        y += self._of_tokens(x, drawn)

    def pull_tokens(self, ops: Recurrence, x: Array, dy: Array, count: int) -> None:
        """Gradient of the first `count` rows of the noise, those of all tokens."""
        ops.take_rows_backward(x.reshape(-1), _flat(self._of_tokens(x, dy)), self.d_noise[:count])

    def add_rows(self, backend: Backend, x: Array, y: Array) -> None:
        """Add the product of inputs x (B, T, I) and their rows of the noise to y (B, T, O)."""
        width = x.shape[-1]
        self._x = x * self._rows[:, None, :width]
        drawn = self._memory.get("drawn", y.shape, y.dtype)
        nothing = np.zeros(y.shape[-1], y.dtype)
        backend.dense_forward(_flat(self._x), self.noise[:width], nothing, _flat(drawn), self._memory)
        y += drawn * self._columns[:, None]

    def pull_rows(self, backend: Backend, dy: Array, dx: Array | None) -> None:
        """Gradient of those rows of the noise; what the inputs get through them is added to dx (B, T, I)."""
        width, own = self._x.shape[-1], None if dx is None else np.empty_like(self._x)
        backend.dense_backward(
            _flat(self._x), self.noise[:width], _flat(dy * self._columns[:, None]), self.d_noise[:width],
            np.empty(dy.shape[-1], dy.dtype), None if own is None else _flat(own), self._memory,
        )  # fmt: skip
        if dx is not None and own is not None:
            dx += own * self._rows[:, None, :width]
