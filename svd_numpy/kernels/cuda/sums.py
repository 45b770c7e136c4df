"""Sums in a fixed order: many threads add parts, then one block adds the parts. The same bits every time.

Atomic additions of floats would be simpler, but they add in the order in which threads happen to arrive, and float
addition is not associative: two runs would differ. Here the parts are cut by shape alone, and a block adds them in a
tree whose form never changes.
"""

from __future__ import annotations

import math

import numpy as np

from svd_numpy.kernels.cuda.device import SIMULATED, D, F, Kernel, U, cuda, kernel

FOLDERS = 4 if SIMULATED else 128  # threads that fold the parts of one column
FEW_ROWS = 8 if SIMULATED else 1024  # that one block a column adds at once
MOST_PARTS = 1024
FEWEST_ROWS = 4 if SIMULATED else 16  # of one part


def parts_of(rows: int) -> int:
    """Into how many parts a sum over `rows` rows is cut."""
    return max(1, min(MOST_PARTS, math.ceil(rows / FEWEST_ROWS)))


def make_fold(name: str, signature: str, exact: bool) -> Kernel:
    """Make a kernel that adds parts (count, width) down to (width,): one block a column, a tree in shared memory.

    The sums go to row `clock` of `out`.
    """
    cast, kind = (D, np.float64) if exact else (F, np.float32)

    def fold(count, width, parts, clock, out):
        column, t = U(cuda.blockIdx.x), U(cuda.threadIdx.x)
        tree = cuda.shared.array(FOLDERS, kind)
        total = cast(0)
        for i in range(t, count, FOLDERS):
            total += cast(parts[U(i) * width + column])
        tree[t] = total
        cuda.syncthreads()
        reach = FOLDERS // 2
        while reach > 0:
            if t < reach:
                tree[t] += tree[t + U(reach)]
            cuda.syncthreads()
            reach //= 2
        if t == 0:
            out[clock[0] * width + column] = tree[U(0)]

    return kernel(signature, name)(fold)


fold = make_fold("fold", "uuFTF", exact=False)
fold_exact = make_fold("fold_exact", "uuDTD", exact=True)
fold_to_exact = make_fold("fold_to_exact", "uuFTD", exact=True)


@kernel("uuuFF")
def column_sums(rows, columns, parts, x, out):
    """Part p of the sum of column c of x (rows, columns); one thread a part and column."""
    length = (rows + parts - U(1)) // parts
    for i in range(U(cuda.grid(1)), parts * columns, U(cuda.gridsize(1))):
        e = U(i)
        part, column = e // columns, e % columns
        total = F(0)
        for row in range(part * length, min(rows, (part + U(1)) * length)):
            total += x[U(row) * columns + column]
        out[e] = total


@kernel("uuuFFDuD")
def channel_sums(rows, channels, parts, x, dy, mean, backward, out):
    """Parts of two sums over each channel, in float64; one thread a part and channel.

    sum x and sum x^2, or, with `backward`, sum dy and sum dy (x - mean). out (parts, 2, channels).
    """
    length = (rows + parts - U(1)) // parts
    for i in range(U(cuda.grid(1)), parts * channels, U(cuda.gridsize(1))):
        part, channel = U(i) // channels, U(i) % channels
        one, two = D(0), D(0)
        for row in range(part * length, min(rows, (part + U(1)) * length)):
            at = U(row) * channels + channel
            value = D(x[at])
            if backward:
                slope = D(dy[at])
                one += slope
                two += slope * (value - mean[channel])
            else:
                one += value
                two += value * value
        at = U(2) * part * channels + channel
        out[at] = one
        out[at + channels] = two
