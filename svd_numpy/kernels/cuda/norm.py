"""Batch normalisation on the device: sums over each channel (`sums.py`), a few numbers for it, one pass over entries.

**Forward** (Ioffe & Szegedy 2015). Over the R = B H W numbers of a channel,

    mean = sum x / R        var = sum x^2 / R - mean^2        y = (x - mean) gamma / sqrt(var + epsilon) + beta

The difference of two large numbers is the weak point of this form: with a mean of a thousand standard deviations
float32 would lose var altogether. Both sums and the difference are float64, with 29 bits more, and var is not let below
0. The other form, a second pass with the mean known, would read everything again.

**Backward.** With n = (x - mean) / std, d_beta = sum dy, d_gamma = sum dy n, and mean and var functions of the batch,

    dx = gamma / std (dy - d_beta / R - n d_gamma / R)

which is a number times dy, plus a number times (x - mean), plus a number: slope, pull and shift of each channel.

**Three kinds of kernel.** `channel_sums` reads everything once. `moments`, `scales` and `gradients` have one thread a
channel and turn its sums into the two to four float32 numbers that the last pass needs; they take no more time than a
launch takes anyway, and what they do in float64 does not count. `normalise` and `normalise_backward` are passes over
all numbers, a multiplication or two each, in float32. Channels are neighbours in memory and in threads, and the numbers
of a channel come from the cache.

**Cost.** Forward reads x twice and writes y, 12 bytes a number; backward reads x and dy twice and writes dx, 20 bytes.
It cannot be joined with the product before it, because a channel's moments need the results of all blocks. So memory is
the limit for the images of a VGG, and the number of launches, five forward and four backward, for small networks.

The order of all sums is fixed by shape (`sums.py`): the same bits from run to run.
"""

from __future__ import annotations

import math

from svd_numpy.kernels.cuda.device import D, F, U, cuda, kernel


@kernel("uuDDD")
def moments(channels, rows, sums, mean, var):
    """Mean and variance from sum x and sum x^2; one thread a channel."""
    for i in range(U(cuda.grid(1)), channels, U(cuda.gridsize(1))):
        c = U(i)
        average = sums[c] / D(rows)
        mean[c] = average
        var[c] = max(sums[channels + c] / D(rows) - average * average, D(0))


@kernel("uDDdFF")
def scales(channels, mean, var, epsilon, gamma, out):
    """out (2, channels) = mean, gamma / std; one thread a channel."""
    for i in range(U(cuda.grid(1)), channels, U(cuda.gridsize(1))):
        c = U(i)
        out[c] = F(mean[c])
        out[channels + c] = F(D(gamma[c]) / math.sqrt(var[c] + epsilon))


@kernel("uuFFFF")
def normalise(count, channels, x, scale, beta, y):
    """y = (x - mean) * gamma / std + beta; one thread an entry. scale : what `scales` wrote."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        c = e % channels
        y[e] = (x[e] - scale[c]) * scale[channels + c] + beta[c]


@kernel("uuuDDDdFFFF")
def gradients(channels, rows, of_batch, sums, mean, var, epsilon, gamma, d_gamma, d_beta, out):
    """d_gamma, d_beta from sum dy, sum dy (x - mean); and out (4, channels) for the pass over entries.

    out = mean, gamma / std, pull and shift, of dx = slope * dy + pull * (x - mean) + shift; one thread a channel.
    """
    for i in range(U(cuda.grid(1)), channels, U(cuda.gridsize(1))):
        c = U(i)
        std = math.sqrt(var[c] + epsilon)
        sum_dy, sum_dy_n = sums[c], sums[channels + c] / std
        d_beta[c] = F(sum_dy)
        d_gamma[c] = F(sum_dy_n)
        slope = D(gamma[c]) / std
        share = slope / D(rows) if of_batch else D(0)
        out[c] = F(mean[c])
        out[channels + c] = F(slope)
        out[U(2) * channels + c] = F(-share * sum_dy_n / std)
        out[U(3) * channels + c] = F(-share * sum_dy)


@kernel("uuFFFF")
def normalise_backward(count, channels, dy, x, scale, dx):
    """dx = slope * dy + pull * (x - mean) + shift; one thread an entry. scale : what `gradients` wrote."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        c = e % channels
        slope, pull, shift = scale[channels + c], scale[U(2) * channels + c], scale[U(3) * channels + c]
        dx[e] = slope * dy[e] + pull * (x[e] - scale[c]) + shift
