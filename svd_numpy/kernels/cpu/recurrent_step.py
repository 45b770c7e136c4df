"""The Numba kernel that does one step of one sequence through a whole compact recurrent network.

One call takes a token through all layers: a step takes a few microseconds, about as long as a few calls would. `table`
has a row for each layer; all whole numbers that lists need are in `places`, all weights and biases in `numbers`, and
the outputs and states of all layers in `state`.
"""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.recurrent import sigmoid, tanh
from svd_numpy.kernels.cpu.simd import ONE, ZERO, wide_vectors

# Columns of `table`. KIND: what follows the sums of the inputs. UNITS: outputs. BIAS: where it begins in `numbers`.
# STATE: where h (or y) begins in `state`; c of an LSTM follows it. INPUTS and RECURRENT: a matrix, as three columns:
# its rows, where its starts are in `places` (-1 if it is a matrix with its zeros), and where its numbers begin.
KIND, UNITS, BIAS, STATE, INPUTS, RECURRENT, COLUMNS = 0, 1, 2, 3, 4, 7, 10
LINEAR, RELU, LSTM, GRU = 0, 1, 2, 3


@kernel()
def _add_list(columns, values, factor, total):
    """total[columns] += factor * values, for one row of a list."""
    for k in range(len(columns)):
        total[columns[k]] += factor * values[k]


@kernel()
def _add_row(factor, row, total):
    wide_vectors()
    for o in range(len(total)):
        total[o] += factor * row[o]


@kernel()
def _add_rows(f0, f1, f2, f3, row0, row1, row2, row3, total):
    """Four rows at a time: `total` is loaded and stored once for all."""
    wide_vectors()
    for o in range(len(total)):
        total[o] += (f0 * row0[o] + f1 * row1[o]) + (f2 * row2[o] + f3 * row3[o])


@kernel()
def _add_product(at, places, numbers, token, x, total):
    """total += x @ weights, or the row of a token if that is not negative; at : three columns of `table`."""
    rows, first, begin, width = at[0], at[1], at[2], len(total)
    if first < 0:
        weights = numbers[begin : begin + rows * width]
        if token >= 0:
            _add_row(ONE, weights[token * width : (token + 1) * width], total)
            return
        fours = rows // 4 * 4
        for i in range(0, fours, 4):
            r0, r1, r2, r3, r4 = i * width, (i + 1) * width, (i + 2) * width, (i + 3) * width, (i + 4) * width
            _add_rows(x[i], x[i + 1], x[i + 2], x[i + 3], weights[r0:r1], weights[r1:r2], weights[r2:r3],
                      weights[r3:r4], total)  # fmt: skip
        for i in range(fours, rows):
            _add_row(x[i], weights[i * width : (i + 1) * width], total)
        return
    starts = places[first : first + rows + 1]
    columns, values = places[first + rows + 1 :], numbers[begin:]
    if token >= 0:
        low, high = np.int64(starts[token]), np.int64(starts[token + 1])
        _add_list(columns[low:high], values[low:high], ONE, total)
        return
    for i in range(rows):
        low, high = np.int64(starts[i]), np.int64(starts[i + 1])
        if low < high and x[i] != ZERO:
            _add_list(columns[low:high], values[low:high], x[i], total)


@kernel()
def _lstm(a, h, c):
    """Pre-activations a (4H,) -> the next h and c."""
    wide_vectors()
    units = len(h)
    i, f, g, o = a[:units], a[units : 2 * units], a[2 * units : 3 * units], a[3 * units :]
    for u in range(units):
        new = sigmoid(f[u]) * c[u] + sigmoid(i[u]) * tanh(g[u])
        c[u] = new
        h[u] = sigmoid(o[u]) * tanh(new)


@kernel()
def _gru(p, q, inner, h):
    """Pre-activations p and q (3H,) -> the next h."""
    wide_vectors()
    units = len(h)
    p_r, p_z, p_n = p[:units], p[units : 2 * units], p[2 * units :]
    q_r, q_z, q_n = q[:units], q[units : 2 * units], q[2 * units :]
    for u in range(units):
        r, z = sigmoid(p_r[u] + q_r[u]), sigmoid(p_z[u] + q_z[u])
        n = tanh(p_n[u] + r * (q_n[u] + inner[u]))
        h[u] = n + z * (h[u] - n)


@kernel()
def _rectify(y):
    wide_vectors()
    for o in range(len(y)):
        y[o] = max(y[o], ZERO)


@kernel()
def step(table, places, numbers, token, state, work):
    """Read a token; the outputs and states of all layers are updated. work : scratch, of six times the most units."""
    x = work[:0]
    for layer in range(len(table)):
        at = table[layer]
        kind, units = at[KIND], at[UNITS]
        bias, y = numbers[at[BIAS] :], state[at[STATE] : at[STATE] + units]
        if kind == LSTM:
            a = work[: 4 * units]
            a[:] = bias[: 4 * units]
            _add_product(at[INPUTS:RECURRENT], places, numbers, token, x, a)
            _add_product(at[RECURRENT:], places, numbers, np.int64(-1), y, a)
            _lstm(a, y, state[at[STATE] + units : at[STATE] + 2 * units])
        elif kind == GRU:
            p, q = work[: 3 * units], work[3 * units : 6 * units]
            p[:] = bias[: 3 * units]
            q[:] = ZERO
            _add_product(at[INPUTS:RECURRENT], places, numbers, token, x, p)
            _add_product(at[RECURRENT:], places, numbers, np.int64(-1), y, q)
            _gru(p, q, bias[3 * units : 4 * units], y)
        else:
            y[:] = bias[:units]
            _add_product(at[INPUTS:RECURRENT], places, numbers, token, x, y)
            if kind == RELU:
                _rectify(y)
        x, token = y, np.int64(-1)
