"""Batch normalisation on the device: sums over each channel (`sums.py`), a few numbers for it, one pass over entries.

What is done once a channel is done in float64, as the contract asks; the passes over all entries are float32.
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
