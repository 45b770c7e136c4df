"""Sums in a fixed order: many threads add parts, then one block adds the parts. The same bits every time.

**The problem.** Losses, gradients of biases and the moments of batch normalisation are sums over thousands of numbers
that lie in different threads. Atomic additions of floats would be simplest, but they add in the order in which threads
happen to arrive, and float addition is not associative: two runs would differ in the last bits, and after some hundred
steps in all of them.

**The way.** For every column c of an array (rows, columns), in two kernels:

    part[p, c] = x[p L, c] + x[p L + 1, c] + ... + x[p L + L - 1, c]          L = ceil(rows / parts)
    sum[c]     = the parts of column c, added in a tree

Where a part ends is a function of the number of rows alone (`parts_of`: at least 16 rows each, at most 1,024 parts). In
`column_sums` and `channel_sums` a thread adds one part of one column, row after row. Neighbouring threads have
neighbouring columns, so that a warp reads lines of memory one after the other; where there are fewer than 32 columns,
it reads several shorter stretches. In `fold` one block of 128 threads has one column: thread t adds parts t, t + 128,
... in this order, then the block halves what is left seven times in shared memory, each thread adding the number that
lies `reach` further, with a barrier between:

    tree[t] += tree[t + 64];  tree[t] += tree[t + 32];  ...;  tree[0] is the sum

Up to 1,024 rows there are no parts: `fold` takes the rows themselves. The gradient of the bias of a dense layer is such
a sum, of what `noise_gradient` (`elementwise.py`) has just read and written. `noise_gradient_sums` does both in one
launch: a block has 32 columns and, of their rows, every 32nd for each of its threads, whose sums are added in order.

**Cost.** Each number is read once, 4 bytes for one addition: memory is the limit of large sums, the latency of two
launches and seven barriers that of small ones, such as a loss over 100 examples.

**Accuracy.** A rounding error can grow with the number of additions that follow one another: L in a part, the parts of
a thread, 7 levels of the tree. Of 57,600 rows that is 57 + 8 + 7 instead of 57,599. Losses and moments are added in
float64 all the same (`fold_to_exact`, `channel_sums`), as the contract asks; a device for graphics does float64 at 1/64
of its float32 rate, which is little beside the reading.

`fold` writes to row `clock` of its output, so that a recorded step keeps the loss of every step it plays.
"""

from __future__ import annotations

import math

import numpy as np

from svd_numpy.kernels.cuda.device import SIMULATED, ZERO, D, F, Kernel, U, cuda, kernel

FOLDERS = 4 if SIMULATED else 128  # threads that fold the parts of one column
FEW_ROWS = 8 if SIMULATED else 1024  # that one block a column adds at once
MOST_PARTS = 1024
FEWEST_ROWS = 4 if SIMULATED else 16  # of one part
ACROSS, DOWN = (2, 3) if SIMULATED else (32, 32)  # columns and rows of a block of `noise_gradient_sums`
PATCH = ACROSS * DOWN


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


@kernel("uuuFFFF")
def noise_gradient_sums(rows, columns, rectified, y, dy, r, out):
    """What `noise_gradient` does to dy and r (rows, columns), and out = the sum of each column of dy.

    A thread takes every DOWN-th row of a column.
    """
    t = U(cuda.threadIdx.x)
    lane, column = U(t // U(ACROSS)), U(U(cuda.blockIdx.x) * U(ACROSS) + t % U(ACROSS))
    totals = cuda.shared.array(PATCH, np.float32)
    total = ZERO
    if column < columns:
        for row in range(lane, rows, DOWN):
            e = U(U(row) * columns + column)
            d = dy[e]
            if rectified and not y[e] > ZERO:
                d = ZERO
            dy[e] = d
            r[e] = d * r[e]
            total += d
    totals[t] = total
    cuda.syncthreads()
    if lane == U(0) and column < columns:
        for other in range(1, DOWN):
            total += totals[t + U(other * ACROSS)]
        out[column] = total


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
