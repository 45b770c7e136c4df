"""The matrix product behind every layer, twice at once: the tile kernel.

All three passes of a layer with Gaussian weights are a pair of products over the same indices,

    first[m, n] = sum_k a1[m, k] b1[k, n]        second[m, n] = sum_k a2[m, k] b2[k, n]

    pass      m          n        k          a1   a2     b1       b2              result
    forward   row        output   input      x    x^2    theta'   exp(log_sigma2) mean, var -> y, r
    inputs    row        input    output     dy   d_var  theta'   exp(log_sigma2) first + 2 x second -> dx
    weights   input      output   row        x    x^2    dy       d_var           d_theta, d_sigma2

and a plain layer needs the first alone. One source is all of them: constants that are known when it is compiled
(`Variant`) choose the branches, and the others vanish. It is written in stages, which the compiler joins: `fetch`,
`store`, `multiply`, `write`; `make_product` puts them in their order.

**How a tile is multiplied.** A block of threads owns BM x BN numbers of the result and walks along k in steps of BK. At
every step it copies a strip of A (BM x BK) and of B (BK x BN) into shared memory, once: the mean and the variance are
accumulated together, x is squared, and log_sigma2 becomes sigma^2, theta its masked self, on the way in. Each thread
multiplies a patch of TM x TN in registers; per step of k it reads 2 TM + 2 TN numbers and does 2 TM TN multiply-adds,
which is what keeps the arithmetic units and not the shared memory busy. Shared memory holds two strips of each: while
one is multiplied the next is on its way from global memory into registers, and then into the other half, so that there
is one barrier a step. A load takes some hundred cycles, to multiply a strip of the large tile about 1,200 of a
multiprocessor's (8 steps of 70 instructions for 8 warps, 4 a cycle).

- Loads ask no questions: rows, columns and k that lie outside are read where the last one inside lies. What rows and
  columns give is not written; of what lies past the end of k, 0 is taken. A load behind a question would wait for the
  answer, and the next one for it.
- The steps of k are written out (`in_turn`), so that where a number lies in shared memory is a constant.
- Strips of A lie as [k][m], with 4 numbers of padding, so that threads that write a column do not collide in a bank.
- Columns of B lie permuted: thread x (of 16) owns the columns x, x + 16, x + 32, x + 48 of every 64, and finds them
  side by side. It reads them as one 128-bit load, stores results that are neighbours of its neighbours', and one Philox
  block is exactly the noise it needs.
- Indices are uint32: a signed index might be negative, Python then counts from the end, and loads do not become wide.
  The sum of two is 64 bits to Numba, until U(...) says that it is not.

**What it costs and what limits it.** Counted as 4 M N K operations, a multiplication and an addition for each of two
products. Two separate products would read A twice, and a pass over A before them would write and read its squares; here
A is read once. Of the 697 to 727 instructions that multiply and fetch a strip of the large tile (compiled for compute
capability 9.0), 512 are multiply-adds, so that no more than 70 to 73 % of a device's float32 peak can be reached. From
memory a block of the large tile fetches 1,024 bytes for 32,768 operations, 32 a byte, more than twice the 14 at which
an H200 (67 TFLOP/s, 4.8 TB/s) would wait for its memory. Small products are another matter: the 100 x 300 x 784 of a
LeNet's first layer are 94 million operations, 1.4 microseconds of such a device, and a launch alone takes longer.

**Convolutions** are the same kernel. Where A(m, k) lies is row_table[m] + column_table[k]: for a dense layer multiples
of its inputs, for a convolution the corner of a window in the padded image and the distance of a tap from it
(`tables.py`). No im2col row is ever written.

**Few rows, many k** would leave most of the device idle. The sum over k is then cut in slices (`tiling.py`), each slice
writes its part of the sums, and `finish.py` adds the parts in order: same bits every time, no atomics. Within a slice a
sum is one thread's, from the first k to the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from svd_numpy.kernels.cuda.device import ALIGNED, TWO, ZERO, F, Kernel, U, cuda, device, kernel
from svd_numpy.kernels.cuda.dials import DIALS, KEEP
from svd_numpy.kernels.cuda.philox import located
from svd_numpy.kernels.cuda.sampling import draw_four
from svd_numpy.kernels.cuda.tiling import FORWARD, INPUTS, PASSES, TILES, WEIGHTS, Tile

Stage = Callable[..., Any]


class Variant(NamedTuple):
    """What is known of a product when it is compiled.

    Attributes
    ----------
    role : "forward", "inputs" or "weights"
    pair : bool
        Both products, or the first alone.
    parts : bool
        Whether sums of slices are written, for `finish.py`, or the result.
    tile : Tile
    """

    role: str
    pair: bool
    parts: bool
    tile: Tile

    @property
    def square(self) -> bool:
        """Whether a2 is the square of a1."""
        return self.pair and self.role != INPUTS

    @property
    def separate(self) -> bool:
        """Whether a2 is a matrix of its own."""
        return self.pair and self.role == INPUTS

    @property
    def masked(self) -> bool:
        """Whether b1, b2 are theta and log_sigma2, to become theta' and sigma^2."""
        return self.pair and self.role != WEIGHTS

    @property
    def a_along_k(self) -> bool:
        """Whether neighbours of A in memory differ in k (inputs of a row), or in m (of the weights, taps of a row)."""
        return self.role != WEIGHTS

    @property
    def b_along_k(self) -> bool:
        """Whether neighbours of B in memory differ in k, or in n."""
        return self.role == INPUTS


@device
def column_place(column):
    """Where a column of B lies in its strip, see the module's text."""
    return U(64) * (column // U(64)) + U(4) * (column % U(16)) + (column % U(64)) // U(16)


def make_share(across: int, v: Variant, along_k: bool) -> Stage:
    """Which number of a strip (BK, across) is a thread's `i`-th: (k, other index), so that a warp reads neighbours.

    Threads lie side by side, and the i-th time i steps of all threads further. Of a thread's number and of its steps
    one is a multiple of what lies side by side, or divides it; so both can be divided for themselves, and those of the
    steps are constants.
    """
    bk, threads = v.tile.bk, v.tile.threads

    @device
    def share(t, i):
        steps = i * threads
        if along_k:
            return t % U(bk) + U(steps % bk), t // U(bk) + U(steps // bk)
        return t // U(across) + U(steps // across), t % U(across) + U(steps % across)

    return share


def make_stages_of_a(v: Variant) -> tuple[Stage, Stage, Stage]:
    """Find a thread's rows of A; fetch its share of a strip from memory into registers; store it in shared memory."""
    loads, separate, square = v.tile.bm * v.tile.bk // v.tile.threads, v.separate, v.square
    share = make_share(v.tile.bm, v, v.a_along_k)

    @device
    def find(t, m0, m_total, row_table, row_at):
        for i in range(loads):
            row_at[i] = row_table[min(U(m0 + share(t, i)[1]), U(m_total - U(1)))]

    @device
    def fetch(t, k0, k_end, column_table, a1, a2, row_at, next_a, next_a2):
        for i in range(loads):
            k = U(k0 + share(t, i)[0])
            at = U(row_at[i] + column_table[min(k, U(k_end - U(1)))])
            one = a1[at]
            next_a[i] = one if k < k_end else ZERO
            if separate:
                two = a2[at]
                next_a2[i] = two if k < k_end else ZERO

    @device
    def store(t, base, next_a, next_a2, strip_a, strip_a2):
        for i in range(loads):
            k, m = share(t, i)
            strip_a[base + k, m] = next_a[i]
            if separate:
                strip_a2[base + k, m] = next_a2[i]
            elif square:
                strip_a2[base + k, m] = next_a[i] * next_a[i]

    return find, fetch, store


def make_stages_of_b(v: Variant) -> tuple[Stage, Stage]:
    """Fetch a thread's share of a strip of B, and store it: log_sigma2 as sigma^2, theta where `keep` leaves it."""
    loads, pair, masked = v.tile.bn * v.tile.bk // v.tile.threads, v.pair, v.masked
    share = make_share(v.tile.bn, v, v.b_along_k)
    nothing = F(-math.inf) if masked else ZERO  # what past the end becomes 0 on its way to shared memory

    @device
    def fetch(t, k0, k_end, n0, n_total, b_table, b_step, b1, b2, next_b, next_b2):
        for i in range(loads):
            k, n = U(k0 + share(t, i)[0]), U(n0 + share(t, i)[1])
            at = U(b_table[min(k, U(k_end - U(1)))] + min(n, U(n_total - U(1))) * b_step)
            one = b1[at]
            next_b[i] = one if k < k_end else ZERO
            if pair:
                two = b2[at]
                next_b2[i] = two if k < k_end else nothing

    @device
    def store(t, base, keep, next_b, next_b2, strip_b, strip_b2):
        for i in range(loads):
            k, n = share(t, i)
            at = column_place(n)
            if masked:
                sigma2, theta = F(math.exp(next_b2[i])), next_b[i]
                strip_b[base + k, at] = theta if theta * theta >= keep * sigma2 else ZERO
                strip_b2[base + k, at] = sigma2
            else:
                strip_b[base + k, at] = next_b[i]
                if pair:
                    strip_b2[base + k, at] = next_b2[i]

    return fetch, store


def in_turn(stage: Stage, count: int) -> Stage:
    """Do `stage` for k, k + 1, ... k + count - 1, written out: the compiler leaves a loop as long as this a loop."""
    if count == 1:
        return stage
    former, latter = in_turn(stage, count // 2), in_turn(stage, count - count // 2)

    @device
    def both(k, tx, ty, strip_a, strip_a2, strip_b, strip_b2, some_a, some_a2, some_b, some_b2, first, second):
        former(k, tx, ty, strip_a, strip_a2, strip_b, strip_b2, some_a, some_a2, some_b, some_b2, first, second)
        latter(
            k + U(count // 2), tx, ty, strip_a, strip_a2, strip_b, strip_b2, some_a, some_a2, some_b, some_b2, first,
            second,
        )  # fmt: skip

    return both


def make_multiply(v: Variant) -> Stage:
    """Add the products of two strips to the sums of a thread's patch, one k after the other."""
    _, _, bk, tm, tn = v.tile
    pair = v.pair

    @device
    def multiply(k, tx, ty, strip_a, strip_a2, strip_b, strip_b2, some_a, some_a2, some_b, some_b2, first, second):
        for i in range(tm):
            some_a[i] = strip_a[k, ty * U(tm) + U(i)]
            if pair:
                some_a2[i] = strip_a2[k, ty * U(tm) + U(i)]
        for j in range(tn):
            at = U(64 * (j // 4) + j % 4) + U(4) * tx
            some_b[j] = strip_b[k, at]
            if pair:
                some_b2[j] = strip_b2[k, at]
        for i in range(tm):
            a = some_a[i]
            for j in range(tn):
                first[i * tn + j] += a * some_b[j]
            if pair:
                q = some_a2[i]
                for j in range(tn):
                    second[i * tn + j] += q * some_b2[j]

    return in_turn(multiply, bk)


def make_write(v: Variant) -> Stage:
    """Write the sums of a thread's patch: as parts; or as gradients; or, forward, mean and variance."""
    tm, tn = v.tile.tm, v.tile.tn
    pair, parts, separate, forward = v.pair, v.parts, v.separate, v.role == FORWARD

    @device
    def write(m0, n0, part, m_total, n_total, first, second, out1, out2, extra):
        # What a thread holds in registers must be named by constants, so this loop is short enough to be written out by
        # the compiler. m0, n0: where the patch begins; its columns are 16 apart.
        size = U(m_total * n_total)
        for i in range(tm):
            m = U(m0 + U(i))
            for j in range(tn):
                n = U(n0 + U(64 * (j // 4) + 16 * (j % 4)))
                if m < m_total and n < n_total:
                    at = U(m * n_total + n)
                    one = first[i * tn + j]
                    if parts:
                        at = U(at + part * size * U(2 if pair else 1))
                        if pair:
                            out1[U(at + size)] = second[i * tn + j]
                    elif separate:
                        one += TWO * extra[at] * second[i * tn + j]
                    elif pair:
                        out2[at] = second[i * tn + j]
                    if forward and not parts:
                        one += extra[n]
                    out1[at] = one

    return write


# a1 a2 row_table column_table | b1 b2 b_table b_step | sizes | out1 out2 extra | dials key clock seed
SIGNATURE = "FFTTFFTuzFFFFwTU"


def make_product(v: Variant, name: str) -> Kernel:
    """Make the kernel of one pass.

    Notes
    -----
    Arguments of the kernel: `a1`, `a2` with `row_table` and `column_table` (A(m, k) = a[row_table[m] +
    column_table[k]]); `b1`, `b2` with `b_table` and `b_step` (B(k, n) = b[b_table[k] + n * b_step]); `sizes`, that is
    M, N, K, the length of a slice, positions per example, and whether a ReLU follows; `out1`, `out2` (y, r; dx, -;
    d_theta, d_sigma2; or the parts, -); `extra` (bias forward, x backward); `dials` with the mask's `keep`; `key`,
    `clock`, `seed` of the noise.
    """
    bm, bn, bk, tm, tn = v.tile
    threads, groups = v.tile.threads, tn // 4
    samples = v.role == FORWARD and v.pair and not v.parts
    both = 2 * bk  # strips in turn: one is multiplied while the next one is stored
    # What a variant does not use has one entry, and vanishes.
    both2 = both if v.pair else 1
    a_loads, b_loads = bm * bk // threads, bk * bn // threads
    a2_loads, b2_loads = (a_loads if v.separate else 1), (b_loads if v.pair else 1)
    patch, patch2 = tm * tn, (tm * tn if v.pair else 1)
    tm2, tn2 = (tm if v.pair else 1), (tn if v.pair else 1)
    a_width, b_width, pair, masked = bm + 4, bn + (4 if v.b_along_k else 0), v.pair, v.masked
    find_rows, fetch_a, store_a = make_stages_of_a(v)
    fetch_b, store_b = make_stages_of_b(v)
    multiply, write = make_multiply(v), make_write(v)

    def product(
        a1, a2, row_table, column_table, b1, b2, b_table, b_step, sizes, out1, out2, extra, dials, key, clock, seed
    ):
        m_total, n_total, k_total, k_slice, positions, relu = sizes
        t = U(cuda.threadIdx.x)
        tx, ty = U(t % U(16)), U(t // U(16))
        across = U(n_total + U(bn - 1)) // U(bn)  # tiles of a row; the grid's y axis is them, slice after slice
        part = U(U(cuda.blockIdx.y) // across)
        m0, n0 = U(U(cuda.blockIdx.x) * U(bm)), U((U(cuda.blockIdx.y) - part * across) * U(bn))
        k0 = U(part * k_slice)
        k_end = U(min(U(k0 + k_slice), k_total))
        keep = dials[clock[0] * DIALS + KEEP] if masked else ZERO

        if ALIGNED:
            strip_a = cuda.shared.array((both, a_width), np.float32, alignment=16)
            strip_a2 = cuda.shared.array((both2, a_width), np.float32, alignment=16)
            strip_b = cuda.shared.array((both, b_width), np.float32, alignment=16)
            strip_b2 = cuda.shared.array((both2, b_width), np.float32, alignment=16)
        else:
            strip_a = cuda.shared.array((both, a_width), np.float32)
            strip_a2 = cuda.shared.array((both2, a_width), np.float32)
            strip_b = cuda.shared.array((both, b_width), np.float32)
            strip_b2 = cuda.shared.array((both2, b_width), np.float32)
        row_at = cuda.local.array(a_loads, np.uint32)
        next_a, next_a2 = cuda.local.array(a_loads, np.float32), cuda.local.array(a2_loads, np.float32)
        next_b, next_b2 = cuda.local.array(b_loads, np.float32), cuda.local.array(b2_loads, np.float32)
        some_a, some_a2 = cuda.local.array(tm, np.float32), cuda.local.array(tm2, np.float32)
        some_b, some_b2 = cuda.local.array(tn, np.float32), cuda.local.array(tn2, np.float32)
        first, second = cuda.local.array(patch, np.float32), cuda.local.array(patch2, np.float32)
        for i in range(patch):
            first[i] = ZERO
            if pair:
                second[i] = ZERO

        find_rows(t, m0, m_total, row_table, row_at)
        fetch_a(t, k0, k_end, column_table, a1, a2, row_at, next_a, next_a2)
        fetch_b(t, k0, k_end, n0, n_total, b_table, b_step, b1, b2, next_b, next_b2)
        store_a(t, U(0), next_a, next_a2, strip_a, strip_a2)
        store_b(t, U(0), keep, next_b, next_b2, strip_b, strip_b2)
        cuda.syncthreads()
        now = U(0)  # where in shared memory the strips begin that are multiplied: 0 or BK
        for _ in range((k_end - k0 + U(bk - 1)) // U(bk)):
            # Strips on their way while those before are multiplied. Past the last one nothing is left to fetch; where
            # this is asked about, the compiler moves the loads behind the question, and all wait for them.
            k0 = U(k0 + U(bk))
            fetch_a(t, k0, k_end, column_table, a1, a2, row_at, next_a, next_a2)
            fetch_b(t, k0, k_end, n0, n_total, b_table, b_step, b1, b2, next_b, next_b2)
            multiply(now, tx, ty, strip_a, strip_a2, strip_b, strip_b2, some_a, some_a2, some_b, some_b2, first, second)
            now = U(U(bk) - now)
            store_a(t, now, next_a, next_a2, strip_a, strip_a2)
            store_b(t, now, keep, next_b, next_b2, strip_b, strip_b2)
            cuda.syncthreads()

        m0, n0 = U(m0 + ty * U(tm)), U(n0 + tx)
        write(m0, n0, part, m_total, n_total, first, second, out1, out2, extra)
        if samples:  # which is long, and so a loop of its own over what was just stored
            here = located(key, clock, seed)
            for i in range(tm):
                m = U(m0 + U(i))
                if m < m_total:
                    for group in range(groups):
                        draw_four(m, U(n0 + U(64) * U(group)), n_total, out1, out2, positions, relu, here)

    return kernel(SIGNATURE, name, v.tile.registers)(product)


PRODUCTS = {
    (role, pair, parts, size): make_product(
        Variant(role, pair, parts, tile),
        f"{role}_{'pair' if pair else 'plain'}_{'parts' if parts else 'whole'}_{size}",
    )
    for role in PASSES
    for pair in (True, False)
    for size, tile in TILES.items()
    for parts in ((False, True) if size == "small" else (False,))  # large tiles are never cut
}
