"""The pass over all parameters on the device: chain rule, KL gradient, Adam, projection; one thread a weight.

**What happens to a weight.** With sigma = exp(log_sigma2 / 2), s = theta^2 / sigma^2 and the slope v(s) of the prior
(`svd_numpy/kernels/priors.py`), from the data gradients d_theta and d_sigma2 that the layers left:

    d_log_sigma2 = sigma^2 d_sigma2 - kl_scale s v / 2        d_theta = d_theta + kl_scale v theta / sigma^2
    m = beta1 m + (1 - beta1) d        v = beta2 v + (1 - beta2) d^2        x = x - rate m / (sqrt(v c) + epsilon)

and log_sigma2 is clamped to its bounds. The normal prior is no function of s: its KL adds kl_scale (sigma^2 - 1) / 2
and kl_scale theta. The fits of v and the limits that keep everything finite are those of the CPU's
pass (`svd_numpy/kernels/cpu/sweep.py`), and the formulas of both are one.

**What a thread does.** The arena is described by a table of segments (`backend.Segment`): ranges of weights with a
posterior, each with its prior, where the log variances of the same weights begin, and its bounds; and ranges of
ordinary numbers (biases, scales), which have no KL. The entries of a segment are shared out in pieces, one for each
block's turn and one entry for each of its threads. A block finds the segment of its piece by walking down the few rows
of the table, which all its threads do alike, so that they never part: one piece has one prior. A thread then reads
theta and log_sigma2 of its weight and both gradients and moments; keeps all of it in registers; writes both parameters
and moments. Neighbouring threads take neighbouring weights, so that every load of a warp is one line of 128 bytes.

**Cost.** 8 numbers read and 6 written, 56 bytes a weight, for some 60 operations, three exponentials, a logarithm and
two square roots: less than 2 operations a byte, where a large device could do 14 or more before arithmetic held it up.
So the speed is that of memory, and nothing is gained by fewer operations; what counts is that a weight is visited once.
Chain rule, KL, Adam and projection as passes of their own would move about 100 bytes. The 266,200 weights of
LeNet-300-100 are 15 MB a step, which stay in a second-level cache of 50 MB; sixteen runs are 239 MB, which do not: at
4.8 TB/s, 50 microseconds. There this pass, and not the products, decides what a further run costs.

**What is held.** In fine-tuning the gradient of a number whose byte in the mask is 0 counts as 0. With the mask that is
one byte more for each number, read only then.

**Determinism** costs nothing here: no thread reads what another writes. Only `kl_parts` adds, in float64, every
`parts`-th weight to one of 8,192 parts, which `sums.py` adds in order; the number of parts depends on the number of
weights alone.

**What changes from step to step** is no argument but a row of a table in device memory, the row that the clock shows
(`dials.py`): learning rate and Adam's corrections, the KL weight, the mask while training.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError
from svd_numpy.kernels.backend import Segment
from svd_numpy.kernels.cuda.device import HALF, ONE, THREADS, ZERO, D, F, U, cuda, device, kernel
from svd_numpy.kernels.cuda.dials import (
    BETA1,
    BETA2,
    CORRECTION2,
    DIALS,
    EPSILON,
    KEEP,
    KL_SCALE,
    RATE,
    REST1,
    REST2,
)
from svd_numpy.kernels.prior_fits import (
    CODES,
    E_K2,
    FAR,
    K1,
    K3,
    LARGE_GRADIENT,
    LOG_RHO_MAX,
    R_FAR_0,
    R_FAR_1,
    S_MAX,
    S_MIN,
    SLOPE_FACTOR,
    SMALL_GRADIENT,
    SMALL_M,
    SMALL_V,
    SMALL_X,
    THETA_MAX,
    UP,
    P,
    Q,
    R,
)

FIT, EXACT, ARD, NORMAL = (U(CODES[name]) for name in ("log_uniform", "log_uniform_exact", "ard", "normal"))
NAN = F(math.nan)  # of a prior that has no branch here; `code_of` lets none come so far
LARGEST = 3e38  # stands for infinity in float32 bounds
_EXP_MIN, _EXP_MAX = F(-52.0), F(44.0)
_NO_LOW, _NO_HIGH = F(-LARGEST), F(LARGEST)

# A row of a table of segments: its first piece, first entry and number of entries, where its log_sigma2 begin (NONE:
# ordinary numbers), code of its prior.
PIECE, START, SIZE, LOG_SIGMA2, PRIOR, ROW = map(U, range(6))
NONE = U(2**32 - 1)
# And a row of their limits: bounds of log_sigma2 or of the ordinary numbers, factor on the learning rate.
LOW, HIGH, FACTOR, LIMITS = map(U, range(4))


def code_of(prior: str) -> np.uint32:
    """The number by which kernels know a prior."""
    if prior not in CODES:
        raise SvdValueError(
            f"prior: got {prior!r}, but backend 'cuda' knows {tuple(CODES)} only; use backend='numpy' or 'numba', or "
            "give the prior a branch in kernels/cuda/sweep.py"
        )
    return U(CODES[prior])


def table_of(segments: tuple[Segment, ...]) -> tuple[int, NDArray[np.uint32], NDArray[np.float32]]:
    """Return a table of segments as the kernels read it: number of pieces, rows, limits.

    A row is added at the end whose first piece is never reached.
    """
    rows, limits, piece = list[tuple[int, ...]](), list[tuple[float, ...]](), 0
    for _, start, stop, log_sigma2, prior, low, high, factor in segments:
        behind, code = (log_sigma2, int(code_of(prior))) if prior else (int(NONE), 0)
        rows.append((piece, start, stop - start, behind, code))
        limits.append((max(low, -LARGEST), min(high, LARGEST), factor))
        piece += math.ceil((stop - start) / THREADS)
    rows.append((piece, 0, 0, int(NONE), 0))
    return piece, np.array(rows, np.uint32).reshape(-1), np.array(limits, np.float32).reshape(-1)


@device
def polynomial(c, p):
    """p[0] + p[1] c + ... + p[6] c^6."""
    return p[0] + c * (p[1] + c * (p[2] + c * (p[3] + c * (p[4] + c * (p[5] + c * p[6])))))


@device
def denominator(s):
    """Denominator of the exact prior's rational functions."""
    return s - ONE if s > FAR else ONE + min(s, FAR) * polynomial(min(s, FAR), Q)


@device
def slope(prior, s):
    """v = K'(rho) / rho of a prior."""
    if prior == FIT:
        c = min(s, F(1e5))  # beyond, the sigmoid's term is below 5e-7 of the whole
        p = F(math.exp((K3 - ONE) * F(math.log(max(c, S_MIN)))))
        t1 = ONE + E_K2 * c * p
        return (t1 * t1 + SLOPE_FACTOR * p * (ONE + c)) / ((ONE + s) * (t1 * t1))
    if prior == EXACT:
        return (ONE if s > FAR else polynomial(min(s, FAR), P)) / denominator(s)
    return ONE / (ONE + s) if prior == ARD else NAN


@device
def value(prior, s):
    """KL of a weight in nats, up to s = 1e24."""
    if prior == FIT:
        t = E_K2 * F(math.exp(K3 * F(math.log(max(s, S_MIN)))))
        sigmoid = K1 * (t / (ONE + t)) if s > F(1e-20) else ZERO
        return HALF * F(math.log1p(s)) + sigmoid
    if prior == EXACT:
        if s < F(0.05):
            return s * (HALF + s * (F(-0.0833333333) + s * F(0.0111111111)))
        c = min(s, FAR)
        r = R_FAR_1 * s - R_FAR_0 if s > FAR else c * polynomial(c, R)
        return HALF * F(math.log(ONE + s * F(0.15384616))) + r / denominator(s)
    return HALF * F(math.log1p(s)) if prior == ARD else NAN


@device
def value_normal(theta, log_sigma2):
    """(sigma^2 + theta^2 - 1 - log_sigma2) / 2; near log_sigma2 = 0 by its series, where the difference is rounding."""
    x, sigma = log_sigma2, deviation(log_sigma2)[0]
    near = x * x * (HALF + x * (F(0.16666667) + x * (F(0.041666667) + x * (F(8.3333333e-3) + x * F(1.3888889e-3)))))
    excess = near if abs(x) < F(0.25) else (sigma * sigma - ONE) - x
    size = min(abs(theta), THETA_MAX)
    return min(HALF * size * size + HALF * excess, F(3.4028e38))


@device
def deviation(log_sigma2):
    """Sigma and 1 / sigma, neither 0 nor infinite."""
    half = min(max(HALF * log_sigma2, _EXP_MIN), _EXP_MAX)
    return F(math.exp(half)), F(math.exp(-half))


@device
def loss_gradient(theta, log_sigma2, d_theta, d_sigma2, prior, kl_scale, keep):
    """Gradients of mean NLL + kl_scale * KL for theta and log_sigma2 of one weight."""
    sigma, inverse = deviation(log_sigma2)
    rho = theta * inverse
    s = min(rho * rho, S_MAX)
    if prior == NORMAL:
        data = d_theta if s >= keep else ZERO
        return data + kl_scale * theta, sigma * sigma * d_sigma2 + kl_scale * (HALF * (sigma * sigma - ONE))
    v = slope(prior, s)
    data = d_theta if s >= keep else ZERO  # a mean that `keep` took out of the forward pass has no data gradient
    if s >= S_MAX:
        kl_theta = ONE / theta  # of every prior, beyond the cap
        data = d_theta
    else:
        kl_theta = v * (theta * (inverse * UP)) * (inverse / UP)  # up and down: no subnormal on the way
    return data + kl_scale * kl_theta, sigma * sigma * d_sigma2 - kl_scale * (HALF * s * v)


@device
def adam(x, gradient, m, v, dials, now, factor, low, high):
    """One number's Adam step (Kingma & Ba 2015, algorithm 1), clamped to [low, high]: the new x, m, v.

    now : the row of the dials
    """
    rate, correction2 = dials[U(now + RATE)] * factor, dials[U(now + CORRECTION2)]
    beta1, rest1 = dials[U(now + BETA1)], dials[U(now + REST1)]
    beta2, rest2 = dials[U(now + BETA2)], dials[U(now + REST2)]
    epsilon = dials[U(now + EPSILON)]
    g = min(max(gradient, -LARGE_GRADIENT), LARGE_GRADIENT)  # its square must stay finite
    g = g if abs(g) > SMALL_GRADIENT else ZERO
    m = beta1 * m + rest1 * g
    v = beta2 * v + rest2 * (g * g)
    m = m if abs(m) > SMALL_M else ZERO
    v = v if v > SMALL_V else ZERO
    x = min(max(x - rate * m / (F(math.sqrt(v * correction2)) + epsilon), low), high)
    return (x if abs(x) > SMALL_X else ZERO), m, v


@device
def segment_of(piece, row, rows):
    """The row of a table of segments that a piece belongs to, found from an earlier one on."""
    while rows[U(U(row + U(1)) * ROW + PIECE)] <= piece:
        row = U(row + U(1))
    return row


@kernel("uTSuFFFFBFT")
def adam_sweep(pieces, rows, limits, held, params, grads, m, v, mask, dials, clock):
    """One optimisation step over the arena; one thread an entry of a segment, weights with their log_sigma2.

    rows, limits : the table of segments (`table_of`)
    held : 1 where numbers whose mask is 0 have no gradient
    dials, clock : table of settings, and the row that counts now

    All that a thread needs is read before it writes: a load behind a store waits for it, and for memory once more.
    """
    now, row = U(clock[0] * DIALS), U(0)
    for p in range(U(cuda.blockIdx.x), pieces, U(cuda.gridDim.x)):
        row = segment_of(U(p), row, rows)
        at_row, at_limits = U(row * ROW), U(row * LIMITS)
        offset = U((U(p) - rows[U(at_row + PIECE)]) * U(THREADS) + U(cuda.threadIdx.x))
        if offset < rows[U(at_row + SIZE)]:
            at, start = U(rows[U(at_row + START)] + offset), rows[U(at_row + LOG_SIGMA2)]
            low, high = limits[U(at_limits + LOW)], limits[U(at_limits + HIGH)]
            factor, x, d_x, m_x, v_x = limits[U(at_limits + FACTOR)], params[at], grads[at], m[at], v[at]
            free = held == U(0) or U(mask[at]) > U(0)
            if start == NONE:
                params[at], m[at], v[at] = adam(
                    x, d_x if free else ZERO, m_x, v_x, dials, now, factor, low, high
                )  # fmt: skip
            else:
                behind = U(start + offset)
                log_sigma2, d_behind, m_behind, v_behind = params[behind], grads[behind], m[behind], v[behind]
                free_behind = held == U(0) or U(mask[behind]) > U(0)
                d_x, d_behind = loss_gradient(
                    x, log_sigma2, d_x, d_behind,
                    rows[U(at_row + PRIOR)], dials[U(now + KL_SCALE)], dials[U(now + KEEP)],
                )  # fmt: skip
                x, m_x, v_x = adam(x, d_x if free else ZERO, m_x, v_x, dials, now, factor, _NO_LOW, _NO_HIGH)
                log_sigma2, m_behind, v_behind = adam(
                    log_sigma2, d_behind if free_behind else ZERO, m_behind, v_behind, dials, now, factor, low, high
                )
                params[at], m[at], v[at] = x, m_x, v_x
                params[behind], m[behind], v[behind] = log_sigma2, m_behind, v_behind


@kernel("uTFFff")
def finish_gradients(pieces, rows, params, grads, kl_scale, keep):
    """Turn data gradients into gradients of the loss, in place; a thread an entry of a segment with a posterior."""
    row = U(0)
    for p in range(U(cuda.blockIdx.x), pieces, U(cuda.gridDim.x)):
        row = segment_of(U(p), row, rows)
        offset = U((U(p) - rows[row * ROW + PIECE]) * U(THREADS) + U(cuda.threadIdx.x))
        start = rows[row * ROW + LOG_SIGMA2]
        if start != NONE and offset < rows[row * ROW + SIZE]:
            at, behind = rows[row * ROW + START] + offset, start + offset
            grads[at], grads[behind] = loss_gradient(
                params[at], params[behind], grads[at], grads[behind], rows[row * ROW + PRIOR], kl_scale, keep
            )


@kernel("uuFFuD")
def kl_parts(count, parts, theta, log_sigma2, prior, out):
    """Sums of the KL over every `parts`-th weight, in float64; one thread a part."""
    for i in range(U(cuda.grid(1)), parts, U(cuda.gridsize(1))):
        total = D(0)
        for j in range(U(i), count, parts):
            at = U(j)
            if prior == NORMAL:
                total += D(value_normal(theta[at], log_sigma2[at]))
                continue
            rho = theta[at] * deviation(log_sigma2[at])[1]
            nats = value(prior, min(rho * rho, S_MAX))
            if rho * rho > S_MAX:  # past the cap KL = ln rho + constant; ln rho without rho, which may overflow
                log_rho = F(math.log(max(abs(theta[at]), F(1e-30)))) - HALF * log_sigma2[at]
                nats += log_rho - LOG_RHO_MAX
            total += D(nats)
        out[U(i)] = total
