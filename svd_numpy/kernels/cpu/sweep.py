"""The pass over all parameters: chain rule through log_sigma2, KL gradient, Adam, projection.

One thread takes whole blocks of the arena. Inside a block (which fits the first-level cache) the work is a handful of
short loops instead of one long one: LLVM gives up on vectorising a loop that touches more than a few arrays, and the
single loop is ten times slower.

The KL of every prior depends on a weight only through s = theta^2 / sigma^2 = 1 / alpha, so that a prior is two scalar
functions of s: its value, and its slope v = K'(rho) / rho with rho = sqrt(s). Then

    dKL/dlog_sigma2 = -s v / 2          dKL/dtheta = v theta / sigma^2

with no logarithm of theta anywhere: nothing here can overflow or divide by zero (formulas: `kernels/priors.py`).
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
    abs32,
    bits_of,
    exp32,
    exp_pair,
    float_of,
    log32,
    max32,
    min32,
    rint32,
    sqrt32,
    to_float,
    to_int,
    wide_vectors,
)

BLOCK = 1024
LOG_SIGMA2_MIN, LOG_SIGMA2_MAX = F(-20.0), F(10.0)  # the projection: sigma from 4.5e-5 to 148

_S_MAX = F(1e24)  # beyond it s v is 1 to the last bit
_S_MIN = F(1e-37)
_UP = F(2.0**20)
# Numbers too small to matter become 0, before they or their squares turn subnormal: those cost a trap each.
_SMALL_GRADIENT, _SMALL_M, _SMALL_V, _SMALL_X = F(1e-17), F(1e-20), F(1e-35), F(1e-15)
_LARGE_GRADIENT = F(1e18)

# log-uniform, the paper's fit (Molchanov et al. 2017, eq. 14): t = exp(-k2) s^k3
_K1, _K3 = F(0.63576), F(1.48695)
_E_K2 = F(0.15363139)  # exp(-1.87320)
_SLOPE_FACTOR = F(2 * 0.63576 * 1.48695 * 0.15363139)
# log-uniform, exact: rational functions of s for v = sqrt(2) D(rho / sqrt 2) / rho and for the value, below s = 2000
_P = tuple(F(c) for c in (0.999998808, 0.0419733338, 0.0103509137, 0.000738377741, 4.97629007e-05,
                          1.95233611e-06, 1.64998525e-07))  # fmt: skip
_Q = tuple(F(c) for c in (0.375290573, 0.0688166246, 0.00815300737, 0.000705694954, 4.72954271e-05,
                          1.78793675e-06, 1.6499807e-07))  # fmt: skip
_R = tuple(F(c) for c in (0.423077911, 0.0813607648, 0.0105630495, 0.00094290229, 6.91540408e-05,
                          2.1910148e-06, 2.59223782e-07))  # fmt: skip
_FAR = F(2000.0)
_R_FAR_1, _R_FAR_0 = F(1.57108247), F(5.32108259)


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
    x = (_K3 - ONE) * (to_float(np.int32(shifted >> _SHIFT)) + log2)
    n = rint32(x)
    f = x - n
    exp2 = (_EXP2[0] + f * _EXP2[1]) + (f * f) * ((_EXP2[2] + f * _EXP2[3]) + (f * f) * _EXP2[4])
    return exp2 * float_of(np.int32(np.int32(to_int(n) + _BIAS) << _SHIFT))


@kernel(inline=True)
def _slope_log_uniform(s):
    c = min32(s, F(1e5))  # the sigmoid's term is below 5e-7 of the whole from here on
    p = _power(max32(c, _S_MIN))  # s^(k3 - 1)
    t1 = ONE + _E_K2 * c * p
    return (t1 * t1 + _SLOPE_FACTOR * p * (ONE + c)) / ((ONE + s) * (t1 * t1))


@kernel(inline=True)
def _value_log_uniform(s):
    t = _E_K2 * exp32(_K3 * log32(max32(s, _S_MIN)))
    sigmoid = _K1 * (t / (ONE + t))
    return _half_log1p(s) + (sigmoid if s > F(1e-20) else ZERO)  # below, t no longer counts beside s


@kernel(inline=True)
def _exact_denominator(s, c):
    q = ONE + c * (_Q[0] + c * (_Q[1] + c * (_Q[2] + c * (_Q[3] + c * (_Q[4] + c * (_Q[5] + c * _Q[6]))))))
    return s - ONE if s > _FAR else q


@kernel(inline=True)
def _slope_log_uniform_exact(s):
    c = min32(s, _FAR)
    p = _P[0] + c * (_P[1] + c * (_P[2] + c * (_P[3] + c * (_P[4] + c * (_P[5] + c * _P[6])))))
    return (ONE if s > _FAR else p) / _exact_denominator(s, c)


@kernel(inline=True)
def _value_log_uniform_exact(s):
    c = min32(s, _FAR)
    r = c * (_R[0] + c * (_R[1] + c * (_R[2] + c * (_R[3] + c * (_R[4] + c * (_R[5] + c * _R[6]))))))
    r = _R_FAR_1 * s - _R_FAR_0 if s > _FAR else r
    far = HALF * log32(ONE + s * F(0.15384616)) + r / _exact_denominator(s, c)
    near = c * (HALF + c * (F(-0.0833333333) + c * F(0.0111111111)))
    return near if s < F(0.05) else far


@kernel(inline=True)
def _slope_ard(s):
    return ONE / (ONE + s)


@kernel()
def kl_values(theta, log_sigma2, prior, out):
    """KL of each weight of one block, in nats; relative error below 2e-5.

    prior : int, see `svd_numpy.kernels.priors.PRIORS`: 0 log-uniform (fit), 1 log-uniform (exact), 2 ARD
    """
    wide_vectors()
    for i in range(len(theta)):
        rho = theta[i] * exp32(-HALF * log_sigma2[i])
        s = min32(rho * rho, _S_MAX)
        if prior == 0:
            value = _value_log_uniform(s)
        elif prior == 1:
            value = _value_log_uniform_exact(s)
        else:
            value = _half_log1p(s)
        # Past the cap KL = ln rho + constant; ln rho without forming rho, which may overflow.
        log_rho = log32(max32(abs32(theta[i]), F(1e-30))) - HALF * log_sigma2[i]
        out[i] = value + (log_rho - F(27.631021) if rho * rho > _S_MAX else ZERO)  # 27.6... = ln(1e24) / 2


@kernel(inline=True)
def _weight_state(theta, log_sigma2):
    """sigma, 1 / sigma and s = theta^2 / sigma^2 (capped) of one weight."""
    sigma, inverse = exp_pair(HALF * log_sigma2)
    rho = theta * inverse
    return sigma, inverse, min32(rho * rho, _S_MAX)


@kernel()
def _block_gradient(theta, log_sigma2, d_theta, d_sigma2, prior, kl_scale, keep, out):
    """Gradients of the loss for one block: out[:BLOCK] for theta, out[BLOCK : 2 * BLOCK] for log_sigma2.

    Three passes with short dependency chains: the processor overlaps many weights in each.
    """
    wide_vectors()
    n = len(theta)
    for i in range(n):
        sigma, inverse, s = _weight_state(theta[i], log_sigma2[i])
        out[i] = inverse
        out[BLOCK + i] = sigma
        out[2 * BLOCK + i] = s
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
        kl_theta = slope * (theta[i] * (inverse * _UP)) * (inverse / _UP)  # up and down: no subnormal on the way
        out[i] = data + kl_scale * kl_theta
        out[BLOCK + i] = sigma * sigma * d_sigma2[i] - kl_scale * (HALF * s * slope)
    extreme = 0
    for i in range(len(theta)):
        extreme += 1 if abs32(theta[i]) > F(1e7) or log_sigma2[i] < F(-21) else 0
    if extreme > 0:
        _far_gradient(theta, log_sigma2, d_theta, kl_scale, out)


@kernel()
def _far_gradient(theta, log_sigma2, d_theta, kl_scale, out):
    """Beyond the cap on s every prior has dKL/dtheta = 1 / theta; a division that ordinary weights need not pay."""
    for i in range(len(theta)):
        s = _weight_state(theta[i], log_sigma2[i])[2]
        if s >= _S_MAX:
            out[i] = d_theta[i] + kl_scale / theta[i]


@kernel()
def _adam(x, gradient, m, v, rate, correction2, beta1, beta2, epsilon, low, high):
    """Adam (Kingma & Ba 2015, algorithm 1) on one block.

    rate = lr / (1 - beta1^t), correction2 = 1 / (1 - beta2^t). The result is clamped to [low, high].
    """
    wide_vectors()
    rest1, rest2 = ONE - beta1, ONE - beta2
    for i in range(len(x)):
        g = min32(max32(gradient[i], -_LARGE_GRADIENT), _LARGE_GRADIENT)  # its square must stay finite
        g = g if abs32(g) > _SMALL_GRADIENT else ZERO
        m1 = beta1 * m[i] + rest1 * g
        v1 = beta2 * v[i] + rest2 * (g * g)
        m1 = m1 if abs32(m1) > _SMALL_M else ZERO
        v1 = v1 if v1 > _SMALL_V else ZERO
        m[i] = m1
        v[i] = v1
        x1 = min32(max32(x[i] - rate * m1 / (sqrt32(v1 * correction2) + epsilon), low), high)
        x[i] = x1 if abs32(x1) > _SMALL_X else ZERO


_NO_LOW, _NO_HIGH = F(-3e38), F(3e38)


@kernel(parallel=True)
def adam_sweep(threads, segments, params, grads, m, v, prior, kl_scale, keep, fixed, adam, scratch):
    """One optimisation step over the arena [theta | log_sigma2 | rest].

    segments : where each layer's weights begin in the theta part, and its end. The threads share every layer out in
    the same way, by rows of theta, so that each finds in its own cache what it wrote in another kernel
    grads : on entry the data gradients, with d/dsigma2 (not yet d/dlog_sigma2) in the second part
    fixed : 1 in the fine-tuning stage: a weight whose theta is 0 stays as it is
    adam : (rate, correction2, beta1, beta2, epsilon), see `_adam`
    scratch : array (threads, at least 4 * BLOCK)
    """
    rate, correction2, beta1, beta2, epsilon = adam
    n_weights = segments[-1]
    for thread in prange(threads):
        for segment in range(len(segments) - 1):
            start, size = segments[segment], segments[segment + 1] - segments[segment]
            first, last = start + thread * size // threads, start + (thread + 1) * size // threads
            for lo in range(first, last, BLOCK):
                hi = min(lo + BLOCK, last)
                theta, log_sigma2 = params[lo:hi], params[n_weights + lo : n_weights + hi]
                d_theta, d_log_sigma2 = scratch[thread, : hi - lo], scratch[thread, BLOCK : BLOCK + hi - lo]
                _block_gradient(theta, log_sigma2, grads[lo:hi], grads[n_weights + lo : n_weights + hi],
                                prior, kl_scale, keep, scratch[thread])  # fmt: skip
                if fixed == 1:
                    for i in range(hi - lo):
                        d_theta[i] = d_theta[i] if theta[i] != ZERO else ZERO
                        d_log_sigma2[i] = d_log_sigma2[i] if theta[i] != ZERO else ZERO
                _adam(log_sigma2, d_log_sigma2, m[n_weights + lo : n_weights + hi], v[n_weights + lo : n_weights + hi],
                      rate, correction2, beta1, beta2, epsilon, LOG_SIGMA2_MIN, LOG_SIGMA2_MAX)  # fmt: skip
                _adam(theta, d_theta, m[lo:hi], v[lo:hi],
                      rate, correction2, beta1, beta2, epsilon, _NO_LOW, _NO_HIGH)  # fmt: skip
        if thread == 0:
            lo, hi = 2 * n_weights, len(params)
            _adam(params[lo:hi], grads[lo:hi], m[lo:hi], v[lo:hi],
                  rate, correction2, beta1, beta2, epsilon, _NO_LOW, _NO_HIGH)  # fmt: skip


@kernel(parallel=True)
def finish_gradients(threads, n_weights, params, grads, prior, kl_scale, keep, scratch):
    """Turn the data gradients of the arena into gradients of the loss, in place (chain rule and KL as in the sweep)."""
    n_blocks = -(-n_weights // BLOCK)
    for thread in prange(threads):
        for block in range(thread * n_blocks // threads, (thread + 1) * n_blocks // threads):
            lo, hi = block * BLOCK, min(block * BLOCK + BLOCK, n_weights)
            d_theta, d_sigma2 = grads[lo:hi], grads[n_weights + lo : n_weights + hi]
            _block_gradient(params[lo:hi], params[n_weights + lo : n_weights + hi], d_theta, d_sigma2,
                            prior, kl_scale, keep, scratch[thread])  # fmt: skip
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
