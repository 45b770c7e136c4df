"""Half-Cauchy gates with the KL of their authors, a bound: every half-Cauchy factor is the root of a product of two.

Louizos, Ullrich, Welling 2017, §4.2: if a ~ G(1/2, scale k^2) and b ~ IG(1/2, 1), then sqrt(a b) ~ C+(0, k). Both have
log-normal posteriors, q(log a) = N(mu, e^ls), and the KL is the sum of

    KL(a) = e^(mu + e^ls / 2) / k^2 + log(k^2) / 2 - (mu + ls + 1 + log 2) / 2
    dKL/dmu = e^(...) / k^2 - 1/2         dKL/dls = e^ls / 2 * e^(...) / k^2 - 1/2

and, for b, the same with k = 1 and -mu for mu. Only the sum of log a and log b acts on the network, so four numbers do
the work of two, and their KL bounds that of `half_cauchy` from above: at best it is 0.307 nats per unit, there 0.021;
where log z has a standard deviation of 0.1, it is 1.9 nats more. To train with, take `half_cauchy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_numpy.network.gates.family import Array, Family, Knob, Numbers, add_family
from svd_numpy.network.gates.half_cauchy import HalfCauchy

_PARTS = (("", 0.0), ("layer_", 1.0))  # of the names; whether the prior has a scale
_ROOT = HalfCauchy()  # for all but the KL; its scale takes no part in that
_LOW, _HIGH = -20.0, 2.0  # of ls: e^(e^ls / 2) must stay small


def _roots(p: Numbers) -> dict[str, Array]:
    """The parameters of `HalfCauchy`: mean and log variance of log sqrt(a b)."""
    found = dict[str, Array]()
    for part, _ in _PARTS:
        found[f"{part}mean"] = (p[f"{part}mean_a"] + p[f"{part}mean_b"]) / 2
        found[f"{part}log_var"] = np.logaddexp(p[f"{part}log_var_a"], p[f"{part}log_var_b"]) - math.log(4)
    return found


def _kl(mu: Array, ls: Array, log_k2: float) -> Array:
    """KL of each log-normal distribution from G(1/2, k^2), in nats."""
    return np.asarray(np.exp(mu + np.exp(ls) / 2 - log_k2) + (log_k2 - mu - ls - 1 - math.log(2)) / 2)


def _kl_gradients(mu: Array, ls: Array, log_k2: float) -> tuple[Array, Array]:
    """Derivatives of `_kl` with respect to mu and ls."""
    pull = np.exp(mu + np.exp(ls) / 2 - log_k2)
    return pull - 0.5, np.exp(ls) / 2 * pull - 0.5


@add_family
@dataclass(frozen=True)
class HalfCauchyBound(Family):
    """See the module; factors and scores are those of `HalfCauchy`.

    Attributes
    ----------
    scale : float
        That of the prior of the layer's factor.
    """

    name: ClassVar[str] = "half-cauchy-bound"
    reference: ClassVar[str] = "Louizos, Ullrich, Welling 2017, §4.2"
    thresholds: ClassVar[Mapping[str, float]] = HalfCauchy.thresholds
    shared_noise: ClassVar[int] = HalfCauchy.shared_noise

    scale: float = 1e-5

    def knobs(self) -> dict[str, Knob]:
        """See `Family.knobs`: a and b start at their prior's scale and its inverse, so that z starts at 1."""
        found = dict[str, Knob]()
        for part, scaled in _PARTS:
            log_k2, shared = scaled * 2 * math.log(self.scale), bool(scaled)
            found[f"{part}mean_a"] = Knob(log_k2, log_k2 - 20, log_k2 + 10, shared)
            found[f"{part}mean_b"] = Knob(-log_k2, -log_k2 - 10, -log_k2 + 20, shared)
            found |= {f"{part}log_var_{factor}": Knob(-9, _LOW, _HIGH, shared) for factor in "ab"}
        return found

    def sample(self, p: Numbers, noise: Array) -> tuple[Array, tuple[Array, Array]]:
        """See `Family.sample`."""
        return _ROOT.sample(_roots(p), noise)

    def pull(self, p: Numbers, tape: tuple[Array, Array], d_z: Array) -> dict[str, Array]:
        """See `Family.pull`: the chain rule through the roots."""
        own, found = _ROOT.pull(_roots(p), tape, d_z), dict[str, Array]()
        for part, _ in _PARTS:
            ls_a, ls_b = p[f"{part}log_var_a"], p[f"{part}log_var_b"]
            share = np.exp(ls_a - np.logaddexp(ls_a, ls_b))  # of a in the variance
            found |= {f"{part}mean_{factor}": own[f"{part}mean"] / 2 for factor in "ab"}
            found[f"{part}log_var_a"] = own[f"{part}log_var"] * share
            found[f"{part}log_var_b"] = own[f"{part}log_var"] * (1 - share)
        return found

    def kl(self, p: Numbers) -> float:
        """See `Family.kl`: the bound."""
        total = 0.0
        for part, scaled in _PARTS:
            total += float(_kl(p[f"{part}mean_a"], p[f"{part}log_var_a"], scaled * 2 * math.log(self.scale)).sum())
            total += float(_kl(-p[f"{part}mean_b"], p[f"{part}log_var_b"], 0.0).sum())
        return total

    def kl_gradients(self, p: Numbers) -> dict[str, Array]:
        """See `Family.kl_gradients`."""
        found = dict[str, Array]()
        for part, scaled in _PARTS:
            a = _kl_gradients(p[f"{part}mean_a"], p[f"{part}log_var_a"], scaled * 2 * math.log(self.scale))
            b = _kl_gradients(-p[f"{part}mean_b"], p[f"{part}log_var_b"], 0.0)
            found |= {f"{part}mean_a": a[0], f"{part}log_var_a": a[1]}
            found |= {f"{part}mean_b": -b[0], f"{part}log_var_b": b[1]}
        return found

    def test(self, p: Numbers) -> Array:
        """See `Family.test`."""
        return _ROOT.test(_roots(p))

    def variance(self, p: Numbers) -> Array:
        """See `Family.variance`."""
        return _ROOT.variance(_roots(p))

    def score(self, p: Numbers, name: str) -> Array:
        """See `Family.score`."""
        return _ROOT.score(_roots(p), name)
