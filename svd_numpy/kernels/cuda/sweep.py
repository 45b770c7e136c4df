"""The pass over all parameters on the device: chain rule, KL gradient, Adam, projection; one thread a weight.

**What happens to a weight.** With sigma = exp(log_sigma2 / 2), s = theta^2 / sigma^2 and the slope v(s) of the prior
(`svd_numpy/kernels/priors.py`), from the data gradients d_theta and d_sigma2 that the layers left:

    d_log_sigma2 = sigma^2 d_sigma2 - kl_scale s v / 2        d_theta = d_theta + kl_scale v theta / sigma^2
    m = beta1 m + (1 - beta1) d        v = beta2 v + (1 - beta2) d^2        x = x - rate m / (sqrt(v c) + epsilon)

and log_sigma2 is clamped to [-20, 10]. The fits of v and the limits that keep everything finite are those of the CPU's
pass (`svd_numpy/kernels/cpu/sweep.py`), and the formulas of both are one.

**What a thread does.** It takes weight i of the arena [theta | log_sigma2 | rest]: reads theta[i] and log_sigma2[i],
`n_weights` apart, and both gradients and moments; keeps all of it in registers; writes both parameters and moments.
Threads behind the last weight take one plain number each (biases, scales), which has no KL. Neighbouring threads take
neighbouring weights, so that every load of a warp is one line of 128 bytes.

**Cost.** 8 numbers read and 6 written, 56 bytes a weight, for some 60 operations, three exponentials, a logarithm and
two square roots: less than 2 operations a byte, where a large device could do 14 or more before arithmetic held it up.
So the speed is that of memory, and nothing is gained by fewer operations; what counts is that a weight is visited once.
Chain rule, KL, Adam and projection as passes of their own would move about 100 bytes. The 266,200 weights of
LeNet-300-100 are 15 MB a step, which stay in a second-level cache of 50 MB; sixteen runs are 239 MB, which do not: at
4.8 TB/s, 50 microseconds. There this pass, and not the products, decides what a further run costs.

**Determinism** costs nothing here: no thread reads what another writes. Only `kl_parts` adds, in float64, every
`parts`-th weight to one of 8,192 parts, which `sums.py` adds in order; the number of parts depends on the number of
weights alone.

**What changes from step to step** is no argument but a row of a table in device memory, the row that the clock shows,
so that a recorded step can be replayed (`recording.py`): learning rate and Adam's corrections in `dials`, which all
runs that go side by side share, the KL weight in `kl_scales`, of which each run has its own.
"""

from __future__ import annotations

import math

from svd_numpy.kernels.cuda.device import HALF, ONE, ZERO, D, F, U, cuda, device, kernel
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
    SMALL_GRADIENT,
    SMALL_M,
    SMALL_V,
    SMALL_X,
    UP,
    P,
    Q,
    R,
)

DIALS = 8  # numbers of a row: keep, rate, correction2, beta1, 1 - beta1, beta2, 1 - beta2, epsilon
_EXP_MIN, _EXP_MAX = F(-52.0), F(44.0)
_NO_LOW, _NO_HIGH = F(-3e38), F(3e38)


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
    """v = K'(rho) / rho of a prior (`PRIORS`: 0 log-uniform, fit; 1 log-uniform, exact; 2 ARD)."""
    if prior == U(0):
        c = min(s, F(1e5))  # beyond, the sigmoid's term is below 5e-7 of the whole
        p = F(math.exp((K3 - ONE) * F(math.log(max(c, S_MIN)))))
        t1 = ONE + E_K2 * c * p
        return (t1 * t1 + SLOPE_FACTOR * p * (ONE + c)) / ((ONE + s) * (t1 * t1))
    if prior == U(1):
        return (ONE if s > FAR else polynomial(min(s, FAR), P)) / denominator(s)
    return ONE / (ONE + s)


@device
def value(prior, s):
    """KL of a weight in nats, up to s = 1e24."""
    if prior == U(0):
        t = E_K2 * F(math.exp(K3 * F(math.log(max(s, S_MIN)))))
        sigmoid = K1 * (t / (ONE + t)) if s > F(1e-20) else ZERO
        return HALF * F(math.log1p(s)) + sigmoid
    if prior == U(1):
        if s < F(0.05):
            return s * (HALF + s * (F(-0.0833333333) + s * F(0.0111111111)))
        c = min(s, FAR)
        r = R_FAR_1 * s - R_FAR_0 if s > FAR else c * polynomial(c, R)
        return HALF * F(math.log(ONE + s * F(0.15384616))) + r / denominator(s)
    return HALF * F(math.log1p(s))


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
    v = slope(prior, s)
    data = d_theta if s >= keep else ZERO  # a mean that `keep` took out of the forward pass has no data gradient
    if s >= S_MAX:
        kl_theta = ONE / theta  # of every prior, beyond the cap
        data = d_theta
    else:
        kl_theta = v * (theta * (inverse * UP)) * (inverse / UP)  # up and down: no subnormal on the way
    return data + kl_scale * kl_theta, sigma * sigma * d_sigma2 - kl_scale * (HALF * s * v)


@device
def adam(at, gradient, params, m, v, dials, row, low, high):
    """One number's Adam step (Kingma & Ba 2015, algorithm 1), clamped to [low, high]."""
    rate, correction2 = dials[row + U(1)], dials[row + U(2)]
    beta1, rest1, beta2, rest2 = dials[row + U(3)], dials[row + U(4)], dials[row + U(5)], dials[row + U(6)]
    epsilon = dials[row + U(7)]
    g = min(max(gradient, -LARGE_GRADIENT), LARGE_GRADIENT)  # its square must stay finite
    g = g if abs(g) > SMALL_GRADIENT else ZERO
    m1 = beta1 * m[at] + rest1 * g
    v1 = beta2 * v[at] + rest2 * (g * g)
    m1 = m1 if abs(m1) > SMALL_M else ZERO
    v1 = v1 if v1 > SMALL_V else ZERO
    m[at] = m1
    v[at] = v1
    x = min(max(params[at] - rate * m1 / (F(math.sqrt(v1 * correction2)) + epsilon), low), high)
    params[at] = x if abs(x) > SMALL_X else ZERO


@kernel("uuFFFFuuFST")
def adam_sweep(n_weights, n_plain, params, grads, m, v, prior, fixed, kl_scales, dials, clock):
    """One optimisation step over the arena [theta | log_sigma2 | rest]; one thread a weight, then one a plain number.

    fixed : 1 in the fine-tuning stage: a weight whose theta is 0 stays as it is
    kl_scales, dials, clock : tables of settings, and the row that counts now
    """
    kl_scale, row = kl_scales[clock[0]], clock[0] * U(DIALS)
    keep = dials[row]
    for i in range(U(cuda.grid(1)), n_weights + n_plain, U(cuda.gridsize(1))):
        at = U(i)
        if at < n_weights:
            theta, behind = params[at], at + n_weights
            d_theta, d_log_sigma2 = loss_gradient(
                theta, params[behind], grads[at], grads[behind], prior, kl_scale, keep
            )
            if fixed == U(1) and theta == ZERO:
                d_theta, d_log_sigma2 = ZERO, ZERO
            adam(behind, d_log_sigma2, params, m, v, dials, row, low, high)
            adam(at, d_theta, params, m, v, dials, row, _NO_LOW, _NO_HIGH)
        else:
            at += n_weights
            adam(at, grads[at], params, m, v, dials, row, _NO_LOW, _NO_HIGH)


@kernel("uFFuff")
def finish_gradients(n_weights, params, grads, prior, kl_scale, keep):
    """Turn the data gradients of the arena into gradients of the loss, in place; one thread a weight."""
    for i in range(U(cuda.grid(1)), n_weights, U(cuda.gridsize(1))):
        at, behind = U(i), U(i) + n_weights
        grads[at], grads[behind] = loss_gradient(
            params[at], params[behind], grads[at], grads[behind], prior, kl_scale, keep
        )


@kernel("uuFFuD")
def kl_parts(count, parts, theta, log_sigma2, prior, out):
    """Sums of the KL over every `parts`-th weight, in float64; one thread a part."""
    for i in range(U(cuda.grid(1)), parts, U(cuda.gridsize(1))):
        total = D(0)
        for j in range(U(i), count, parts):
            at = U(j)
            rho = theta[at] * deviation(log_sigma2[at])[1]
            nats = value(prior, min(rho * rho, S_MAX))
            if rho * rho > S_MAX:  # past the cap KL = ln rho + constant; ln rho without rho, which may overflow
                log_rho = F(math.log(max(abs(theta[at]), F(1e-30)))) - HALF * log_sigma2[at]
                nats += log_rho - LOG_RHO_MAX
            total += D(nats)
        out[U(i)] = total
