"""One number in, one number out: gathering batches, ReLU, factors, what layers do between products.

Every kernel is a loop that strides by the whole grid: neighbouring threads touch neighbouring numbers, so that a warp's
32 loads are a few wide ones, and any grid is right for any size.
"""

from __future__ import annotations

from svd_numpy.kernels.cuda.device import ZERO, F, I, U, cuda, kernel


@kernel("XLTfFInnF")
def gather(source, index, clock, scale, mean, moves, sizes, flags, out):
    """out[b] = source[index[b]] * scale - mean, moved if wanted, channels last; one thread an entry.

    sizes : (B, H, W, C); rows of I numbers are images of one pixel and I channels
    flags : (are there moves,)
    index, moves : of this step; on a clock that runs, tables of which row `clock` is this step's
    """
    first, step = U(cuda.grid(1)), U(cuda.gridsize(1))
    rows, height, width, channels = U(sizes[0]), sizes[1], sizes[2], U(sizes[3])
    pixels = U(height) * U(width)
    units = pixels * channels
    for i in range(first, rows * units, step):
        e = U(i)
        b, inside = e // units + clock[0] * rows, e % units
        pixel, channel = inside // channels, inside % channels
        y, x = I(pixel // U(width)), I(pixel % U(width))
        if flags[0] == I(1):
            x = I(width - I(1) - x) if moves[U(3) * b + U(2)] == I(1) else x
            y, x = I(y - moves[U(3) * b]), I(x - moves[U(3) * b + U(1)])
        if y >= I(0) and y < height and x >= I(0) and x < width:
            at = channel * pixels + U(y) * U(width) + U(x)
            row = index[b] * units  # int64: a data set may hold more than 2^32 numbers
            out[e] = F(source[row + at]) * scale - mean[at]
        else:
            out[e] = ZERO


@kernel("uF")
def relu_forward(count, y):
    """y = max(y, 0); one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        y[e] = ZERO if y[e] <= ZERO else y[e]  # a NaN stays one


@kernel("uFF")
def relu_backward(count, y, dy):
    """dy = dy where y > 0, else 0; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        if not y[e] > ZERO:
            dy[e] = ZERO


@kernel("uuFFF")
def noise_gradient(count, rectified, y, dy, r):
    """dy = dy where y > 0 (only if `rectified`), then r = dy * r: what was r becomes d_var; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        d = dy[e]
        if rectified and not y[e] > ZERO:
            d = ZERO
        dy[e] = d
        r[e] = d * r[e]


@kernel("uFFF")
def multiply(count, x, factors, y):
    """y = x * factors; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        y[e] = x[e] * factors[e]


@kernel("uF")
def clear(count, out):
    """out = 0; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        out[U(i)] = ZERO


@kernel("uFDff")
def blend(count, target, source, rate, scale):
    """target = (1 - rate) * target + rate * scale * source; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        target[e] += rate * (scale * F(source[e]) - target[e])


@kernel("uT")
def tick(count, clock):
    """Let both hands of the clock go on by `count`: the last kernel of a recorded step; a thread a hand."""
    if cuda.grid(1) < 2:
        clock[U(cuda.grid(1))] += count
