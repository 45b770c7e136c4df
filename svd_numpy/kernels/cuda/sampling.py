"""From mean and variance to a sample: the end of a forward product, while its tile is still in the cache.

With mean and var of a pre-activation and its noise n (Kingma et al. 2015; Molchanov et al. 2017, §4),

    std = sqrt(max(var, 0))        y = mean + std n        r = n / (2 std), 0 where var <= 1e-30

and r is d y / d var: with it the backward pass needs neither the noise nor the variance again. y is rectified on the
way where a ReLU follows (`relu`); a comparison that is false for a NaN lets a NaN through, so that it is found.

**Who draws what.** In `product.py` a thread's four columns n, n + 16, n + 32, n + 48 are, when a row of outputs begins
at a multiple of 64 units, the four words of one Philox block, and `draw_four` runs the ten rounds, 20 wide integer
multiplications, once for four samples. A position of a convolution with 20 outputs begins anywhere; then each unit runs
its own rounds and keeps a quarter of them. That is the slower way by a factor of four in a part of the kernel that is
done once, against K multiply-adds for each result: for K = 25, LeNet-5's first convolution, it is most of the time, for
K = 500 it is not noticed.

**Why through memory.** The sums are in registers, which must be named by constants: a loop over them is written out by
the compiler, once for each of 16 or 32 sums. Written out with the ten rounds in it, it would be a megabyte of
instructions. So the short loop stores mean and variance into y and r, and this code reads them back, from the
cache, by address: 8 bytes written, 8 read, 8 written for each result.

No number is drawn from a state that threads would share: the noise is a function of seed, layer, step, example and unit
(`philox.py`), so that its order does not matter and every tile and every device draws the same.
"""

from __future__ import annotations

import math

from svd_numpy.kernels.cuda.device import HALF, ZERO, F, U, device
from svd_numpy.kernels.cuda.philox import normal_at, normals

TINY_VAR = F(1e-30)


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
def draw_four(m, n, n_total, y, r, positions, relu, here):
    """Sample columns n, n + 16, n + 32, n + 48 of row m, of which y and r hold means and variances.

    here : of the noise (`philox.located`)
    """
    example, unit, at = U(m // positions), U((m % positions) * n_total + n), U(m * n_total + n)
    if U(unit - n) % U(64) == U(0):  # then these are the four units of one Philox block
        n0, n1, n2, n3 = normals(example, U(U(16) * (unit // U(64)) + n % U(16)), here)
        if n < n_total:
            settle(at, n0, relu, y, r)
        if n + U(16) < n_total:
            settle(U(at + U(16)), n1, relu, y, r)
        if n + U(32) < n_total:
            settle(U(at + U(32)), n2, relu, y, r)
        if n + U(48) < n_total:
            settle(U(at + U(48)), n3, relu, y, r)
    else:
        for j in range(4):
            beyond = U(16) * U(j)
            if n + beyond < n_total:
                settle(U(at + beyond), normal_at(example, U(unit + beyond), here), relu, y, r)
