"""Numba kernels of the layers: gather, dense and local-reparametrisation passes, ReLU, losses.

Each function does in float32 what its namesake in `reference.py` does in plain NumPy; shapes and equations are in
`backend.py`. All parallel ones follow one pattern: `prange(threads)`, where each thread owns a slice of the outputs and
has `scratch[thread]` as private memory.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from svd_numpy.kernels.cpu.gemm import NC, PACKED, multiply, pack, pack_weights, pack_weights_transposed
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import (
    HALF,
    ONE,
    TWO,
    ZERO,
    F,
    U,
    address,
    exp32,
    fma32,
    log32,
    max32,
    noise_row,
    own_function,
    prefetch,
    sqrt32,
    wide_vectors,
)
from svd_numpy.kernels.cpu.tiles import KC, LANES

_ZERO, _ONE = np.int64(0), np.int64(1)  # typed, since Numba would compile everything again for literals
NO_FLOOR = F(-np.inf)
TINY_VAR = F(1e-30)  # a variance up to this counts as no noise at all


@kernel()
def _columns(thread, threads, columns):
    """Bounds of one thread's columns, at multiples of a vector."""
    thread, vectors = np.int64(thread), (columns + LANES - 1) // LANES
    return min(thread * vectors // threads * LANES, columns), min((thread + 1) * vectors // threads * LANES, columns)


@kernel()
def _k_block(k, k0, k1):
    """End of the block that starts at k, within k0..k1; blocks are nearly equal and depend only on k0 and k1."""
    n_blocks = (k1 - k0 + KC - 1) // KC
    return min(k1, k + (k1 - k0 + n_blocks - 1) // n_blocks)


@kernel(parallel=True)
def gather_rows(threads, source, index, scale, mean, out, scratch):
    """out[b] = source[index[b]] * scale - mean."""
    rows, row_bytes = len(index), source.itemsize * source.shape[1]
    for thread in prange(threads):
        for b in range(thread * rows // threads, (thread + 1) * rows // threads):
            if b + 4 < rows:  # rows are scattered in memory: prefetch them
                prefetch(address(source) + index[b + 4] * row_bytes, row_bytes)
            gather_row(source[index[b]], scale, mean, out[b])


@kernel()
def gather_row(source, scale, mean, out):
    """out = source * scale - mean."""
    wide_vectors()
    for i in range(len(out)):
        out[i] = F(source[i]) * scale - mean[i]


@kernel()
def scratch_parts(scratch):
    """Cut one thread's scratch into two packed operands and the work space of `multiply`."""
    return scratch[:PACKED], scratch[PACKED : 2 * PACKED], scratch[2 * PACKED :]


@kernel()
def sample_row(mean, var, bias, noise, floor):
    """var <- noise / (2 std) with std = sqrt(var);  mean <- max(mean + bias + std noise, floor)."""
    wide_vectors()
    for o in range(len(mean)):
        total = var[o]
        std = sqrt32(total)
        value = fma32(std, noise[o], mean[o] + bias[o])
        var[o] = HALF * noise[o] / std if total > TINY_VAR else ZERO
        mean[o] = value if value > floor else floor


@kernel()
def add(values, out):
    """out <- out + values on flat arrays; `values` may be longer than `out`."""
    wide_vectors()
    for i in range(len(out)):
        out[i] += values[i]


@kernel()
def _partial_products(x, theta, log_sigma2, keep, k0, k1, begin, end, y, r, scratch):
    """Columns begin..end of x @ theta (into y) and x^2 @ sigma^2 (into r), summed over inputs k0..k1 only."""
    mean, var, work = scratch_parts(scratch)
    rows, n_in = x.shape
    n_out = theta.shape[1]
    if k0 == k1:
        y[:, begin:end] = ZERO
        r[:, begin:end] = ZERO
    for n in range(begin, end, NC):
        n_end, k = min(n + NC, end), k0
        while k < k1:
            k_end = _k_block(k, k0, k1)
            pack_weights(theta, log_sigma2, keep, x, k, k_end, n, n_end, mean, var, work)
            multiply(rows, k_end - k, address(x) + 4 * k, _ZERO, n_in, _ONE,
                     address(mean), address(var), n_end - n,
                     address(y) + 4 * n, address(r) + 4 * n, n_out, k > k0, work)  # fmt: skip
            k = k_end


@kernel(parallel=True)
def lrt_forward(threads, x, theta, log_sigma2, bias, keep, key, relu, y, r, y2, r2, scratch):
    """Local reparametrisation forward: y, and r = noise / (2 std).

    Sums run over two halves of the inputs, the second into y2 and r2. In this way a thread reads the rows of theta that
    it has just updated in `adam_sweep`; the others are still in another core's cache and slow to fetch.
    """
    rows, n_out = y.shape
    n_in = x.shape[1]
    step, layer, first_sample, key0, key1 = key
    floor = ZERO if relu == 1 else NO_FLOOR
    parts = (threads + 1) // 2  # of the columns, so that there is work for more than two threads
    for thread in prange(threads):
        for task in range(thread * 2 * parts // threads, (thread + 1) * 2 * parts // threads):
            begin, end = _columns(task % parts, parts, n_out)
            if task < parts:
                _partial_products(x, theta, log_sigma2, keep, _ZERO, n_in // 2, begin, end, y, r, scratch[thread])
            else:
                _partial_products(x, theta, log_sigma2, keep, n_in // 2, n_in, begin, end, y2, r2, scratch[thread])
    for thread in prange(threads):
        noise = scratch[thread, : (n_out + 63) // 64 * 64]
        for b in range(thread * rows // threads, (thread + 1) * rows // threads):
            noise_row(noise, U(first_sample + b), step, layer, key0, key1)
            add(y2[b], y[b])
            add(r2[b], r[b])
            sample_row(y[b], r[b], bias, noise, floor)


@kernel()
def relu_forward(y):
    """y <- max(y, 0) on a flat array; too little work for more than one thread."""
    wide_vectors()
    for i in range(len(y)):
        y[i] = max32(y[i], ZERO)


@kernel()
def relu_backward(y, dy):
    """dy <- dy where y > 0, else 0, on flat arrays."""
    wide_vectors()
    for i in range(len(y)):
        dy[i] = dy[i] if y[i] > ZERO else ZERO


@kernel()
def scale(dy, rectified, r):
    """On flat arrays: dy <- dy where rectified > 0, else 0 (unless rectified is empty); then r <- dy * r."""
    wide_vectors()
    if len(rectified) > 0:
        relu_backward(rectified, dy)
    for i in range(len(r)):
        r[i] = dy[i] * r[i]


@kernel()
def column_sums(dy, begin, end, out):
    """out[begin:end] = sum_b dy[b, begin:end]."""
    out[begin:end] = ZERO
    for b in range(len(dy)):
        add(dy[b, begin:end], out[begin:end])


@kernel()
def _weight_gradients(x, dy, d_var, m0, m1, d_theta, d_sigma2, scratch):
    """Rows m0..m1 of d_theta = x.T @ dy and, unless d_sigma2 is empty, of d_sigma2 = (x^2).T @ d_var."""
    packed, packed2, work = scratch_parts(scratch)
    rows, n_in = x.shape
    n_out = dy.shape[1]
    both = d_sigma2.size > 0
    for n in range(0, n_out, NC):
        n_end, k = min(n + NC, n_out), _ZERO
        while k < rows:
            k_end = _k_block(k, _ZERO, rows)
            pack(dy, k, k_end, n, n_end, packed)
            if both:
                pack(d_var, k, k_end, n, n_end, packed2)
            at = 4 * (m0 * n_out + n)
            multiply(m1 - m0, k_end - k, address(x) + 4 * (k * n_in + m0), _ZERO, _ONE, n_in,
                     address(packed), address(packed2) if both else _ZERO,
                     n_end - n, address(d_theta) + at, address(d_sigma2) + at, n_out, k > 0, work)  # fmt: skip
            k = k_end


@kernel()
def square(x, out):
    """out = x^2 on flat arrays."""
    wide_vectors()
    for i in range(len(x)):
        out[i] = x[i] * x[i]


@kernel()
def add_scaled(dx, x, dx_sq):
    """dx <- dx + 2 x dx_sq."""
    wide_vectors()
    for i in range(len(dx)):
        dx[i] = fma32(TWO * x[i], dx_sq[i], dx[i])


@kernel()
def _input_gradient(x, theta, log_sigma2, keep, dy, d_var, begin, end, dx, dx_sq, scratch):
    """Columns begin..end of dx = dy @ theta.T + 2 x * (d_var @ sigma^2.T); dx_sq is scratch of dx's shape."""
    mean, var, work = scratch_parts(scratch)
    rows, n_in = x.shape
    n_out = dy.shape[1]
    for n in range(begin, end, NC):
        n_end, k = min(n + NC, end), _ZERO
        while k < n_out:
            k_end = _k_block(k, _ZERO, n_out)
            pack_weights_transposed(theta, log_sigma2, keep, k, k_end, n, n_end, k_end - k, mean, var, work)
            multiply(rows, k_end - k, address(dy) + 4 * k, address(d_var) + 4 * k, n_out, _ONE,
                     address(mean), address(var), n_end - n,
                     address(dx) + 4 * n, address(dx_sq) + 4 * n, n_in, k > 0, work)  # fmt: skip
            k = k_end
    for b in range(rows):
        add_scaled(dx[b, begin:end], x[b, begin:end], dx_sq[b, begin:end])


@kernel(parallel=True)
def lrt_backward(threads, x, theta, log_sigma2, keep, dy, rectified, r, d_theta, d_sigma2, d_bias, dx, dx_sq, scratch):
    """Gradients of `lrt_forward`. r becomes d/dvar; dx, unless it is empty, is computed with dx_sq as scratch."""
    flat_dy, flat_y, flat_r = dy.reshape(-1), rectified.reshape(-1), r.reshape(-1)
    for thread in prange(threads):
        first, last = thread * dy.size // threads, (thread + 1) * dy.size // threads
        scale(flat_dy[first:last], flat_y[first:last], flat_r[first:last])
    for thread in prange(threads):
        begin, end = _columns(thread, threads, dy.shape[1])
        column_sums(dy, begin, end, d_bias)
        first, last = thread * x.shape[1] // threads, (thread + 1) * x.shape[1] // threads
        _weight_gradients(x, dy, r, first, last, d_theta, d_sigma2, scratch[thread])
        if dx.size > 0:
            begin, end = _columns(thread, threads, x.shape[1])
            _input_gradient(x, theta, log_sigma2, keep, dy, r, begin, end, dx, dx_sq, scratch[thread])


@kernel()
def _product_columns(x, weights, begin, end, y, add, scratch):
    """Columns begin..end of y (+)= x @ weights."""
    packed, _, work = scratch_parts(scratch)
    rows, n_in = x.shape
    n_out = weights.shape[1]
    for n in range(begin, end, NC):
        n_end, k = min(n + NC, end), _ZERO
        while k < n_in:
            k_end = _k_block(k, _ZERO, n_in)
            pack(weights, k, k_end, n, n_end, packed)
            multiply(rows, k_end - k, address(x) + 4 * k, _ZERO, n_in, _ONE,
                     address(packed), _ZERO, n_end - n,
                     address(y) + 4 * n, _ZERO, n_out, add or k > 0, work)  # fmt: skip
            k = k_end


@kernel(parallel=True)
def dense_forward(threads, x, theta, bias, y, scratch):
    """y = x @ theta + bias."""
    for thread in prange(threads):
        begin, end = _columns(thread, threads, theta.shape[1])
        for b in range(len(x)):
            y[b, begin:end] = bias[begin:end]
        _product_columns(x, theta, begin, end, y, True, scratch[thread])


@kernel(parallel=True)
def dense_backward(threads, x, theta_t, dy, d_theta, d_bias, dx, scratch):
    """Gradients of `dense_forward`; of the inputs unless dx is empty. theta_t = theta.T, contiguous."""
    nothing = d_theta[:0]
    for thread in prange(threads):
        begin, end = _columns(thread, threads, dy.shape[1])
        column_sums(dy, begin, end, d_bias)
        begin, end = _columns(thread, threads, x.shape[1])
        _weight_gradients(x, dy, dy, begin, end, d_theta, nothing, scratch[thread])
        if dx.size > 0:
            _product_columns(dy, theta_t, begin, end, dx, False, scratch[thread])


@kernel()
def _exps(z):
    """z <- e**z."""
    wide_vectors()
    own_function()
    for i in range(len(z)):
        z[i] = exp32(z[i])


@kernel()
def softmax_cross_entropy(logits, labels, d_logits):
    """Sum of the NLL in nats, number of wrong predictions; d_logits = (softmax - one_hot) / B."""
    rows, classes = logits.shape
    scale = ONE / F(rows)
    nll, wrong = 0.0, 0.0
    for b in range(rows):
        z, d = logits[b], d_logits[b]
        best = 0
        for c in range(1, classes):
            if z[c] > z[best]:
                best = c
        for c in range(classes):
            d[c] = z[c] - z[best]
        nll -= np.float64(d[labels[b]])
        wrong += 1.0 if best != labels[b] else 0.0
    _exps(d_logits.reshape(-1))  # of all rows at once: a row alone is short of a vector
    for b in range(rows):
        d = d_logits[b]
        total = ZERO
        for c in range(classes):
            total += d[c]
        factor = scale / total
        for c in range(classes):
            d[c] = d[c] * factor if d[c] > F(1e-30) else ZERO  # keeps subnormals out of backward
        d[labels[b]] -= scale
        nll += np.float64(log32(total))
    return nll, wrong
