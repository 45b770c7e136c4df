"""The matrix product behind every layer, twice at once: the tile kernel and how its work is cut.

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
next one is on its way from global memory into registers.

- Strips of A lie as [k][m], with 4 numbers of padding, so that threads that write a column do not collide in a bank.
- Columns of B lie permuted: thread x (of 16) owns the columns x, x + 16, x + 32, x + 48 of every 64, and finds them
  side by side. It reads them as one 128-bit load, stores results that are neighbours of its neighbours', and one Philox
  block is exactly the noise it needs.
- Indices are uint32: a signed index might be negative, Python then counts from the end, and loads do not become wide.

**Convolutions** are the same kernel. Where A(m, k) lies is row_table[m] + column_table[k]: for a dense layer multiples
of its inputs, for a convolution the corner of a window in the padded image and the distance of a tap from it. No im2col
row is ever written.

**Few rows, many k** would leave most of the device idle. The sum over k is then cut in slices (the grid's z axis), each
slice writes its part of the sums, and `finish` adds the parts in order: same bits every time, no atomics.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from svd_numpy.kernels.cuda.device import ALIGNED, HALF, SIMULATED, TWO, ZERO, F, Kernel, U, cuda, device, kernel
from svd_numpy.kernels.cuda.philox import normal_at, normals

TINY_VAR = F(1e-30)
FORWARD, INPUTS, WEIGHTS = "forward", "inputs", "weights"
PASSES = (FORWARD, INPUTS, WEIGHTS)


class Tile(NamedTuple):
    """Sizes of a tile (`BM`, `BN`, `BK`) and of a thread's patch (`TM`, `TN`); BN and 16 TN are the same."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int

    @property
    def threads(self) -> int:
        """Threads of a block: 16 across."""
        return 16 * (self.bm // self.tm)


# Few blocks and short sums want the small one; large products the large one.
SMALL = Tile(4, 64, 8, 4, 4) if SIMULATED else Tile(32, 64, 16, 4, 4)
LARGE = Tile(16, 64, 8, 8, 4) if SIMULATED else Tile(128, 64, 16, 8, 4)
TILES = {"small": SMALL, "large": LARGE}


class Plan(NamedTuple):
    """Which tile a product takes, and in how many slices its sum over k is cut."""

    tile: str
    slices: int
    length: int  # of a slice


ENOUGH_BLOCKS = 128  # of large tiles to fill a device
WANTED_BLOCKS = 512  # of small tiles, slices counted
SHORTEST = 128  # of a slice: below, adding parts costs more than it brings


def plan(m: int, n: int, k: int) -> Plan:
    """Cut a product of M x N sums over K: a function of the shape alone, so that the bits are those of every device."""

    def blocks(tile: Tile) -> int:
        return math.ceil(m / tile.bm) * math.ceil(n / tile.bn)

    if blocks(LARGE) >= ENOUGH_BLOCKS:
        return Plan("large", 1, k)
    slices = max(1, min(WANTED_BLOCKS // blocks(SMALL), k // SHORTEST))
    length = math.ceil(k / slices / SMALL.bk) * SMALL.bk
    return Plan("small", math.ceil(k / length), length)


@device
def place(column):
    """Where a column of B lies in its strip, see the module's text."""
    return U(64) * (column // U(64)) + U(4) * (column % U(16)) + (column % U(64)) // U(16)


@device
def sampled(mean, var, noise):
    """Draw N(mean, var) with a given noise; return it and r = noise / (2 std), which backward needs."""
    std = F(math.sqrt(max(var, ZERO)))
    return mean + std * noise, (HALF * noise / std if var > TINY_VAR else ZERO)


@device
def settle(at, noise, relu, y, r):
    """Turn a mean in y and a variance in r into a sample and what backward needs."""
    value, r[at] = sampled(y[at], r[at], noise)
    y[at] = ZERO if relu and value <= ZERO else value  # a NaN stays one


@device
def draw_four(m, n, n_total, y, r, positions, relu, key, clock):
    """Sample columns n, n + 16, n + 32, n + 48 of row m, of which y and r hold means and variances."""
    example, unit, at = m // positions, (m % positions) * n_total + n, m * n_total + n
    if (unit - n) % U(64) == U(0):  # then these are the four units of one Philox block
        n0, n1, n2, n3 = normals(example, U(16) * (unit // U(64)) + n % U(16), key, clock[1])
        if n < n_total:
            settle(at, n0, relu, y, r)
        if n + U(16) < n_total:
            settle(at + U(16), n1, relu, y, r)
        if n + U(32) < n_total:
            settle(at + U(32), n2, relu, y, r)
        if n + U(48) < n_total:
            settle(at + U(48), n3, relu, y, r)
    else:
        for j in range(4):
            beyond = U(16) * U(j)
            if n + beyond < n_total:
                settle(at + beyond, normal_at(example, unit + beyond, key, clock[1]), relu, y, r)


# a1 a2 row_table column_table b1 b2 b_table b_step keep | M N K slice | out1 out2 extra positions relu key clock
SIGNATURE = "FFUUFFUufuuuuFFFuuwU"


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
    `extra` (bias forward, x backward); `positions` per example, `relu`, `key` and `clock`, of the sampling.
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
        out1, out2, extra, positions, relu, key, clock,
    ):  # fmt: skip
        t = U(cuda.threadIdx.x)
        tx, ty = t % U(16), t // U(16)
        m0, n0 = U(cuda.blockIdx.x) * U(bm), U(cuda.blockIdx.y) * U(bn)
        k0 = U(cuda.blockIdx.z) * k_slice
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
                        at += U(cuda.blockIdx.z) * size * U(2 if pair else 1)
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
            for i in range(tm):
                m = m0 + ty * U(tm) + U(i)
                if m < m_total:
                    for group in range(groups):
                        n = n0 + U(64) * U(group) + tx
                        draw_four(m, n, n_total, out1, out2, positions, relu, key, clock)

    name = f"{role}_{'pair' if pair else 'plain'}_{'parts' if parts else 'whole'}_{size}"
    return kernel(SIGNATURE, name)(product)


def make_finish(role: str, pair: bool) -> Kernel:
    """Make the kernel that adds the parts of `make_product` in order and ends as it does; one thread an entry."""
    forward, inputs, _ = (role == wanted for wanted in PASSES)

    def finish(parts, slices, m_total, n_total, out1, out2, extra, positions, relu, key, clock):
        start, step, size = U(cuda.grid(1)), U(cuda.gridsize(1)), m_total * n_total
        for i in range(start, size, step):
            at = U(i)
            one, two, here = ZERO, ZERO, at
            for _ in range(slices):
                one += parts[here]
                here += size
                if pair:
                    two += parts[here]
                    here += size
            m, n = at // n_total, at % n_total
            if forward:
                one += extra[n]
                if pair:
                    drawn = normal_at(m // positions, (m % positions) * n_total + n, key, clock[1])
                    one, out2[at] = sampled(one, two, drawn)
                    if relu and one <= ZERO:
                        one = ZERO
                out1[at] = one
            elif inputs:
                if pair:
                    one += TWO * extra[at] * two
                out1[at] = one
            else:
                out1[at] = one
                if pair:
                    out2[at] = two

    return kernel("FuuuFFFuuwU", f"finish_{role}_{'pair' if pair else 'plain'}")(finish)


PRODUCTS = {
    (role, pair, parts, size): make_product(role, pair, parts, size, tile)
    for role in PASSES
    for pair in (True, False)
    for size, tile in TILES.items()
    for parts in ((False, True) if size == "small" else (False,))  # large tiles are never cut
}
FINISH = {(role, pair): make_finish(role, pair) for role in PASSES for pair in (True, False)}
