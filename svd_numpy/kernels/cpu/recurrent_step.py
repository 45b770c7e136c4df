"""Numba kernels that do one step of one sequence with lists of weights: the runtime of compact recurrent networks.

Weights are listed by the rows of their matrix: row i has values[starts[i] : starts[i + 1]], in the columns of the same
places. Lists are short, so one thread does a step in a few microseconds.
"""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.recurrent import sigmoid, tanh
from svd_numpy.kernels.cpu.simd import ONE, ZERO


@kernel()
def add_row(starts, columns, values, i, factor, total):
    """total += factor * row i."""
    for k in range(starts[i], starts[i + 1]):
        total[columns[k]] += factor * values[k]


@kernel()
def add_rows(starts, columns, values, token, x, total):
    """total += x @ weights, or the row of a token if that is not negative."""
    if token >= 0:
        add_row(starts, columns, values, token, ONE, total)
        return
    for i in range(len(x)):
        if x[i] != ZERO:
            add_row(starts, columns, values, i, x[i], total)


@kernel()
def dense_step(starts, columns, values, bias, relu, token, x, y):
    """y = x @ weights + bias, rectified with `relu`."""
    y[:] = bias
    add_rows(starts, columns, values, token, x, y)
    if relu:
        for o in range(len(y)):
            y[o] = max(y[o], ZERO)


@kernel()
def lstm_step(starts, columns, values, r_starts, r_columns, r_values, bias, token, x, state, work):
    """One step of `Recurrence.lstm_forward`; state (2, H) is updated, work (4H,) is scratch."""
    h, c = state[0], state[1]
    units = len(h)
    work[:] = bias
    add_rows(starts, columns, values, token, x, work)
    add_rows(r_starts, r_columns, r_values, np.int64(-1), h, work)
    for u in range(units):
        c[u] = sigmoid(work[units + u]) * c[u] + sigmoid(work[u]) * tanh(work[2 * units + u])
        h[u] = sigmoid(work[3 * units + u]) * tanh(c[u])


@kernel()
def gru_step(starts, columns, values, r_starts, r_columns, r_values, bias, token, x, state, work):
    """One step of `Recurrence.gru_forward`; state (1, H) is updated, bias (4H,) ends with `inner`, work (6H,)."""
    h = state[0]
    units = len(h)
    p, q = work[: 3 * units], work[3 * units :]
    p[:] = bias[: 3 * units]
    q[:] = ZERO
    add_rows(starts, columns, values, token, x, p)
    add_rows(r_starts, r_columns, r_values, np.int64(-1), h, q)
    for u in range(units):
        r, z = sigmoid(p[u] + q[u]), sigmoid(p[units + u] + q[units + u])
        n = tanh(p[2 * units + u] + r * (q[2 * units + u] + bias[3 * units + u]))
        h[u] = n + z * (h[u] - n)
