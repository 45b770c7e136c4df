"""Numba kernels of recurrent layers: sampled weights, rows of tables, and LSTM and GRU over time.

A sequence depends on no other, so each thread owns some sequences and walks with them from the first step to the last
without waiting for anybody. The recurrent weights are packed once, before the first step, and stay in the second-level
cache; what a step multiplies and writes lies in place in the arrays (B, T, ...), rows T steps apart.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from svd_numpy.kernels.cpu.gemm import multiply, pack_row
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.layers import scratch_parts
from svd_numpy.kernels.cpu.simd import (
    HALF,
    ONE,
    TWO,
    ZERO,
    F,
    U,
    abs32,
    address,
    exp32,
    exp_pair,
    noise_row,
    wide_vectors,
)
from svd_numpy.kernels.cpu.tiles import KC, LANES, PANEL

_ZERO, _ONE = np.int64(0), np.int64(1)
_TINY = F(1e-18)  # smaller ones are no gradients any more, and their products would be subnormal


@kernel()
def sample_weights_row(theta, log_sigma2, keep, noise, w, r):
    """w = theta' + sigma noise;  r = noise / (2 sigma)."""
    wide_vectors()
    for o in range(len(theta)):
        sigma, precision = exp_pair(HALF * log_sigma2[o])
        mean = theta[o] if theta[o] * theta[o] >= keep * (sigma * sigma) else ZERO
        w[o] = mean + sigma * noise[o]
        r[o] = HALF * noise[o] * precision


@kernel(parallel=True)
def sample_weights(threads, theta, log_sigma2, keep, key, rows, w, r, scratch):
    """See `Recurrence.sample_weights`; `rows` are those to be sampled."""
    step, layer, _, key0, key1 = key
    for thread in prange(threads):
        noise = scratch[thread, : (theta.shape[1] + 63) // 64 * 64]
        for at in range(thread * len(rows) // threads, (thread + 1) * len(rows) // threads):
            i = rows[at]
            noise_row(noise, U(i), step, layer, key0, key1)
            sample_weights_row(theta[i], log_sigma2[i], keep, noise, w[i], r[i])


@kernel()
def _take_row(row, bias, y):
    wide_vectors()
    for o in range(len(y)):
        y[o] = row[o] + bias[o]


@kernel(parallel=True)
def take_rows(threads, table, tokens, bias, y, scratch):
    """y[n] = table[tokens[n]] + bias."""
    for thread in prange(threads):
        for n in range(thread * len(tokens) // threads, (thread + 1) * len(tokens) // threads):
            _take_row(table[tokens[n]], bias, y[n])


@kernel()
def _add_row(dy, d_row):
    wide_vectors()
    for o in range(len(dy)):
        d_row[o] += dy[o]


@kernel(parallel=True)
def take_rows_backward(threads, tokens, dy, d_table, scratch):
    """d_table[tokens[n]] += dy[n], after clearing; a thread owns columns, so that sums keep their order."""
    vectors = (dy.shape[1] + LANES - 1) // LANES
    for thread in prange(threads):
        begin = min(thread * vectors // threads * LANES, dy.shape[1])
        end = min((thread + 1) * vectors // threads * LANES, dy.shape[1])
        d_table[:, begin:end] = ZERO
        for n in range(len(tokens)):
            _add_row(dy[n, begin:end], d_table[tokens[n], begin:end])


# ---------------------------------------------------------------- products with packed weights
@kernel()
def pack_panels(w, first, last, packed):
    """Pack panels first..last of w (K, N); blocks of KC rows one behind the other, in each panel by panel."""
    k_all, n_all = w.shape
    panels = (n_all + PANEL - 1) // PANEL
    for k0 in range(0, k_all, KC):
        k1 = min(k0 + KC, k_all)
        for panel in range(first, last):
            n0 = panel * PANEL
            at = address(packed) + 4 * PANEL * (k0 * panels + panel * (k1 - k0))
            for k in range(k0, k1):
                pack_row(address(w) + 4 * (k * n_all + n0), min(PANEL, n_all - n0), k - k0, k1 - k0, at)


@kernel()
def times_packed(rows, k_all, a, a_row, packed, columns, c, c_row, add, work):
    """C (+)= A @ w, with w as `pack_panels` packed it; a, packed and c are addresses."""
    panels = (columns + PANEL - 1) // PANEL
    for k0 in range(0, k_all, KC):
        k1 = min(k0 + KC, k_all)
        multiply(rows, k1 - k0, a + 4 * k0, _ZERO, a_row, _ONE, packed + 4 * PANEL * k0 * panels, _ZERO, columns,
                 c, _ZERO, c_row, add or k0 > 0, work)  # fmt: skip


# ---------------------------------------------------------------- cells, one sequence and one step at a time
@kernel(inline=True)
def sigmoid(x):
    """1 / (1 + e**-x)."""
    return ONE / (ONE + exp32(-x))


@kernel(inline=True)
def tanh(x):
    """Hyperbolic tangent, by one exponential."""
    return ONE - TWO / (ONE + exp32(TWO * x))


@kernel()
def _sigmoid_row(a):
    wide_vectors()
    for u in range(len(a)):
        a[u] = sigmoid(a[u])


@kernel()
def _tanh_row(a):
    wide_vectors()
    for u in range(len(a)):
        a[u] = tanh(a[u])


@kernel()
def _lstm_state(gates, c, tanh_c, y):
    """Gates (4H,) -> c in place, tanh(c) and h."""
    wide_vectors()
    units = len(c)
    i, f, g, o = gates[:units], gates[units : 2 * units], gates[2 * units : 3 * units], gates[3 * units :]
    for u in range(units):
        new = f[u] * c[u] + i[u] * g[u]
        squashed = tanh(new)
        c[u] = new
        tanh_c[u] = squashed
        y[u] = o[u] * squashed


@kernel()
def _copy(source, target):
    wide_vectors()
    for u in range(len(target)):
        target[u] = source[u]


@kernel(parallel=True)
def lstm_forward(threads, gates, w, state, present, y, h_before, c_before, tanh_c, packed, scratch):
    """See `Recurrence.lstm_forward`; `present` is empty if all steps are."""
    (sequences, steps, units), panels = y.shape, (w.shape[1] + PANEL - 1) // PANEL
    for thread in prange(threads):
        pack_panels(w, thread * panels // threads, (thread + 1) * panels // threads, packed)
    for thread in prange(threads):
        first, last = thread * sequences // threads, (thread + 1) * sequences // threads
        _, _, work = scratch_parts(scratch[thread])
        for t in range(steps):
            for b in range(first, last):
                _copy(state[0, b], h_before[b, t])
            if last > first:
                times_packed(last - first, units, address(h_before) + 4 * (first * steps + t) * units, steps * units,
                             address(packed), 4 * units, address(gates) + 16 * (first * steps + t) * units,
                             4 * steps * units, True, work)  # fmt: skip
            for b in range(first, last):
                a, c = gates[b, t], state[1, b]
                _sigmoid_row(a[: 2 * units])
                _tanh_row(a[2 * units : 3 * units])
                _sigmoid_row(a[3 * units :])
                _copy(c, c_before[b, t])
                _lstm_state(a, c, tanh_c[b, t], y[b, t])
                if present.size > 0 and present[b, t] == 0:
                    _copy(c_before[b, t], c)
                    _copy(h_before[b, t], y[b, t])
                _copy(y[b, t], state[0, b])


@kernel(inline=True)
def _flush(x):
    """x, or 0 if it is tiny."""
    return ZERO if abs32(x) < _TINY else x  # NaN stays


@kernel()
def _lstm_outer(gates, dy, dh, dc, tanh_c):
    """dh += dy;  dc += dh o (1 - tanh(c)^2);  o becomes its da."""
    wide_vectors()
    units = len(dc)
    o = gates[3 * units :]
    for u in range(units):
        pull = dh[u] + dy[u]
        squashed = tanh_c[u]
        dh[u] = pull
        dc[u] += pull * o[u] * (ONE - squashed * squashed)
        o[u] = _flush(pull * squashed * o[u] * (ONE - o[u]))


@kernel()
def _lstm_inner(gates, dc, c_before):
    """The gates i, f, g become their da;  dc = dc f."""
    wide_vectors()
    units = len(dc)
    i, f, g = gates[:units], gates[units : 2 * units], gates[2 * units : 3 * units]
    for u in range(units):
        pull, i_u, f_u, g_u = dc[u], i[u], f[u], g[u]
        i[u] = _flush(pull * g_u * i_u * (ONE - i_u))
        f[u] = _flush(pull * c_before[u] * f_u * (ONE - f_u))
        g[u] = _flush(pull * i_u * (ONE - g_u * g_u))
        dc[u] = _flush(pull * f_u)


@kernel(parallel=True)
def lstm_backward(threads, gates, w_t, present, dy, dh, dc, kept, c_before, tanh_c, packed, scratch):
    """da of `Recurrence.lstm_backward`, into gates; w_t = w.T.  dh, dc, kept (B, H) are work space."""
    (sequences, steps, units), panels = dy.shape, (w_t.shape[1] + PANEL - 1) // PANEL
    for thread in prange(threads):
        pack_panels(w_t, thread * panels // threads, (thread + 1) * panels // threads, packed)
    for thread in prange(threads):
        first, last = thread * sequences // threads, (thread + 1) * sequences // threads
        _, _, work = scratch_parts(scratch[thread])
        dh[first:last] = ZERO
        dc[first:last] = ZERO
        for t in range(steps - 1, -1, -1):
            for b in range(first, last):
                if present.size > 0:
                    kept[b] = ZERO
                    if present[b, t] == 0:
                        _add_row(dy[b, t], dh[b])
                        _copy(dh[b], kept[b])
                        gates[b, t] = ZERO
                        continue
                _lstm_outer(gates[b, t], dy[b, t], dh[b], dc[b], tanh_c[b, t])
                _lstm_inner(gates[b, t], dc[b], c_before[b, t])
            if last > first:
                times_packed(last - first, 4 * units, address(gates) + 16 * (first * steps + t) * units,
                             4 * steps * units, address(packed), units, address(dh) + 4 * first * units, units,
                             False, work)  # fmt: skip
            if present.size > 0:
                for b in range(first, last):
                    _add_row(kept[b], dh[b])


@kernel()
def _gru_state(gates, q, inner, h, u_row, y):
    """Pre-activations p (3H,) and q (3H,) -> r, z, n in place of p, u and h."""
    wide_vectors()
    units = len(h)
    r, z, n = gates[:units], gates[units : 2 * units], gates[2 * units :]
    q_r, q_z, q_n = q[:units], q[units : 2 * units], q[2 * units :]
    for j in range(units):
        reset, inside = sigmoid(r[j] + q_r[j]), q_n[j] + inner[j]
        r[j] = reset
        u_row[j] = inside
        n[j] = tanh(n[j] + reset * inside)
    for j in range(units):
        update = sigmoid(z[j] + q_z[j])
        z[j] = update
        y[j] = n[j] + update * (h[j] - n[j])


@kernel(parallel=True)
def gru_forward(threads, gates, w, inner, state, present, y, h_before, u, q, packed, scratch):
    """See `Recurrence.gru_forward`; `present` is empty if all steps are, q (B, 3H) is work space."""
    (sequences, steps, units), panels = y.shape, (w.shape[1] + PANEL - 1) // PANEL
    for thread in prange(threads):
        pack_panels(w, thread * panels // threads, (thread + 1) * panels // threads, packed)
    for thread in prange(threads):
        first, last = thread * sequences // threads, (thread + 1) * sequences // threads
        _, _, work = scratch_parts(scratch[thread])
        for t in range(steps):
            for b in range(first, last):
                _copy(state[0, b], h_before[b, t])
            if last > first:
                times_packed(last - first, units, address(h_before) + 4 * (first * steps + t) * units, steps * units,
                             address(packed), 3 * units, address(q) + 12 * first * units, 3 * units,
                             False, work)  # fmt: skip
            for b in range(first, last):
                _gru_state(gates[b, t], q[b], inner, h_before[b, t], u[b, t], y[b, t])
                if present.size > 0 and present[b, t] == 0:
                    _copy(h_before[b, t], y[b, t])
                _copy(y[b, t], state[0, b])


@kernel()
def _gru_back(gates, dq, u_row, h_before, dy, dh):
    """Gates (3H,) become dp, beside dq; dh becomes the part of the pull that does not go through q."""
    wide_vectors()
    units = len(dh)
    r, z, n = gates[:units], gates[units : 2 * units], gates[2 * units :]
    dq_r, dq_z, dq_n = dq[:units], dq[units : 2 * units], dq[2 * units :]
    for j in range(units):
        pull, update, new = dh[j] + dy[j], z[j], n[j]
        dn = _flush(pull * (ONE - update) * (ONE - new * new))
        dz = _flush(pull * (h_before[j] - new) * update * (ONE - update))
        n[j] = dn
        z[j] = dz
        dq_z[j] = dz
        dh[j] = _flush(pull * update)
    for j in range(units):
        dn, reset = n[j], r[j]
        dr = _flush(dn * u_row[j] * reset * (ONE - reset))
        r[j] = dr
        dq_r[j] = dr
        dq_n[j] = _flush(dn * reset)


@kernel(parallel=True)
def gru_backward(threads, gates, w_t, present, dy, dh, h_before, u, dq, packed, scratch):
    """dp and dq of `Recurrence.gru_backward`, into gates and dq (B, T, 3H); w_t = w.T."""
    (sequences, steps, units), panels = dy.shape, (w_t.shape[1] + PANEL - 1) // PANEL
    for thread in prange(threads):
        pack_panels(w_t, thread * panels // threads, (thread + 1) * panels // threads, packed)
    for thread in prange(threads):
        first, last = thread * sequences // threads, (thread + 1) * sequences // threads
        _, _, work = scratch_parts(scratch[thread])
        dh[first:last] = ZERO
        for t in range(steps - 1, -1, -1):
            for b in range(first, last):
                if present.size > 0 and present[b, t] == 0:
                    _add_row(dy[b, t], dh[b])
                    gates[b, t] = ZERO
                    dq[b, t] = ZERO
                else:
                    _gru_back(gates[b, t], dq[b, t], u[b, t], h_before[b, t], dy[b, t], dh[b])
            if last > first:
                times_packed(last - first, 3 * units, address(dq) + 12 * (first * steps + t) * units,
                             3 * steps * units, address(packed), units, address(dh) + 4 * first * units, units,
                             True, work)  # fmt: skip
