"""Numba kernels of the layers: gather, dense and local-reparametrisation passes, ReLU, losses.

Every function does on float32, in parallel, what its namesake in `reference.py` says in plain NumPy; shapes and
equations stand in `backend.py`. The pattern is always the same: `prange(threads)`, and each thread owns a slice of the
outputs. `scratch[thread]` is that thread's private memory.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from svd_numpy.kernels.gemm import (
    KC,
    LANES,
    MR,
    NC,
    multiply,
    pack,
    pack_weights,
    pack_weights_transposed,
)
from svd_numpy.kernels.jit import kernel
from svd_numpy.kernels.simd import HALF, ONE, TWO, ZERO, F, U, exp32, fma32, log32, max32, noise_row, sqrt32, wide_vectors

TINY_VAR = F(1e-30)  # a variance below this counts as no noise at all


@kernel()
def _columns(thread, threads, columns):  # type: ignore[no-untyped-def]
    """The columns of one thread, cut at whole vectors."""
    vectors = (columns + LANES - 1) // LANES
    return min(thread * vectors // threads * LANES, columns), min((thread + 1) * vectors // threads * LANES, columns)


@kernel()
def _k_block(k0, k_count):  # type: ignore[no-untyped-def]
    """End of the k block that starts at k0; blocks are near-equal and depend on k_count alone."""
    n_blocks = (k_count + KC - 1) // KC
    return min(k_count, k0 + (k_count + n_blocks - 1) // n_blocks)


@kernel(parallel=True)
def gather_rows(threads, source, index, scale, mean, out, scratch):  # type: ignore[no-untyped-def]
    """out[b] = source[index[b]] * scale - mean."""
    rows = len(index)
    for thread in prange(threads):
        for b in range(thread * rows // threads, (thread + 1) * rows // threads):
            _gather_row(source[index[b]], scale, mean, out[b])


@kernel()
def _gather_row(source, scale, mean, out):  # type: ignore[no-untyped-def]
    wide_vectors()
    for i in range(len(out)):
        out[i] = F(source[i]) * scale - mean[i]


@kernel()
def _square(x, out):  # type: ignore[no-untyped-def]
    wide_vectors()
    for i in range(len(x)):
        out[i] = x[i] * x[i]


@kernel()
def _sample_row(mean, var, bias, noise):  # type: ignore[no-untyped-def]
    """mean <- mean + bias + sqrt(var) noise;  var <- noise / (2 sqrt(var)), which is all that backward needs."""
    wide_vectors()
    for o in range(len(mean)):
        std = sqrt32(var[o])
        mean[o] = fma32(std, noise[o], mean[o] + bias[o])
        var[o] = HALF * noise[o] / std if var[o] > TINY_VAR else ZERO


@kernel(parallel=True)
def lrt_forward(threads, x, theta, log_sigma2, bias, keep, key, x_sq, y, r, scratch):  # type: ignore[no-untyped-def]
    """Local reparametrisation forward: y and r = noise / (2 std)."""
    rows, n_in = x.shape
    n_out = theta.shape[1]
    step, layer, first_sample, key0, key1 = key
    flat_x, flat_sq = x.reshape(-1), x_sq.reshape(-1)
    for thread in prange(threads):
        lo, hi = thread * rows // threads * n_in, (thread + 1) * rows // threads * n_in
        _square(flat_x[lo:hi], flat_sq[lo:hi])
    for thread in prange(threads):
        begin, end = _columns(thread, threads, n_out)
        half = (scratch.shape[1] - MR * KC) // 2
        packed_mean, packed_var = scratch[thread, :half], scratch[thread, half : 2 * half]
        tile = scratch[thread, 2 * half :]
        for n in range(begin, end, NC):
            n_end = min(n + NC, end)
            k = 0
            while k < n_in:
                k_end = _k_block(k, n_in)
                add = 1 if k > 0 else 0
                pack_weights(theta, log_sigma2, keep, k, k_end, n, n_end, tile, packed_mean, packed_var)
                multiply(0, rows, k_end - k, flat_x[k:], n_in, 1, packed_mean, n_end - n,
                         y.ctypes.data + 4 * n, n_out, add, tile)  # fmt: skip
                multiply(0, rows, k_end - k, flat_sq[k:], n_in, 1, packed_var, n_end - n,
                         r.ctypes.data + 4 * n, n_out, add, tile)  # fmt: skip
                k = k_end
    for thread in prange(threads):
        noise = scratch[thread, : (n_out + 63) // 64 * 64]
        for b in range(thread * rows // threads, (thread + 1) * rows // threads):
            noise_row(noise, U(first_sample + b), step, layer, key0, key1)
            _sample_row(y[b], r[b], bias, noise)


@kernel()
def _scale_row(dy, r):  # type: ignore[no-untyped-def]
    wide_vectors()
    for o in range(len(dy)):
        r[o] = dy[o] * r[o]


@kernel()
def _column_sums(dy, begin, end, out):  # type: ignore[no-untyped-def]
    wide_vectors()
    total = out[begin:end]
    total[:] = ZERO
    for b in range(len(dy)):
        row = dy[b, begin:end]
        for o in range(len(total)):
            total[o] += row[o]


@kernel()
def _weight_gradient(x, dy, i0, i1, d_theta, packed, tile):  # type: ignore[no-untyped-def]
    """d_theta[i0:i1] = x[:, i0:i1].T @ dy."""
    rows, n_in = x.shape
    n_out = dy.shape[1]
    flat_x = x.reshape(-1)
    for n in range(0, n_out, NC):
        n_end = min(n + NC, n_out)
        k = 0
        while k < rows:
            k_end = _k_block(k, rows)
            pack(dy, k, k_end, n, n_end, packed)
            multiply(i0, i1, k_end - k, flat_x[k * n_in :], 1, n_in, packed, n_end - n,
                     d_theta.ctypes.data + 4 * n, n_out, 1 if k > 0 else 0, tile)  # fmt: skip
            k = k_end


@kernel()
def _add_scaled(dx, x, dx_sq):  # type: ignore[no-untyped-def]
    """dx <- dx + 2 x dx_sq."""
    wide_vectors()
    for i in range(len(dx)):
        dx[i] = fma32(TWO * x[i], dx_sq[i], dx[i])


@kernel(parallel=True)
def lrt_backward(threads, x, x_sq, theta, log_sigma2, keep, dy, r, d_theta, d_sigma2, d_bias, dx, scratch):  # type: ignore[no-untyped-def]
    """Gradients of `lrt_forward`. r becomes d/dvar; x_sq is overwritten when dx is wanted (dx.size > 0)."""
    rows, n_in = x.shape
    n_out = theta.shape[1]
    for thread in prange(threads):
        for b in range(thread * rows // threads, (thread + 1) * rows // threads):
            _scale_row(dy[b], r[b])
    for thread in prange(threads):
        half = (scratch.shape[1] - MR * KC) // 2
        packed_mean, packed_var = scratch[thread, :half], scratch[thread, half : 2 * half]
        tile = scratch[thread, 2 * half :]
        begin, end = _columns(thread, threads, n_out)
        _column_sums(dy, begin, end, d_bias)
        begin, end = _columns(thread, threads, n_in)
        _weight_gradient(x, dy, begin, end, d_theta, packed_mean, tile)
        _weight_gradient(x_sq, r, begin, end, d_sigma2, packed_var, tile)
        if dx.size > 0:
            for n in range(begin, end, NC):
                n_end = min(n + NC, end)
                k = 0
                while k < n_out:
                    k_end = _k_block(k, n_out)
                    add = 1 if k > 0 else 0
                    pack_weights_transposed(theta, log_sigma2, keep, k, k_end, n, n_end, tile, packed_mean, packed_var)
                    multiply(0, rows, k_end - k, dy.reshape(-1)[k:], n_out, 1, packed_mean, n_end - n,
                             dx.ctypes.data + 4 * n, n_in, add, tile)  # fmt: skip
                    multiply(0, rows, k_end - k, r.reshape(-1)[k:], n_out, 1, packed_var, n_end - n,
                             x_sq.ctypes.data + 4 * n, n_in, add, tile)  # fmt: skip
                    k = k_end
            for b in range(rows):
                _add_scaled(dx[b, begin:end], x[b, begin:end], x_sq[b, begin:end])


@kernel(parallel=True)
def dense_forward(threads, x, theta, bias, y, scratch):  # type: ignore[no-untyped-def]
    """y = x @ theta + bias."""
    rows, n_in = x.shape
    n_out = theta.shape[1]
    flat_x = x.reshape(-1)
    for thread in prange(threads):
        begin, end = _columns(thread, threads, n_out)
        packed, tile = scratch[thread, : -MR * KC], scratch[thread, -MR * KC :]
        for b in range(rows):
            y[b, begin:end] = bias[begin:end]
        for n in range(begin, end, NC):
            n_end = min(n + NC, end)
            k = 0
            while k < n_in:
                k_end = _k_block(k, n_in)
                pack(theta, k, k_end, n, n_end, packed)
                multiply(0, rows, k_end - k, flat_x[k:], n_in, 1, packed, n_end - n,
                         y.ctypes.data + 4 * n, n_out, 1, tile)  # fmt: skip
                k = k_end


@kernel(parallel=True)
def dense_backward(threads, x, theta_t, dy, d_theta, d_bias, dx, scratch):  # type: ignore[no-untyped-def]
    """Gradients of `dense_forward`; dx only when wanted (dx.size > 0). theta_t is theta.T, contiguous."""
    rows, n_in = x.shape
    n_out = dy.shape[1]
    for thread in prange(threads):
        packed, tile = scratch[thread, : -MR * KC], scratch[thread, -MR * KC :]
        begin, end = _columns(thread, threads, n_out)
        _column_sums(dy, begin, end, d_bias)
        begin, end = _columns(thread, threads, n_in)
        _weight_gradient(x, dy, begin, end, d_theta, packed, tile)
        if dx.size > 0:
            for n in range(begin, end, NC):
                n_end = min(n + NC, end)
                k = 0
                while k < n_out:
                    k_end = _k_block(k, n_out)
                    pack(theta_t, k, k_end, n, n_end, packed)
                    multiply(0, rows, k_end - k, dy.reshape(-1)[k:], n_out, 1, packed, n_end - n,
                             dx.ctypes.data + 4 * n, n_in, 1 if k > 0 else 0, tile)  # fmt: skip
                    k = k_end


@kernel(parallel=True)
def relu_forward(threads, y, scratch):  # type: ignore[no-untyped-def]
    """y <- max(y, 0) on a flat array."""
    for thread in prange(threads):
        _relu(y[thread * len(y) // threads : (thread + 1) * len(y) // threads])


@kernel()
def _relu(y):  # type: ignore[no-untyped-def]
    wide_vectors()
    for i in range(len(y)):
        y[i] = max32(y[i], ZERO)


@kernel(parallel=True)
def relu_backward(threads, y, dy, scratch):  # type: ignore[no-untyped-def]
    """dy <- dy where y > 0, else 0, on flat arrays."""
    for thread in prange(threads):
        lo, hi = thread * len(y) // threads, (thread + 1) * len(y) // threads
        _relu_mask(y[lo:hi], dy[lo:hi])


@kernel()
def _relu_mask(y, dy):  # type: ignore[no-untyped-def]
    wide_vectors()
    for i in range(len(y)):
        dy[i] = dy[i] if y[i] > ZERO else ZERO


@kernel()
def softmax_cross_entropy(logits, labels, d_logits):  # type: ignore[no-untyped-def]
    """Sum of the NLL in nats, number of right guesses; d_logits = (softmax - one_hot) / B."""
    rows, classes = logits.shape
    scale = ONE / F(rows)
    nll, correct = 0.0, 0
    for b in range(rows):
        z, d, label = logits[b], d_logits[b], labels[b]
        best = 0
        for c in range(1, classes):
            if z[c] > z[best]:
                best = c
        total = ZERO
        for c in range(classes):
            d[c] = exp32(z[c] - z[best])
            total += d[c]
        for c in range(classes):
            d[c] = d[c] * (scale / total)
        d[label] -= scale
        nll += np.float64(log32(total) - (z[label] - z[best]))
        correct += 1 if best == label else 0
    return nll, correct
