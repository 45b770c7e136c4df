"""One number in, one number out: gathering batches, ReLU, factors, what layers do between products.

**The form of all of them** is a loop that strides by the whole grid:

    for i in range(first thread of all, count, threads of all):  out[i] = f(x[i])

Neighbouring threads touch neighbouring numbers, so that a warp's 32 loads are one line of 128 bytes, and any grid is
right for any size: a small array leaves the later blocks without work, a large one sends every thread round several
times. No thread reads what another writes, so that the order in which they run makes no difference to any bit.

**Cost.** A few bytes moved for one or two operations: `relu_forward` 8, `multiply` 12, `noise_gradient` 20 a number. On
a large device these kernels are limited by memory when arrays are large (100 MB take 40 microseconds or so at 4.8 TB/s,
both ways) and by their launch when they are small, as in a network of the size of LeNet-300-100, where every one is
done before the next could be launched. That is why as little as possible is done here: a ReLU behind a variational
layer is part of the sampling, its derivative part of `noise_gradient`, and log_sigma2 becomes sigma^2 on its way into a
product.

**`gather`** makes a batch of the data set, which lies on the device as the user gave it, uint8 or float32: a thread
makes one number of one example from one number of the row that the epoch's order names. Of uint8 that is 1 byte read,
where a copy in float32 would be 4: MNIST is 47 MB on the device instead of 188. Rows of the data set lie anywhere, but
each is read from its beginning to its end, so that lines of memory are used whole. Images come channels first and leave
channels last; with three channels a warp then reads from three stretches. Moves (shifts, mirroring) change where a
thread reads, and outside the image it writes the mean, which is 0 here.

**`tick`** is the one kernel that looks at no run: it lets the clock go on, which all of them read.
"""

from __future__ import annotations

import math

from svd_numpy.kernels.cuda.device import TWO, ZERO, F, I, U, cuda, kernel


@kernel("XLTfFIuhF")
def gather(source, index, clock, scale, mean, moves, moved, sizes, out):
    """out[b] = source[index[b]] * scale - mean, moved if wanted, channels last; one thread an entry.

    sizes : (B, H, W, C); rows of I numbers are images of one pixel and I channels
    moved : 1 where there are moves
    index, moves : of this step; on a clock that runs, tables of which row `clock` is this step's
    """
    first, step = U(cuda.grid(1)), U(cuda.gridsize(1))
    rows, height, width, channels = U(sizes[0]), sizes[1], sizes[2], U(sizes[3])
    pixels = U(U(height) * U(width))
    units = U(pixels * channels)
    for i in range(first, rows * units, step):
        e = U(i)
        b, inside = U(e // units + clock[0] * rows), U(e % units)
        pixel, channel = U(inside // channels), U(inside % channels)
        y, x = I(pixel // U(width)), I(pixel % U(width))
        if moved == U(1):
            x = I(width - I(1) - x) if moves[U(3) * b + U(2)] == I(1) else x
            y, x = I(y - moves[U(3) * b]), I(x - moves[U(3) * b + U(1)])
        if y >= I(0) and y < height and x >= I(0) and x < width:
            at = U(channel * pixels + U(y) * U(width) + U(x))
            row = index[b] * units  # int64: a data set may hold more than 2^32 numbers
            out[e] = F(source[row + at]) * scale - mean[at]
        else:
            out[e] = ZERO


@kernel("uuXLTL")
def gather_tokens(rows, units, source, index, clock, out):
    """out[b] = source[index[b]], whole numbers (tokens); one thread an entry. index : as in `gather`."""
    for i in range(U(cuda.grid(1)), rows * units, U(cuda.gridsize(1))):
        e = U(i)
        out[e] = source[index[e // units + clock[0] * rows] * units + e % units]


@kernel("uFBF")
def apply_mask(count, theta, mask, out):
    """out = theta where mask is 1, else 0; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        out[e] = ZERO if U(mask[e]) == U(0) else theta[e]


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


@kernel("uuuFFFFF")
def weight_pulls(count, outputs, noisy, theta, d_theta, log_sigma2, d_sigma2, out):
    """out = sum over the outputs of theta d_theta and, if noisy, of 2 sigma^2 d_sigma2; one thread a row."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        begin, total = U(i) * outputs, ZERO
        for e in range(begin, begin + outputs):
            total += theta[e] * d_theta[e]
            if noisy:
                total += TWO * F(math.exp(log_sigma2[e])) * d_sigma2[e]
        out[U(i)] = total


@kernel("uuFFF")
def gate_forward(count, units, x, z, y):
    """y = x * z[u] at all positions; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        y[e] = x[e] * z[e % units]


@kernel("uuuFFFFF")
def gate_backward(count, size, units, x, z, dy, d_z, dx):
    """d_z = sum of x * dy over the positions, dx = dy * z; one thread an example and unit. size : of an example."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        begin, factor, total = e // units * size, z[e % units], ZERO
        for p in range(e % units, size, units):
            at = begin + U(p)
            d = dy[at]
            total += x[at] * d
            dx[at] = d * factor
        d_z[e] = total


@kernel("uF")
def clear(count, out):
    """out = 0; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        out[U(i)] = ZERO


@kernel("uDDdd")
def blend(count, target, source, rate, scale):
    """target = (1 - rate) * target + rate * scale * source; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        target[e] += rate * (scale * source[e] - target[e])


@kernel("uuuuuuFF")
def copy_columns(count, width, columns, start, target_columns, at, source, target):
    """target[r, at + c] = source[r, start + c] for all rows r and c < width; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        row, column = U(i) // width, U(i) % width
        target[row * target_columns + at + column] = source[row * columns + start + column]


@kernel("uDDDdd")
def average(count, target, source, batches, more, scale):
    """batches += more, then target += (scale * source - target) / batches; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        batches[e] += more
        target[e] += (scale * source[e] - target[e]) / batches[e]


@kernel("uT")
def tick(count, clock):
    """Let both hands of the clock go on by `count`: the last kernel of a recorded step; a thread a hand."""
    if cuda.grid(1) < 2:
        clock[U(cuda.grid(1))] += count
