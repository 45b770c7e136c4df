"""The pass over all parameters: chain rule through log_sigma2, KL gradient, Adam, projection.

Each thread takes whole blocks of the arena. Inside a block (which fits the first-level cache) the work is a handful of
short loops instead of one long one: LLVM gives up on vectorising a loop that touches more than a few arrays, and the
single loop is ten times slower.

The KL of every prior but the normal one depends on a weight only through s = theta^2 / sigma^2 = 1 / alpha, so such a
prior is two scalar functions of s: its value, and its slope v = K'(rho) / rho with rho = sqrt(s). Then

    dKL/dlog_sigma2 = -s v / 2          dKL/dtheta = v theta / sigma^2

The normal prior, KL = (sigma^2 + theta^2 - 1 - log_sigma2) / 2, has a branch of its own.

The gradients need no logarithm of theta, and nothing can overflow or divide by zero (formulas: `kernels/priors.py`).
"""

from __future__ import annotations

import numpy as np
from numba import prange

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import (
    HALF,
    ONE,
    ZERO,
    F,
    I,
    abs32,
    bits_of,
    exp32,
    exp_pair,
    float_of,
    flush_subnormals,
    log32,
    max32,
    min32,
    restore_mode,
    rint32,
    sqrt32,
    to_float,
    to_int,
    wide_vectors,
)
from svd_numpy.kernels.prior_fits import (
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
    SMALL_X,
    THETA_MAX,
    UP,
    P,
    Q,
    R,
)

BLOCK = 1024


@kernel(inline=True)
def _half_log1p(s):
    """ln(1 + s) / 2, relative error below 4e-6 for every s >= 0."""
    near = s * (HALF + s * (F(-0.25) + s * F(0.16666667)))
    return near if s < F(0.02) else HALF * log32(ONE + s)


_LOG2 = tuple(F(c) for c in (1.44269456, -0.721379891, 0.481005588, -0.35838869, 0.284620078, -0.279998735,
                             0.252634083))  # fmt: skip
_EXP2 = tuple(F(c) for c in (0.999999261, 0.693121814, 0.240247454, 0.0559178635, 0.00957008214))
_TWO_THIRDS, _MANTISSA, _BIAS, _SHIFT = np.int32(0x3F2AAAAB), np.int32(0x007FFFFF), np.int32(127), np.int32(23)


@kernel(inline=True)
def _power(s):
    """s^(k3 - 1) for s in [1e-37, 1e5], relative error below 1e-5: log2 and exp2 as short minimax polynomials.

    This is the hottest function of a training step; the full log32 and exp32 would cost half as much again.
    """
    shifted = np.int32(bits_of(s) - _TWO_THIRDS)
    m = float_of(np.int32((shifted & _MANTISSA) + _TWO_THIRDS)) - ONE  # s = 2**e (1 + m), 1 + m in [2/3, 4/3)
    z = m * m  # pairs of terms (Estrin's scheme): short chains keep both arithmetic units busy
    high = (_LOG2[3] + m * _LOG2[4]) + z * (_LOG2[5] + m * _LOG2[6])
    log2 = m * ((_LOG2[0] + m * _LOG2[1]) + z * (_LOG2[2] + m * high))
    x = (K3 - ONE) * (to_float(np.int32(shifted >> _SHIFT)) + log2)
    n = rint32(x)
    f = x - n
    exp2 = (_EXP2[0] + f * _EXP2[1]) + (f * f) * ((_EXP2[2] + f * _EXP2[3]) + (f * f) * _EXP2[4])
    return exp2 * float_of(np.int32(np.int32(to_int(n) + _BIAS) << _SHIFT))


@kernel(inline=True)
def _slope_log_uniform(s):
    c = min32(s, F(1e5))  # the sigmoid's term is below 5e-7 of the whole from here on
    p = _power(max32(c, S_MIN))  # s^(k3 - 1)
    t1 = ONE + E_K2 * c * p
    return (t1 * t1 + SLOPE_FACTOR * p * (ONE + c)) / ((ONE + s) * (t1 * t1))


@kernel(inline=True)
def _value_log_uniform(s):
    t = E_K2 * exp32(K3 * log32(max32(s, S_MIN)))
    sigmoid = K1 * (t / (ONE + t))
    return _half_log1p(s) + (sigmoid if s > F(1e-20) else ZERO)  # below, t is negligible beside s


@kernel(inline=True)
def _exact_denominator(s, c):
    q = ONE + c * (Q[0] + c * (Q[1] + c * (Q[2] + c * (Q[3] + c * (Q[4] + c * (Q[5] + c * Q[6]))))))
    return s - ONE if s > FAR else q


@kernel(inline=True)
def _slope_log_uniform_exact(s):
    c = min32(s, FAR)
    p = P[0] + c * (P[1] + c * (P[2] + c * (P[3] + c * (P[4] + c * (P[5] + c * P[6])))))
    return (ONE if s > FAR else p) / _exact_denominator(s, c)


@kernel(inline=True)
def _value_log_uniform_exact(s):
    c = min32(s, FAR)
    r = c * (R[0] + c * (R[1] + c * (R[2] + c * (R[3] + c * (R[4] + c * (R[5] + c * R[6]))))))
    r = R_FAR_1 * s - R_FAR_0 if s > FAR else r
    far = HALF * log32(ONE + s * F(0.15384616)) + r / _exact_denominator(s, c)
    near = c * (HALF + c * (F(-0.0833333333) + c * F(0.0111111111)))
    return near if s < F(0.05) else far


@kernel(inline=True)
def _slope_ard(s):
    return ONE / (ONE + s)


NORMAL = 3  # its code, see `svd_numpy.kernels.prior_fits.CODES`


@kernel(inline=True)
def _value_normal(theta, log_sigma2):
    """(sigma^2 + theta^2 - 1 - log_sigma2) / 2; near log_sigma2 = 0 by its series, where the difference is rounding."""
    x = log_sigma2
    near = x * x * (HALF + x * (F(0.16666667) + x * (F(0.041666667) + x * (F(8.3333333e-3) + x * F(1.3888889e-3)))))
    sigma = exp32(HALF * x)
    excess = near if abs32(x) < F(0.25) else (sigma * sigma - ONE) - x
    size = min32(abs32(theta), THETA_MAX)
    return min32(HALF * size * size + HALF * excess, F(3.4028e38))


@kernel()
def kl_values(theta, log_sigma2, prior, out):
    """KL of each weight of one block, in nats; relative error below 2e-5.

    prior : int, see `svd_numpy.kernels.prior_fits.CODES`: 0 log-uniform (fit), 1 log-uniform (exact), 2 ARD,
        3 normal
    """
    wide_vectors()
    if prior == NORMAL:
        for i in range(len(theta)):
            out[i] = _value_normal(theta[i], log_sigma2[i])
        return
    for i in range(len(theta)):
        rho = theta[i] * exp32(-HALF * log_sigma2[i])
        s = min32(rho * rho, S_MAX)
        if prior == 0:
            value = _value_log_uniform(s)
        elif prior == 1:
            value = _value_log_uniform_exact(s)
        else:
            value = _half_log1p(s)
        # Beyond the cap KL = ln rho + constant; ln rho is computed without rho, which may overflow.
        log_rho = log32(max32(abs32(theta[i]), F(1e-30))) - HALF * log_sigma2[i]
        out[i] = value + (log_rho - LOG_RHO_MAX if rho * rho > S_MAX else ZERO)


@kernel(inline=True)
def _weight_state(theta, log_sigma2):
    """sigma, 1 / sigma and s = theta^2 / sigma^2 (capped) of one weight."""
    sigma, inverse = exp_pair(HALF * log_sigma2)
    rho = theta * inverse
    return sigma, inverse, min32(rho * rho, S_MAX)


@kernel()
def _block_gradient(theta, log_sigma2, d_theta, d_sigma2, prior, kl_scale, keep, out):
    """Gradients of the loss for one block: out[:BLOCK] for theta, out[BLOCK : 2 * BLOCK] for log_sigma2.

    Three passes with short dependency chains, in each of which the processor overlaps many weights.
    """
    wide_vectors()
    n, far = len(theta), I(0)
    for i in range(n):
        sigma, inverse, s = _weight_state(theta[i], log_sigma2[i])
        far = I(far | I(s >= S_MAX))
        out[i] = inverse
        out[BLOCK + i] = sigma
        out[2 * BLOCK + i] = s
    if prior == NORMAL:
        for i in range(n):
            sigma2, data = out[BLOCK + i] * out[BLOCK + i], d_theta[i] if out[2 * BLOCK + i] >= keep else ZERO
            out[i] = data + kl_scale * theta[i]
            out[BLOCK + i] = sigma2 * d_sigma2[i] + kl_scale * (HALF * (sigma2 - ONE))
        return
    if prior == 0:
        for i in range(n):
            out[3 * BLOCK + i] = _slope_log_uniform(out[2 * BLOCK + i])
    elif prior == 1:
        for i in range(n):
            out[3 * BLOCK + i] = _slope_log_uniform_exact(out[2 * BLOCK + i])
    else:
        for i in range(n):
            out[3 * BLOCK + i] = _slope_ard(out[2 * BLOCK + i])
    for i in range(n):
        inverse, sigma, s, slope = out[i], out[BLOCK + i], out[2 * BLOCK + i], out[3 * BLOCK + i]
        data = d_theta[i] if s >= keep else ZERO  # a mean that `keep` took out of the forward pass has no data gradient
        kl_theta = slope * (theta[i] * (inverse * UP)) * (inverse / UP)  # scaled up and down: no subnormals
        out[i] = data + kl_scale * kl_theta
        out[BLOCK + i] = sigma * sigma * d_sigma2[i] - kl_scale * (HALF * s * slope)
    if far != 0:
        _far_gradient(theta, log_sigma2, d_theta, kl_scale, out)


@kernel()
def _far_gradient(theta, log_sigma2, d_theta, kl_scale, out):
    """Beyond the cap on s every prior has dKL/dtheta = 1 / theta; ordinary weights are spared this division."""
    for i in range(len(theta)):
        s = _weight_state(theta[i], log_sigma2[i])[2]
        if s >= S_MAX:
            out[i] = d_theta[i] + kl_scale / theta[i]


@kernel()
def _adam(x, gradient, m, v, rate, correction2, beta1, beta2, epsilon, low, high):
    """Adam (Kingma & Ba 2015, algorithm 1) on one block.

    rate = lr / (1 - beta1^t), correction2 = 1 / (1 - beta2^t). The result is clamped to [low, high]. The caller takes
    subnormals as 0 (`flush_subnormals`): to compare for each number whether it is too small took half as long again.
    """
    wide_vectors()
    rest1, rest2 = ONE - beta1, ONE - beta2
    for i in range(len(x)):
        g = min32(max32(gradient[i], -LARGE_GRADIENT), LARGE_GRADIENT)  # its square must stay finite
        m1 = beta1 * m[i] + rest1 * g
        v1 = beta2 * v[i] + rest2 * (g * g)
        m[i] = m1
        v[i] = v1
        x1 = min32(max32(x[i] - rate * m1 / (sqrt32(v1 * correction2) + epsilon), low), high)
        x[i] = x1 if abs32(x1) > SMALL_X else ZERO


_NO_LOW, _NO_HIGH = F(-3e38), F(3e38)
_SHARED = 4 * BLOCK  # below this many, numbers without a posterior are left to one thread
# Columns of a table of segments: first entry, end, first log_sigma2 (-1: no posterior), code of the prior.
START, STOP, LOG_SIGMA2, PRIOR = range(4)
# Columns of its float32 part: bounds (`Segment`), factor on the learning rate.
LOW, HIGH, FACTOR = range(3)


@kernel()
def _hold(mask, gradient):
    """gradient <- 0 where mask is 0."""
    for i in range(len(mask)):
        gradient[i] = gradient[i] if mask[i] != 0 else ZERO


@kernel(parallel=True)
def adam_sweep(threads, table, limits, params, grads, m, v, mask, kl_scale, keep, held, adam, scratch):
    """One optimisation step over the arena, segment by segment.

    table, limits : one row per segment. Every segment is split among the threads in the same way, by rows of theta, so
        that each finds in its own cache what it wrote in another kernel
    grads : on entry the data gradients; for log variances, d/dsigma2 (not yet d/dlog_sigma2)
    held : 1 to set the gradients of numbers whose mask is 0 to 0
    adam : (rate, correction2, beta1, beta2, epsilon), see `_adam`
    scratch : array (threads, at least 4 * BLOCK)
    """
    rate, correction2, beta1, beta2, epsilon = adam
    for thread in prange(threads):
        mode = flush_subnormals()
        for row in range(len(table)):
            start, size, behind = table[row, START], table[row, STOP] - table[row, START], table[row, LOG_SIGMA2]
            low, high, row_rate = limits[row, LOW], limits[row, HIGH], rate * limits[row, FACTOR]
            first, last = start + thread * size // threads, start + (thread + 1) * size // threads
            if behind < 0 and size < _SHARED:
                first, last = start, start + (size if thread == 0 else 0)
            for lo in range(first, last, BLOCK):
                hi = min(lo + BLOCK, last)
                d_x = scratch[thread, : hi - lo]
                if behind < 0:
                    d_x[:] = grads[lo:hi]
                    if held == 1:
                        _hold(mask[lo:hi], d_x)
                    _adam(params[lo:hi], d_x, m[lo:hi], v[lo:hi],
                          row_rate, correction2, beta1, beta2, epsilon, low, high)  # fmt: skip
                    continue
                lo2, hi2 = lo + (behind - start), hi + (behind - start)
                d_log_sigma2 = scratch[thread, BLOCK : BLOCK + hi - lo]
                _block_gradient(params[lo:hi], params[lo2:hi2], grads[lo:hi], grads[lo2:hi2],
                                table[row, PRIOR], kl_scale, keep, scratch[thread])  # fmt: skip
                if held == 1:
                    _hold(mask[lo:hi], d_x)
                    _hold(mask[lo2:hi2], d_log_sigma2)
                _adam(params[lo2:hi2], d_log_sigma2, m[lo2:hi2], v[lo2:hi2],
                      row_rate, correction2, beta1, beta2, epsilon, low, high)  # fmt: skip
                _adam(params[lo:hi], d_x, m[lo:hi], v[lo:hi],
                      row_rate, correction2, beta1, beta2, epsilon, _NO_LOW, _NO_HIGH)  # fmt: skip
        restore_mode(mode)


@kernel(parallel=True)
def finish_gradients(threads, table, params, grads, kl_scale, keep, scratch):
    """Turn the data gradients of the arena into gradients of the loss, in place (chain rule and KL as in the sweep)."""
    for thread in prange(threads):
        for row in range(len(table)):
            start, stop, behind = table[row, START], table[row, STOP], table[row, LOG_SIGMA2]
            n_blocks = (stop - start + BLOCK - 1) // BLOCK if behind >= 0 else 0
            for block in range(thread * n_blocks // threads, (thread + 1) * n_blocks // threads):
                lo = start + block * BLOCK
                hi = min(lo + BLOCK, stop)
                lo2, hi2 = lo + (behind - start), hi + (behind - start)
                d_theta, d_sigma2 = grads[lo:hi], grads[lo2:hi2]
                _block_gradient(params[lo:hi], params[lo2:hi2], d_theta, d_sigma2,
                                table[row, PRIOR], kl_scale, keep, scratch[thread])  # fmt: skip
                d_theta[:] = scratch[thread, : hi - lo]
                d_sigma2[:] = scratch[thread, BLOCK : BLOCK + hi - lo]


@kernel()
def kl_sum(theta, log_sigma2, prior, scratch):
    """Sum of the KL over flat arrays, in float64 and in a fixed order."""
    total = 0.0
    for lo in range(0, len(theta), BLOCK):
        hi = min(lo + BLOCK, len(theta))
        kl_values(theta[lo:hi], log_sigma2[lo:hi], prior, scratch)
        for i in range(hi - lo):
            total += float(scratch[i])
    return total
