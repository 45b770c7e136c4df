"""Truncated log-normal gates: log z is normal, cut to [-20, 0], with a uniform prior there; all z are in (0, 1].

Neklyudov, Molchanov, Ashukha, Vetrov 2017, "Structured Bayesian pruning via log-normal multiplicative noise". With
mean mu and deviation sigma = e^l before the cut, A = phi(alpha) / Z and Q = phi(beta) / Z at its ends, log Z = L and
T = alpha A - beta Q (alpha and beta are the ends in units of sigma, phi and Phi the standard normal density and
distribution),

    KL = log 20 - l - L - log(2 pi e) / 2 - T / 2
    log E z^n = n mu + n^2 sigma^2 / 2 + log(Phi(beta - n sigma) - Phi(alpha - n sigma)) - L

The authors let mu leave the interval, where these differences lose all digits; here mu stays in it, and logarithms are
never taken of a difference of numbers near each other. Gradients through a sample are implicit: they need no derivative
of the inverse of Phi.

Scores: "snr" is -log(E z / std z). A unit without use ends at E z / std z = 1/3, one with use above 1, so the gap
around 0 is wide. "bmrs" and "bmrs-uniform" (Wright, Igel, Selvan 2024, "BMRS: Bayesian model reduction for structured
pruning") are the logarithm of the evidence for the network without the unit, divided by that with it: for z = e^-20,
and for z spread over [2^-23, 2^-8]. The former tends to 0 from below for a unit that equals its prior, which is why its
threshold is not 0 but -1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_numpy.network.gates.family import Array, Family, Knob, Numbers, add_family

A, B = -20.0, 0.0  # the interval of log z
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_NOISE_MAX = 5.998  # uniforms from 1e-9 to 1 - 1e-9
_SMALL = -23 * math.log(2), -8 * math.log(2)  # of "bmrs-uniform"


def log_between(low: Array, high: Array) -> Array:
    """log(Phi(high) - Phi(low)) for low < high, from whichever tail keeps the digits."""
    from scipy.special import log_ndtr, ndtr

    flip = low > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    left = high < 0
    lower, upper = log_ndtr(np.where(left, low, -2.0)), log_ndtr(np.where(left, high, -1.0))
    tails = np.where(left, 0.0, ndtr(low) + ndtr(-high))
    return np.where(left, upper + np.log1p(-np.exp(lower - upper)), np.log1p(-tails))


class _Cut:
    """The cut distribution of each gate: the numbers of the module's text."""

    def __init__(self, p: Numbers) -> None:
        from scipy.special import ndtr

        self.mu, self.log_std = (p[own].astype(np.float64) for own in ("mean", "log_std"))
        self.sigma = np.exp(self.log_std)
        self.alpha, self.beta = (A - self.mu) / self.sigma, (B - self.mu) / self.sigma
        self.below, self.above = (
            ndtr(self.alpha),
            ndtr(-self.beta),
        )  # what is cut off: at most 1/2 each, as A <= mu <= B
        self.log_z = np.log1p(-(self.below + self.above))
        self.a, self.q = (np.exp(-(end**2) / 2 - _HALF_LOG_2PI - self.log_z) for end in (self.alpha, self.beta))
        self.t = self.alpha * self.a - self.beta * self.q

    def log_moment(self, n: int) -> Array:
        """log E z^n."""
        shift = n * self.sigma
        tilted = log_between(self.alpha - shift, self.beta - shift)
        return np.asarray(n * self.mu + shift**2 / 2 + tilted - self.log_z)

    def log_noise_to_signal(self) -> Array:
        """log(std z / E z)."""
        spread = np.maximum(1 + self.t - (self.a - self.q) ** 2, 1e-12)  # variance of log z / sigma^2
        ratio = np.expm1(np.maximum(self.log_moment(2) - 2 * self.log_moment(1), 1e-12))
        return np.asarray(np.where(self.sigma < 1e-4, self.log_std + np.log(spread) / 2, np.log(ratio) / 2))


@add_family
@dataclass(frozen=True)
class TruncatedLogNormal(Family):
    """See the module."""

    name: ClassVar[str] = "truncated-log-normal"
    reference: ClassVar[str] = "Neklyudov, Molchanov, Ashukha, Vetrov 2017"
    thresholds: ClassVar[Mapping[str, float]] = {"snr": 0.0, "bmrs": -1.0, "bmrs-uniform": 0.0}

    def knobs(self) -> dict[str, Knob]:
        """See `Family.knobs`."""
        return {"mean": Knob(0, A, B), "log_std": Knob(-5, -10, 5)}

    def sample(self, p: Numbers, noise: Array) -> tuple[Array, tuple[Array, Array]]:
        """See `Family.sample`: the quantiles of uniform numbers."""
        from scipy.special import ndtr, ndtri

        n, cut = np.clip(noise.astype(np.float64), -_NOISE_MAX, _NOISE_MAX), _Cut(p)
        u, rest = ndtr(n), ndtr(-n)
        # Both tails of the quantile, none of them below 5e-10: the smaller one keeps its digits.
        left = rest * cut.below + u * (1 - cut.above)
        right = rest * (1 - cut.below) + u * cut.above
        at = np.copysign(ndtri(np.minimum(left, right)), left - right)
        at = np.clip(at, cut.alpha, cut.beta)
        half = at * at / 2  # at most 20, as |at| is at most 6.2
        w_a = np.minimum(rest * np.exp(half - cut.alpha * cut.alpha / 2), 1)
        w_b = np.minimum(u * np.exp(half - cut.beta * cut.beta / 2), 1)
        z = np.exp(cut.mu + cut.sigma * at)
        return z, (z * (1 - w_a - w_b), z * cut.sigma * (at - cut.alpha * w_a - cut.beta * w_b))

    def pull(self, p: Numbers, tape: tuple[Array, Array], d_z: Array) -> dict[str, Array]:
        """See `Family.pull`."""
        return {"mean": (d_z * tape[0]).sum(axis=0), "log_std": (d_z * tape[1]).sum(axis=0)}

    def kl(self, p: Numbers) -> float:
        """See `Family.kl`."""
        cut = _Cut(p)
        return float((math.log(B - A) - cut.log_std - cut.log_z - _HALF_LOG_2PI - 0.5 - cut.t / 2).sum())

    def kl_gradients(self, p: Numbers) -> dict[str, Array]:
        """See `Family.kl_gradients`."""
        cut = _Cut(p)
        g_a, g_b = cut.a * (1 + cut.alpha**2 - cut.t), cut.q * (1 + cut.beta**2 - cut.t)
        return {"mean": (g_b - g_a) / (2 * cut.sigma), "log_std": -1 + (cut.beta * g_b - cut.alpha * g_a) / 2}

    def test(self, p: Numbers) -> Array:
        """See `Family.test`: E z."""
        return np.asarray(np.exp(_Cut(p).log_moment(1)))

    def score(self, p: Numbers, name: str) -> Array:
        """See `Family.score`."""
        cut = _Cut(p)
        if name == "snr":
            return cut.log_noise_to_signal()
        if name == "bmrs":
            return np.asarray(math.log(B - A) - _HALF_LOG_2PI - cut.log_std - cut.alpha**2 / 2 - cut.log_z)
        low, high = ((end - cut.mu) / cut.sigma for end in _SMALL)
        inside = np.maximum(log_between(low, high), -1e6)
        return np.asarray(inside - cut.log_z + math.log((B - A) / (_SMALL[1] - _SMALL[0])))
