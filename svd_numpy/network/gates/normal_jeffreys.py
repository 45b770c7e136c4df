"""Normal-Jeffreys gates: z ~ N(mean, exp(log_var)), with a prior proportional to 1 / |z|.

Louizos, Ullrich, Welling 2017, "Bayesian compression for deep learning", §4.1: with weights w = z w~ and a prior
N(0, 1) on w~, a group of weights shares one z. The KL of z is that of a weight with a log-uniform prior, a function of
rho = |mean| exp(-log_var / 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_numpy.kernels.priors import log_alpha
from svd_numpy.network.gates.family import Array, Family, Knob, Numbers, add_family, column_sums


@add_family
@dataclass(frozen=True)
class NormalJeffreys(Family):
    """See the module. Units are pruned where log alpha = log_var - log(mean^2) is above the threshold."""

    name: ClassVar[str] = "normal-jeffreys"
    reference: ClassVar[str] = "Louizos, Ullrich, Welling 2017, §4.1"
    thresholds: ClassVar[Mapping[str, float]] = {"log-alpha": 0.0}
    prior: ClassVar[str] = "log_uniform_exact"

    def knobs(self) -> dict[str, Knob]:
        """See `Family.knobs`."""
        return {"mean": Knob(1, -100, 100), "log_var": Knob(-9, -20, 10)}

    def sample(self, p: Numbers, noise: Array) -> tuple[Array, Array]:
        """See `Family.sample`: z = mean + exp(log_var / 2) noise."""
        mean, std = (array.astype(noise.dtype) for array in (p["mean"], np.exp(p["log_var"] / 2)))
        z = std * noise
        z += mean
        return z, noise

    def pull(self, p: Numbers, tape: Array, d_z: Array) -> dict[str, Array]:
        """See `Family.pull`."""
        of_noise = column_sums(d_z, tape)
        return {"mean": d_z.sum(axis=0), "log_var": np.exp(p["log_var"] / 2) / 2 * of_noise}

    def test(self, p: Numbers) -> Array:
        """See `Family.test`: E z = mean."""
        return p["mean"]

    def variance(self, p: Numbers) -> Array:
        """See `Family.variance`."""
        return np.asarray(np.exp(p["log_var"]))

    def score(self, p: Numbers, name: str) -> Array:
        """See `Family.score`."""
        return log_alpha(p["mean"], p["log_var"])
