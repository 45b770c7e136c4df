"""Half-Cauchy gates: log z normal, for each unit and once more for the layer, both with half-Cauchy priors.

Louizos, Ullrich, Welling 2017, §4.2 (the group horseshoe): z = s z~ with s ~ C+(0, scale) for the layer and
z~ ~ C+(0, 1) for each unit. They bound the KL by way of two gamma distributions. Here it is the KL of a log-normal
distribution from the half-Cauchy one itself, which has two parameters instead of four and is tighter. With
q(log z) = N(m, e^v), sigma = e^(v/2), u = m - log k + sigma noise and S the logistic function,

    KL = E softplus(2u) - (m - log k) - v / 2 + log(pi / (8 e)) / 2
    dKL/dm = 2 E S(2u) - 1            dKL/dv = sigma E[noise S(2u)] - 1 / 2

with expectations by Gauss-Hermite quadrature. Nothing overflows but z itself, whose logarithm is therefore clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from svd_numpy.network.gates.family import Array, Family, Knob, Numbers, add_family, column_sums

LOW, HIGH = -60.0, 20.0  # log z is clipped to these: several gates in a row must not overflow
_CONSTANT = 0.5 * math.log(math.pi / (8 * math.e))
_NODES = 32  # their error is below 5e-4 nats up to sigma = 2.5


@cache
def _quadrature() -> tuple[Array, Array]:
    """Nodes and weights for expectations over a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return nodes, weights / math.sqrt(2 * math.pi)


def _points(m: Array, v: Array, log_scale: Array) -> tuple[Array, Array]:
    """The u of every distribution at every node, and the sigma of each."""
    sigma = np.exp(v / 2)
    return (m - log_scale)[:, None] + sigma[:, None] * _quadrature()[0].astype(m.dtype), sigma


def _kl(m: Array, v: Array, log_scale: Array) -> Array:
    """KL of each log-normal distribution from the half-Cauchy one of its scale, in nats."""
    u, _ = _points(m, v, log_scale)
    return np.asarray(np.logaddexp(0, 2 * u) @ _quadrature()[1] - (m - log_scale) - v / 2 + _CONSTANT)


def _kl_gradients(m: Array, v: Array, log_scale: Array) -> tuple[Array, Array]:
    """Derivatives of `_kl` with respect to m and v; tanh u is 2 S(2u) - 1, and faster."""
    nodes, weights = (numbers.astype(m.dtype) for numbers in _quadrature())
    u, sigma = _points(m, v, log_scale)
    slope = np.tanh(u)
    return slope @ weights, sigma / 2 * (slope @ (weights * nodes)) - 0.5


@add_family
@dataclass(frozen=True)
class HalfCauchy(Family):
    """See the module. Units are pruned where minus the logarithm of the mode of z~ is above the threshold.

    That of z itself would add the layer's factor, which is the same for all units: it falls as long as training lasts,
    the weights behind grow as it does, and so it says nothing about who can go. A unit without use ends at the least
    KL, which is a score of 2.13.

    Attributes
    ----------
    scale : float
        That of the prior of the layer's factor.
    """

    name: ClassVar[str] = "half-cauchy"
    reference: ClassVar[str] = "Louizos, Ullrich, Welling 2017, §4.2"
    thresholds: ClassVar[Mapping[str, float]] = {"log-mode": 1.3}
    shared_noise: ClassVar[int] = 1

    scale: float = 1e-5

    def knobs(self) -> dict[str, Knob]:
        """See `Family.knobs`; the last two are those of the layer's factor."""
        mean, log_var = Knob(0, -30, 10), Knob(-9, -20, 4)
        layer = {"layer_mean": mean._replace(shared=True), "layer_log_var": log_var._replace(shared=True)}
        return {"mean": mean, "log_var": log_var, **layer}

    def sample(self, p: Numbers, noise: Array) -> tuple[Array, tuple[Array, Array]]:
        """See `Family.sample`: the logarithms of both factors are added."""
        p = {name: array.astype(noise.dtype) for name, array in p.items()}
        log_z = noise[:, :-1] * np.exp(p["log_var"] / 2)
        log_z += noise[:, -1:] * np.exp(p["layer_log_var"] / 2) + p["layer_mean"]
        log_z += p["mean"]
        inside = log_z.min(initial=0) > LOW and log_z.max(initial=0) < HIGH  # as nearly always
        z = np.exp(log_z if inside else np.clip(log_z, LOW, HIGH))
        return z, (noise, z if inside else np.where((log_z > LOW) & (log_z < HIGH), z, 0))

    def pull(self, p: Numbers, tape: tuple[Array, Array], d_z: Array) -> dict[str, Array]:
        """See `Family.pull`."""
        noise, slope = tape
        d_log_z = d_z * slope
        of_rows = d_log_z.sum(axis=1)
        return {
            "mean": d_log_z.sum(axis=0),
            "log_var": np.exp(p["log_var"] / 2) / 2 * column_sums(d_log_z, noise[:, :-1]),
            "layer_mean": of_rows.sum(keepdims=True),
            "layer_log_var": np.exp(p["layer_log_var"] / 2) / 2 * (of_rows @ noise[:, -1]),
        }

    def _all(self, p: Numbers) -> tuple[Array, Array, Array]:
        """Means, log variances and logarithms of the priors' scales, of the units and, last, of the layer."""
        log_scale = np.zeros(len(p["mean"]) + 1, p["mean"].dtype)
        log_scale[-1] = math.log(self.scale)
        joined = (np.concatenate([p[name], p[f"layer_{name}"]]) for name in ("mean", "log_var"))
        return *joined, log_scale  # type: ignore[return-value]

    def kl(self, p: Numbers) -> float:
        """See `Family.kl`."""
        return float(_kl(*self._all(p)).sum())

    def kl_gradients(self, p: Numbers) -> dict[str, Array]:
        """See `Family.kl_gradients`."""
        d_mean, d_log_var = _kl_gradients(*self._all(p))
        units = {"mean": d_mean[:-1], "log_var": d_log_var[:-1]}
        return units | {"layer_mean": d_mean[-1:], "layer_log_var": d_log_var[-1:]}

    def test(self, p: Numbers) -> Array:
        """See `Family.test`: E z."""
        log_mean = p["mean"] + np.exp(p["log_var"]) / 2 + p["layer_mean"] + np.exp(p["layer_log_var"]) / 2
        return np.asarray(np.exp(np.clip(log_mean, LOW, HIGH)))

    def variance(self, p: Numbers) -> Array:
        """See `Family.variance`: (e^v - 1) E z^2, v the variance of log z."""
        spread = np.exp(p["log_var"]) + np.exp(p["layer_log_var"])
        return np.asarray(np.expm1(np.minimum(spread, HIGH)) * self.test(p) ** 2)

    def score(self, p: Numbers, name: str) -> Array:
        """See `Family.score`."""
        return np.asarray(np.exp(p["log_var"]) - p["mean"])
