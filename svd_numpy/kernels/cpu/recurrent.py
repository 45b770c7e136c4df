"""Numba kernels of recurrent layers: sampled weights, rows of tables, and LSTM and GRU over time.

A sequence depends on no other, so each thread owns some sequences and walks with them from the first step to the last
without waiting for anybody. The recurrent weights are packed once, before the first step, and stay in the second-level
cache; what a step multiplies and writes lies in place in the arrays (B, T, ...), rows T steps apart.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from svd_numpy.kernels.cpu.gemm import PACKED, multiply, pack_row, pack_weights_transposed
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
_BLOCK = 512 // PANEL * PANEL  # columns of da that are packed together, of so many steps that they fill half a cache
_STEPS = PACKED // (2 * _BLOCK)
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
def _share(thread, threads, columns):
    """Bounds of one thread's columns, at multiples of a vector."""
    vectors = (columns + LANES - 1) // LANES
    return min(thread * vectors // threads * LANES, columns), min((thread + 1) * vectors // threads * LANES, columns)


@kernel()
def _add_row(dy, d_row):
    wide_vectors()
    for o in range(len(dy)):
        d_row[o] += dy[o]


@kernel(parallel=True)
def take_rows_backward(threads, tokens, dy, d_table, scratch):
    """d_table[tokens[n]] += dy[n], after clearing; a thread owns columns, so that sums keep their order."""
    for thread in prange(threads):
        begin, end = _share(np.int64(thread), threads, dy.shape[1])
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
def pack_transposed(w, first, last, packed, work):
    """Pack panels first..last of w.T as `pack_panels` would."""
    n_all, k_all = w.shape
    panels = (n_all + PANEL - 1) // PANEL
    for k0 in range(0, k_all, KC):
        k1 = min(k0 + KC, k_all)
        for panel in range(first, last):
            n0 = panel * PANEL
            target = packed[PANEL * (k0 * panels + panel * (k1 - k0)) :]
            pack_weights_transposed(w, w[:0], ZERO, k0, k1, n0, min(n0 + PANEL, n_all), k1 - k0, target, target, work)


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
def _lstm_cell(gates, c, c_before, tanh_c, y):
    """Pre-activations (4H,) -> gates, in place; c -> c_before and the next c, tanh(c) and h."""
    wide_vectors()
    units = len(c)
    i, f, g, o = gates[:units], gates[units : 2 * units], gates[2 * units : 3 * units], gates[3 * units :]
    for u in range(units):
        i_u, f_u, g_u, o_u, old = sigmoid(i[u]), sigmoid(f[u]), tanh(g[u]), sigmoid(o[u]), c[u]
        new = f_u * old + i_u * g_u
        squashed = tanh(new)
        i[u], f[u], g[u], o[u] = i_u, f_u, g_u, o_u
        c_before[u], c[u], tanh_c[u] = old, new, squashed
        y[u] = o_u * squashed


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
                _lstm_cell(gates[b, t], state[1, b], c_before[b, t], tanh_c[b, t], y[b, t])
                if present.size > 0 and present[b, t] == 0:
                    _copy(c_before[b, t], state[1, b])
                    _copy(h_before[b, t], y[b, t])
                _copy(y[b, t], state[0, b])


@kernel(inline=True)
def _flush(x):
    """x, or 0 if it is tiny."""
    return ZERO if abs32(x) < _TINY else x  # NaN stays


@kernel()
def _lstm_back(gates, dy, dh, dc, tanh_c, c_before):
    """Gates (4H,) become their da;  dc = (dc + (dh + dy) o (1 - tanh(c)^2)) f."""
    wide_vectors()
    units = len(dc)
    i, f, g, o = gates[:units], gates[units : 2 * units], gates[2 * units : 3 * units], gates[3 * units :]
    for u in range(units):
        i_u, f_u, g_u, o_u, squashed, pull_h = i[u], f[u], g[u], o[u], tanh_c[u], dh[u] + dy[u]
        pull_c = dc[u] + pull_h * o_u * (ONE - squashed * squashed)
        i[u] = _flush(pull_c * g_u * i_u * (ONE - i_u))
        f[u] = _flush(pull_c * c_before[u] * f_u * (ONE - f_u))
        g[u] = _flush(pull_c * i_u * (ONE - g_u * g_u))
        o[u] = _flush(pull_h * squashed * o_u * (ONE - o_u))
        dc[u] = _flush(pull_c * f_u)


@kernel(parallel=True)
def lstm_backward(threads, gates, w, present, dy, dh, dc, kept, c_before, tanh_c, packed, scratch):
    """da of `Recurrence.lstm_backward`, into gates.  dh, dc, kept (B, H) are work space."""
    (sequences, steps, units), panels = dy.shape, (len(w) + PANEL - 1) // PANEL
    for thread in prange(threads):
        pack_transposed(w, thread * panels // threads, (thread + 1) * panels // threads, packed, scratch[thread])
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
                _lstm_back(gates[b, t], dy[b, t], dh[b], dc[b], tanh_c[b, t], c_before[b, t])
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
def gru_backward(threads, gates, w, present, dy, dh, h_before, u, dq, packed, scratch):
    """dp and dq of `Recurrence.gru_backward`, into gates and dq (B, T, 3H)."""
    (sequences, steps, units), panels = dy.shape, (len(w) + PANEL - 1) // PANEL
    for thread in prange(threads):
        pack_transposed(w, thread * panels // threads, (thread + 1) * panels // threads, packed, scratch[thread])
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


@kernel(parallel=True)
def weight_gradients(threads, h_before, da, d_w, d_bias, scratch):
    """d_w = h_before.T @ da  and  d_bias = sum of da, for rows h_before (N, H) and da (N, G); a thread owns columns."""
    (n_all, units), columns = h_before.shape, da.shape[1]
    for thread in prange(threads):
        packed, _, work = scratch_parts(scratch[thread])
        begin, end = _share(np.int64(thread), threads, columns)
        d_bias[begin:end] = ZERO
        for n in range(begin, end, _BLOCK):
            n_end = min(n + _BLOCK, end)
            for k0 in range(0, n_all, _STEPS):
                k1 = min(k0 + _STEPS, n_all)
                for k in range(k0, k1):
                    pack_row(address(da) + 4 * (k * columns + n), n_end - n, k - k0, k1 - k0, address(packed))
                    _add_row(da[k, n:n_end], d_bias[n:n_end])
                multiply(units, k1 - k0, address(h_before) + 4 * k0 * units, _ZERO, _ONE, units, address(packed), _ZERO,
                         n_end - n, address(d_w) + 4 * n, _ZERO, columns, k0 > 0, work)  # fmt: skip
