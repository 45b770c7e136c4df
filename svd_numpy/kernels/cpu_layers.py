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
    TILE,
    copy_vector,
    multiply,
    pack,
    pack_weights,
    pack_weights_transposed,
)
from svd_numpy.kernels.jit import kernel
from svd_numpy.kernels.simd import (
    HALF,
    ONE,
    TWO,
    ZERO,
    F,
    U,
    abs32,
    exp32,
    fma32,
    log32,
    max32,
    noise_row,
    prefetch,
    sqrt32,
    wide_vectors,
)

_ZERO, _ONE = np.int64(0), np.int64(1)  # not literals, for which Numba would compile everything once more
TINY_VAR = F(1e-30)  # a variance below this counts as no noise at all


@kernel()
def _columns(thread, threads, columns):
    """The columns of one thread, cut at whole vectors."""
    thread, vectors = np.int64(thread), (columns + LANES - 1) // LANES
    return min(thread * vectors // threads * LANES, columns), min((thread + 1) * vectors // threads * LANES, columns)


@kernel()
def _k_block(k0, k_count):
    """End of the k block that starts at k0; blocks are near-equal and depend on k_count alone."""
    n_blocks = (k_count + KC - 1) // KC
    return min(k_count, k0 + (k_count + n_blocks - 1) // n_blocks)


@kernel(parallel=True)
def gather_rows(threads, source, index, scale, mean, out, scratch):
    """out[b] = source[index[b]] * scale - mean."""
    rows, row_bytes = len(index), source.itemsize * source.shape[1]
    for thread in prange(threads):
        for b in range(thread * rows // threads, (thread + 1) * rows // threads):
            if b + 4 < rows:  # rows lie anywhere in memory: ask for one early
                prefetch(source.ctypes.data + index[b + 4] * row_bytes, row_bytes)
            _gather_row(source[index[b]], scale, mean, out[b])


@kernel()
def _gather_row(source, scale, mean, out):
    wide_vectors()
    for i in range(len(out)):
        out[i] = F(source[i]) * scale - mean[i]


@kernel()
def _scratch_parts(scratch):
    """Cut one thread's scratch into two packed blocks, a row tile, and rows of a weight gradient."""
    half = (len(scratch) - TILE - MR * NC) // 2
    return scratch[:half], scratch[half : 2 * half], scratch[2 * half : 2 * half + TILE], scratch[2 * half + TILE :]


@kernel()
def _column_peaks(x, first, last, peaks):
    """peaks[i] = max over rows first..last of |x[b, i]|."""
    wide_vectors()
    peaks[:] = ZERO
    for b in range(first, last):
        row = x[b]
        for i in range(len(peaks)):
            peaks[i] = max32(peaks[i], abs32(row[i]))


@kernel()
def _squeeze_row(x, runs, n_runs, out):
    """Copy runs of inputs, given as (start, length) pairs, one behind the other."""
    source, target = x.ctypes.data, out.ctypes.data
    for run in range(n_runs):
        start, length = runs[2 * run], runs[2 * run + 1]
        for i in range(0, length, LANES):
            copy_vector(source + 4 * (start + i), target + 4 * i, min(LANES, length - i), True)
        target += 4 * length


@kernel()
def _square(x, out):
    wide_vectors()
    for i in range(len(x)):
        out[i] = x[i] * x[i]


@kernel()
def _find_runs(peaks, active, runs):
    """List the inputs with a peak above 0, singly and as runs; return how many of each."""
    count, n_runs = 0, 0
    for i in range(len(active)):
        peak = ZERO
        for thread in range(len(peaks)):
            peak = max32(peak, peaks[thread, i])
        if peak > ZERO:
            if count == 0 or active[count - 1] != i - 1:
                runs[2 * n_runs], runs[2 * n_runs + 1] = i, 0
                n_runs += 1
            runs[2 * n_runs - 1] += 1
            active[count] = i
            count += 1
    return count, n_runs


@kernel()
def _squeeze_rows(x, first, last, count, runs, n_runs, x_active, x_sq):
    """Squeeze rows first..last, and square them."""
    if count < x.shape[1]:
        for b in range(first, last):
            _squeeze_row(x[b], runs, n_runs, x_active[b * count : (b + 1) * count])
        _square(x_active[first * count : last * count], x_sq[first * count : last * count])
    else:
        _square(x.reshape(-1)[first * count : last * count], x_sq[first * count : last * count])


@kernel(parallel=True)
def squeeze(threads, x, active, x_active, x_sq, scratch):
    """Leave out the inputs that are 0 in the whole batch (blank pixels): they add nothing, bit for bit.

    active : int32 (I,), its head becomes the list of the others; returns how many there are
    x_active, x_sq : flat (B * I,), their heads become arrays (B, count) of those inputs and their squares; where
    all inputs are active, x_active is not written (it would be x)
    """
    rows = len(x)
    runs = np.empty(x.shape[1] + 2, np.int64)
    for thread in prange(threads):  # each thread looks at the rows that it has just written, not at the other's
        first, last = thread * rows // threads, (thread + 1) * rows // threads
        _column_peaks(x, first, last, scratch[thread, : x.shape[1]])
    count, n_runs = _find_runs(scratch[:threads], active, runs)
    for thread in prange(threads):
        first, last = thread * rows // threads, (thread + 1) * rows // threads
        _squeeze_rows(x, first, last, count, runs, n_runs, x_active, x_sq)
    return count


@kernel()
def _sample_row(mean, var, bias, noise):
    """mean <- mean + bias + sqrt(var) noise;  var <- noise / (2 sqrt(var)), which is all that backward needs."""
    wide_vectors()
    for o in range(len(mean)):
        std = sqrt32(var[o])
        mean[o] = fma32(std, noise[o], mean[o] + bias[o])
        var[o] = HALF * noise[o] / std if var[o] > TINY_VAR else ZERO


@kernel()
def _sample_columns(x, x_sq, active, theta, log_sigma2, keep, begin, end, y, r, scratch):
    """Columns begin..end of mean = x @ theta (into y) and var = x_sq @ sigma^2 (into r)."""
    packed_mean, packed_var, tile, _ = _scratch_parts(scratch)
    rows, n_in = x.shape
    n_out = theta.shape[1]
    for n in range(begin, end, NC):
        n_end = min(n + NC, end)
        k = _ZERO
        while k < n_in:
            k_end = _k_block(k, n_in)
            add = k > 0
            pack_weights(theta, log_sigma2, keep, active[k:k_end], n, n_end, packed_mean, packed_var)
            multiply(rows, k_end - k, x.ctypes.data + 4 * k, n_in, _ONE, packed_mean, n_end - n,
                     y.ctypes.data + 4 * n, n_out, add, tile)  # fmt: skip
            multiply(rows, k_end - k, x_sq.ctypes.data + 4 * k, n_in, _ONE, packed_var, n_end - n,
                     r.ctypes.data + 4 * n, n_out, add, tile)  # fmt: skip
            k = k_end
    if n_in == 0:
        y[:, begin:end] = ZERO
        r[:, begin:end] = ZERO


@kernel()
def _sample_rows(first, last, bias, key, y, r, noise):
    """Rows first..last of `lrt_forward`'s outputs, from their means and variances."""
    step, layer, first_sample, key0, key1 = key
    for b in range(first, last):
        noise_row(noise, U(first_sample + b), step, layer, key0, key1)
        _sample_row(y[b], r[b], bias, noise)


@kernel(parallel=True)
def lrt_forward(threads, x, x_sq, active, theta, log_sigma2, bias, keep, key, y, r, scratch):
    """Local reparametrisation forward on squeezed inputs: y, and r = noise / (2 std)."""
    rows, n_out = y.shape
    for thread in prange(threads):
        begin, end = _columns(thread, threads, n_out)
        _sample_columns(x, x_sq, active, theta, log_sigma2, keep, begin, end, y, r, scratch[thread])
    for thread in prange(threads):
        noise = scratch[thread, : (n_out + 63) // 64 * 64]
        _sample_rows(thread * rows // threads, (thread + 1) * rows // threads, bias, key, y, r, noise)


@kernel()
def _scale(dy, r):
    """r <- dy * r on flat arrays."""
    wide_vectors()
    for i in range(len(dy)):
        r[i] = dy[i] * r[i]


@kernel()
def _column_sums(dy, begin, end, out):
    wide_vectors()
    total = out[begin:end]
    total[:] = ZERO
    for b in range(len(dy)):
        row = dy[b, begin:end]
        for o in range(len(total)):
            total[o] += row[o]


@kernel()
def _weight_gradient(x, active, dy, m0, m1, d_theta, scratch):
    """d_theta[active[m0:m1]] = x[:, m0:m1].T @ dy; the rows between them become 0."""
    packed, _, tile, block = _scratch_parts(scratch)
    rows, n_in = x.shape
    n_out = dy.shape[1]
    first = active[m0 - 1] + 1 if m0 > 0 else 0
    for m in range(m0, m1):
        d_theta[first : active[m]] = ZERO
        first = active[m] + 1
    if m1 == n_in:
        d_theta[first:] = ZERO
    for n in range(0, n_out, NC):
        width = min(NC, n_out - n)
        k = _ZERO
        while k < rows:
            k_end = _k_block(k, rows)
            pack(dy, k, k_end, n, n + width, packed)
            for m in range(m0, m1, MR):
                count = min(MR, m1 - m)
                a = x.ctypes.data + 4 * (k * n_in + m)
                if active[m + count - 1] - active[m] == count - 1:  # neighbours: straight into place
                    c = d_theta.ctypes.data + 4 * (active[m] * n_out + n)
                    multiply(count, k_end - k, a, _ONE, n_in, packed, width, c, n_out, k > 0, tile)
                else:
                    multiply(count, k_end - k, a, _ONE, n_in, packed, width, block.ctypes.data, width, k < 0, tile)
                    for j in range(count):
                        at = d_theta.ctypes.data + 4 * (active[m + j] * n_out + n)
                        _put_row(block[j * width : (j + 1) * width], at, d_theta[active[m + j], n : n + width], k > 0)
            k = k_end


@kernel()
def _put_row(source, address, target, add):
    """Write or add a row of a weight gradient to its place (given as an address and as an array)."""
    wide_vectors()
    if add:
        for i in range(len(source)):
            target[i] += source[i]
    else:
        for i in range(0, len(source), LANES):
            copy_vector(source.ctypes.data + 4 * i, address + 4 * i, min(LANES, len(source) - i), True)


@kernel()
def _add_scaled(dx, x, dx_sq):
    """dx <- dx + 2 x dx_sq."""
    wide_vectors()
    for i in range(len(dx)):
        dx[i] = fma32(TWO * x[i], dx_sq[i], dx[i])


@kernel()
def _input_gradient(x, theta, log_sigma2, keep, dy, r, begin, end, dx, dx_sq, scratch):
    """Columns begin..end of dx = dy @ theta.T + 2 x * (r @ sigma^2.T); dx_sq is scratch of dx's shape."""
    packed_mean, packed_var, tile, _ = _scratch_parts(scratch)
    rows, n_in = x.shape
    n_out = dy.shape[1]
    for n in range(begin, end, NC):
        n_end = min(n + NC, end)
        k = _ZERO
        while k < n_out:
            k_end = _k_block(k, n_out)
            add = k > 0
            pack_weights_transposed(theta, log_sigma2, keep, k, k_end, n, n_end, tile, packed_mean, packed_var)
            multiply(rows, k_end - k, dy.ctypes.data + 4 * k, n_out, _ONE, packed_mean, n_end - n,
                     dx.ctypes.data + 4 * n, n_in, add, tile)  # fmt: skip
            multiply(rows, k_end - k, r.ctypes.data + 4 * k, n_out, _ONE, packed_var, n_end - n,
                     dx_sq.ctypes.data + 4 * n, n_in, add, tile)  # fmt: skip
            k = k_end
    for b in range(rows):
        _add_scaled(dx[b, begin:end], x[b, begin:end], dx_sq[b, begin:end])


@kernel(parallel=True)
def lrt_backward(threads, x, x_active, x_sq, active, theta, log_sigma2, keep, dy, r,
                 d_theta, d_sigma2, d_bias, dx, dx_sq, scratch):  # fmt: skip
    """Gradients of `lrt_forward`. r becomes d/dvar; dx is wanted where dx.size > 0, dx_sq is its scratch."""
    flat_dy, flat_r = dy.reshape(-1), r.reshape(-1)
    for thread in prange(threads):
        first, last = thread * dy.size // threads, (thread + 1) * dy.size // threads
        _scale(flat_dy[first:last], flat_r[first:last])
    for thread in prange(threads):
        begin, end = _columns(thread, threads, dy.shape[1])
        _column_sums(dy, begin, end, d_bias)
        first, last = thread * len(active) // threads, (thread + 1) * len(active) // threads
        _weight_gradient(x_active, active, dy, first, last, d_theta, scratch[thread])
        _weight_gradient(x_sq, active, r, first, last, d_sigma2, scratch[thread])
        if dx.size > 0:
            begin, end = _columns(thread, threads, x.shape[1])
            _input_gradient(x, theta, log_sigma2, keep, dy, r, begin, end, dx, dx_sq, scratch[thread])


@kernel()
def _product_columns(x, weights, begin, end, y, add, scratch):
    """Columns begin..end of y (+)= x @ weights."""
    packed, _, tile, _ = _scratch_parts(scratch)
    rows, n_in = x.shape
    n_out = weights.shape[1]
    for n in range(begin, end, NC):
        n_end = min(n + NC, end)
        k = _ZERO
        while k < n_in:
            k_end = _k_block(k, n_in)
            pack(weights, k, k_end, n, n_end, packed)
            multiply(rows, k_end - k, x.ctypes.data + 4 * k, n_in, _ONE, packed, n_end - n,
                     y.ctypes.data + 4 * n, n_out, add or k > 0, tile)  # fmt: skip
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
def dense_backward(threads, x, everything, theta_t, dy, d_theta, d_bias, dx, scratch):
    """Gradients of `dense_forward`; dx where dx.size > 0. theta_t = theta.T, contiguous; everything = arange(I)."""
    for thread in prange(threads):
        begin, end = _columns(thread, threads, dy.shape[1])
        _column_sums(dy, begin, end, d_bias)
        begin, end = _columns(thread, threads, x.shape[1])
        _weight_gradient(x, everything, dy, begin, end, d_theta, scratch[thread])
        if dx.size > 0:
            _product_columns(dy, theta_t, begin, end, dx, False, scratch[thread])


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
def softmax_cross_entropy(logits, labels, d_logits):
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
            d[c] = d[c] * (scale / total) if d[c] > F(1e-30) else ZERO  # nothing subnormal into the backward pass
        d[label] -= scale
        nll += np.float64(log32(total) - (z[label] - z[best]))
        correct += 1 if best == label else 0
    return nll, correct
