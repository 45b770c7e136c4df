"""The matrix product behind every layer, twice at once: the tile kernel.

All three passes of a layer with Gaussian weights are a pair of products over the same indices,

    first[m, n] = sum_k a1[m, k] b1[k, n]        second[m, n] = sum_k a2[m, k] b2[k, n]

    pass      m          n        k          a1   a2     b1       b2              result
    forward   row        output   input      x    x^2    theta'   exp(log_sigma2) mean, var -> y, r
    inputs    row        input    output     dy   d_var  theta'   exp(log_sigma2) first + 2 x second -> dx
    weights   input      output   row        x    x^2    dy       d_var           d_theta, d_sigma2

and a plain layer needs the first alone. One source, `make_product`, is all of them: constants that are known when it
is compiled choose the branches, and the others vanish.

**How a tile is multiplied.** A block of threads owns BM x BN numbers of the result and walks along k in steps of BK. At
every step it copies a strip of A (BM x BK) and of B (BK x BN) into shared memory, once: the mean and the variance are
accumulated together, x is squared in registers, and log_sigma2 becomes sigma^2, theta its masked self, on the way in.
Each thread multiplies a patch of TM x TN in registers; per step of k it reads TM + 2 TN numbers and does 2 TM TN
multiply-adds, which is what keeps the arithmetic units and not the shared memory busy. While a strip is multiplied the
next one is on its way from global memory into registers: a load takes some hundred cycles, to multiply a strip of the
large tile about 2,400 of a multiprocessor's (16 steps of 76 instructions for 8 warps, 4 a cycle).

- Strips of A lie as [k][m], with 4 numbers of padding, so that threads that write a column do not collide in a bank.
- Columns of B lie permuted: thread x (of 16) owns the columns x, x + 16, x + 32, x + 48 of every 64, and finds them
  side by side. It reads them as one 128-bit load, stores results that are neighbours of its neighbours', and one Philox
  block is exactly the noise it needs.
- Indices are uint32: a signed index might be negative, Python then counts from the end, and loads do not become wide.

**What it costs and what limits it.** Counted as 4 M N K operations, a multiplication and an addition for each of two
products. Two separate products would read A twice, and a pass over A before them would write and read its squares; here
A is read once. Of the large tile's inner loop, 64 of 76 instructions are multiply-adds (8 square the patch's column of
A, 4 are 128-bit loads), so that no more than 84 % of a device's float32 peak can be reached; loads of strips and the
two barriers of a step of BK take their share of that. From memory a block of the large tile fetches 1,024 bytes for
32,768 operations, 32 a byte, more than twice the 14 at which an H200 (67 TFLOP/s, 4.8 TB/s) would wait for its memory.
Small products are another matter: the 100 x 300 x 784 of a LeNet's first layer are 94 million operations, 1.4
microseconds of such a device, and a launch alone takes longer.

**Convolutions** are the same kernel. Where A(m, k) lies is row_table[m] + column_table[k]: for a dense layer multiples
of its inputs, for a convolution the corner of a window in the padded image and the distance of a tap from it
(`tables.py`). No im2col row is ever written.

**Few rows, many k** would leave most of the device idle. The sum over k is then cut in slices (`tiling.py`), each slice
writes its part of the sums, and `finish.py` adds the parts in order: same bits every time, no atomics. Within a slice a
sum is one thread's, from the first k to the last.
"""

from __future__ import annotations

import math

import numpy as np

from svd_numpy.kernels.cuda.device import ALIGNED, TWO, ZERO, F, Kernel, U, cuda, device, kernel
from svd_numpy.kernels.cuda.philox import located
from svd_numpy.kernels.cuda.sampling import draw_four
from svd_numpy.kernels.cuda.tiling import PASSES, TILES, Tile


@device
def place(column):
    """Where a column of B lies in its strip, see the module's text."""
    return U(64) * (column // U(64)) + U(4) * (column % U(16)) + (column % U(64)) // U(16)


# a1 a2 row_table column_table b1 b2 b_table b_step keep | M N K slice | out1 out2 extra positions relu key clock seed
SIGNATURE = "FFTTFFTufuuuuFFFuuwTU"


def make_product(role: str, pair: bool, parts: bool, size: str, tile: Tile) -> Kernel:
    """Make the kernel of one pass.

    Parameters
    ----------
    role : "forward", "inputs" or "weights"
    pair : bool
        Both products, or the first alone.
    parts : bool
        Write sums of slices for `finish`, or the result.
    size, tile : str, Tile

    Notes
    -----
    Arguments of the kernel: `a1`, `a2` with `row_table` and `column_table` (A(m, k) = a[row_table[m] +
    column_table[k]]); `b1`, `b2` with `b_table` and `b_step` (B(k, n) = b[b_table[k] + n * b_step]); `keep`, the mask
    of theta; M, N, K and the length of a slice; `out1`, `out2` (y, r; dx, -; d_theta, d_sigma2; or the parts, -);
    `extra` (bias forward, x backward); `positions` per example, `relu`, and `key`, `clock`, `seed` of the noise.
    """
    bm, bn, bk, tm, tn = tile
    threads, groups = tile.threads, tn // 4
    a_loads, b_loads = bm * bk // threads, bk * bn // threads
    forward, inputs, weights = (role == wanted for wanted in PASSES)
    square, separate = pair and not inputs, pair and inputs
    along_k = not weights  # neighbours in memory: inputs of a row, or, for the weights, taps of a row
    b_along_k = inputs
    masks = pair and not weights
    a_width, b_width = bm + 4, bn
    a2_rows, b2_rows = (bk if separate else 1), (bk if pair else 1)
    a2_loads, b2_loads = (a_loads if separate else 1), (b_loads if pair else 1)
    patch, patch2 = tm * tn, (tm * tn if pair else 1)
    tm2, tn2 = (tm if separate else 1), (tn if pair else 1)

    def product(
        a1, a2, row_table, column_table, b1, b2, b_table, b_step, keep, m_total, n_total, k_total, k_slice,
        out1, out2, extra, positions, relu, key, clock, seed,
    ):  # fmt: skip
        t = U(cuda.threadIdx.x)
        tx, ty = t % U(16), t // U(16)
        across = (n_total + U(bn - 1)) // U(bn)  # tiles of a row; the grid's y axis is them, slice after slice
        part = U(cuda.blockIdx.y) // across
        m0, n0 = U(cuda.blockIdx.x) * U(bm), (U(cuda.blockIdx.y) - part * across) * U(bn)
        k0 = part * k_slice
        k_end = min(k0 + k_slice, k_total)
        rows = cuda.shared.array(bm, np.uint32)
        if ALIGNED:
            strip_a = cuda.shared.array((bk, a_width), np.float32, alignment=16)
            strip_a2 = cuda.shared.array((a2_rows, a_width), np.float32, alignment=16)
            strip_b = cuda.shared.array((bk, b_width), np.float32, alignment=16)
            strip_b2 = cuda.shared.array((b2_rows, b_width), np.float32, alignment=16)
        else:
            strip_a = cuda.shared.array((bk, a_width), np.float32)
            strip_a2 = cuda.shared.array((a2_rows, a_width), np.float32)
            strip_b = cuda.shared.array((bk, b_width), np.float32)
            strip_b2 = cuda.shared.array((b2_rows, b_width), np.float32)
        next_a = cuda.local.array(a_loads, np.float32)
        next_a2 = cuda.local.array(a2_loads, np.float32)
        next_b = cuda.local.array(b_loads, np.float32)
        next_b2 = cuda.local.array(b2_loads, np.float32)
        first = cuda.local.array(patch, np.float32)
        second = cuda.local.array(patch2, np.float32)
        some_a = cuda.local.array(tm, np.float32)
        some_a2 = cuda.local.array(tm2, np.float32)
        some_b = cuda.local.array(tn, np.float32)
        some_b2 = cuda.local.array(tn2, np.float32)
        for i in range(patch):
            first[i] = ZERO
            if pair:
                second[i] = ZERO
        for row in range(t, bm, threads):
            m = m0 + U(row)
            rows[U(row)] = row_table[m] if m < m_total else U(0)
        cuda.syncthreads()

        coming = True  # the first strip is fetched before anything can be multiplied
        while k0 < k_end or coming:
            if not coming:
                # Strips from registers to shared memory.
                for i in range(a_loads):
                    e = t + U(i * threads)
                    kk, mm = (e % U(bk), e // U(bk)) if along_k else (e // U(bm), e % U(bm))
                    strip_a[kk, mm] = next_a[i]
                    if separate:
                        strip_a2[kk, mm] = next_a2[i]
                for i in range(b_loads):
                    e = t + U(i * threads)
                    kk, c = (e % U(bk), e // U(bk)) if b_along_k else (e // U(bn), e % U(bn))
                    at_c = place(c)
                    if masks:
                        sigma2 = F(math.exp(next_b2[i])) if k0 + kk < k_end else ZERO
                        theta = next_b[i]
                        strip_b[kk, at_c] = theta if theta * theta >= keep * sigma2 else ZERO
                        strip_b2[kk, at_c] = sigma2
                    else:
                        strip_b[kk, at_c] = next_b[i]
                        if pair:
                            strip_b2[kk, at_c] = next_b2[i]
                cuda.syncthreads()
            k_next = k0 if coming else k0 + U(bk)
            # The next strips on their way into registers.
            if k_next < k_end:
                for i in range(a_loads):
                    e = t + U(i * threads)
                    kk, mm = (e % U(bk), e // U(bk)) if along_k else (e // U(bm), e % U(bm))
                    k = k_next + kk
                    next_a[i] = ZERO
                    if separate:
                        next_a2[i] = ZERO
                    if k < k_end and m0 + mm < m_total:
                        at = rows[mm] + column_table[k]
                        next_a[i] = a1[at]
                        if separate:
                            next_a2[i] = a2[at]
                for i in range(b_loads):
                    e = t + U(i * threads)
                    kk, c = (e % U(bk), e // U(bk)) if b_along_k else (e // U(bn), e % U(bn))
                    k = k_next + kk
                    next_b[i] = ZERO
                    if pair:
                        next_b2[i] = ZERO
                    if k < k_end and n0 + c < n_total:
                        at = b_table[k] + (n0 + c) * b_step
                        next_b[i] = b1[at]
                        if pair:
                            next_b2[i] = b2[at]
            if not coming:
                for step in range(bk):
                    kk = U(step)
                    for i in range(tm):
                        some_a[i] = strip_a[kk, ty * U(tm) + U(i)]
                        if separate:
                            some_a2[i] = strip_a2[kk, ty * U(tm) + U(i)]
                    for j in range(tn):
                        at = U(64 * (j // 4) + j % 4) + U(4) * tx
                        some_b[j] = strip_b[kk, at]
                        if pair:
                            some_b2[j] = strip_b2[kk, at]
                    for i in range(tm):
                        a = some_a[i]
                        for j in range(tn):
                            first[i * tn + j] += a * some_b[j]
                        if square:
                            q = a * a
                            for j in range(tn):
                                second[i * tn + j] += q * some_b2[j]
                        elif separate:
                            q = some_a2[i]
                            for j in range(tn):
                                second[i * tn + j] += q * some_b2[j]
                cuda.syncthreads()
                k0 += U(bk)
            coming = False

        # What a thread holds in registers must be named by constants, so that this loop is short enough to be written
        # out by the compiler; the sampling, which is long, is a loop of its own over what was just stored.
        size = m_total * n_total
        for i in range(tm):
            m = m0 + ty * U(tm) + U(i)
            for j in range(tn):
                n = n0 + U(64 * (j // 4) + 16 * (j % 4)) + tx
                if m < m_total and n < n_total:
                    at = m * n_total + n
                    one = first[i * tn + j]
                    if parts:
                        at += part * size * U(2 if pair else 1)
                        if pair:
                            out1[at + size] = second[i * tn + j]
                    elif pair and inputs:
                        one += TWO * extra[at] * second[i * tn + j]
                    elif pair:
                        out2[at] = second[i * tn + j]
                    if forward and not parts:
                        one += extra[n]
                    out1[at] = one
        if forward and pair and not parts:
            here = located(key, clock, seed)
            for i in range(tm):
                m = m0 + ty * U(tm) + U(i)
                if m < m_total:
                    for group in range(groups):
                        n = n0 + U(64) * U(group) + tx
                        draw_four(m, n, n_total, out1, out2, positions, relu, here)

    name = f"{role}_{'pair' if pair else 'plain'}_{'parts' if parts else 'whole'}_{size}"
    return kernel(SIGNATURE, name)(product)


PRODUCTS = {
    (role, pair, parts, size): make_product(role, pair, parts, size, tile)
    for role in PASSES
    for pair in (True, False)
    for size, tile in TILES.items()
    for parts in ((False, True) if size == "small" else (False,))  # large tiles are never cut
}
