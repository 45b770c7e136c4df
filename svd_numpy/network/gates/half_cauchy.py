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


def _kl(m: Array, v: Array, scale: float) -> Array:
    """KL of each log-normal distribution from C+(0, scale), in nats."""
    nodes, weights = _quadrature()
    u = (m - math.log(scale))[:, None] + np.exp(v / 2)[:, None] * nodes
    return np.asarray(np.logaddexp(0, 2 * u) @ weights - (m - math.log(scale)) - v / 2 + _CONSTANT)


def _kl_gradients(m: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Derivatives of `_kl` with respect to m and v."""
    from scipy.special import expit

    nodes, weights = _quadrature()
    sigma = np.exp(v / 2)
    slope = expit(2 * ((m - math.log(scale))[:, None] + sigma[:, None] * nodes))
    return 2 * (slope @ weights) - 1, sigma * (slope @ (weights * nodes)) - 0.5


@add_family
@dataclass(frozen=True)
class HalfCauchy(Family):
    """See the module. Units are pruned where minus the logarithm of the mode of z is above the threshold.

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
        log_z = p["mean"] + np.exp(p["log_var"] / 2) * noise[:, :-1]
        log_z += p["layer_mean"] + np.exp(p["layer_log_var"] / 2) * noise[:, -1:]
        z = np.exp(np.clip(log_z, LOW, HIGH))
        return z, (noise, np.where((log_z > LOW) & (log_z < HIGH), z, 0))

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

    def kl(self, p: Numbers) -> float:
        """See `Family.kl`."""
        layer = _kl(p["layer_mean"], p["layer_log_var"], self.scale)
        return float(_kl(p["mean"], p["log_var"], 1.0).sum() + layer.sum())

    def kl_gradients(self, p: Numbers) -> dict[str, Array]:
        """See `Family.kl_gradients`."""
        of_units = _kl_gradients(p["mean"], p["log_var"], 1.0)
        of_layer = _kl_gradients(p["layer_mean"], p["layer_log_var"], self.scale)
        return dict(zip(("mean", "log_var", "layer_mean", "layer_log_var"), (*of_units, *of_layer), strict=True))

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
        return np.asarray(np.exp(p["log_var"]) + np.exp(p["layer_log_var"]) - p["mean"] - p["layer_mean"])
