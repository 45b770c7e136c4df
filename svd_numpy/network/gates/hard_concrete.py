"""Hard concrete gates: z is 0 or 1 with positive probability, so that the number of units can be penalised (L0).

Louizos, Welling, Kingma 2018, "Learning sparse neural networks through L0 regularization": with u uniform and S the
logistic function, q = S((logit u + a) / beta) and z = clip(1.2 q - 0.1, 0, 1), beta = 2/3. Their penalty is lambda
times the expected number of weights: for each gate, size * P(z > 0). It takes the place of a KL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_numpy.checks import check_number
from svd_numpy.network.gates.family import Array, Family, Knob, Numbers, add_family

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
_SHIFT = BETA * math.log(-LOW / HIGH)  # P(z > 0) = S(a - _SHIFT)
_NOISE_MAX = 4.753  # uniforms from 1e-6 to 1 - 1e-6


@add_family
@dataclass(frozen=True)
class HardConcrete(Family):
    """See the module. Units are pruned where the factor of the tested network is 0: where -a is at least log 11.

    Attributes
    ----------
    penalty : float
        Lambda, in nats for each weight.
    size : float
        Number of weights that hang on a gate.
    keep : float
        Probability, .01 to .99, with which a gate is open at the start: S(a).
    """

    name: ClassVar[str] = "hard-concrete"
    reference: ClassVar[str] = "Louizos, Welling, Kingma 2018"
    thresholds: ClassVar[Mapping[str, float]] = {"closed": math.log(-HIGH / LOW)}

    penalty: float = 0.1
    size: float = 1.0
    keep: float = 0.5

    def __post_init__(self) -> None:
        check_number("keep", self.keep, low=0.01, high=0.99)

    def knobs(self) -> dict[str, Knob]:
        """See `Family.knobs`."""
        reach = math.log(100)
        return {"logit": Knob(math.log(self.keep / (1 - self.keep)), -reach, reach)}

    def sample(self, p: Numbers, noise: Array) -> tuple[Array, Array]:
        """See `Family.sample`."""
        from scipy.special import expit, log_ndtr

        n = np.clip(noise.astype(np.float64), -_NOISE_MAX, _NOISE_MAX)
        q = expit((log_ndtr(n) - log_ndtr(-n) + p["logit"]) / BETA)
        stretched = (HIGH - LOW) * q + LOW
        inside = (stretched > 0) & (stretched < 1)
        return np.clip(stretched, 0, 1), np.where(inside, (HIGH - LOW) * q * (1 - q) / BETA, 0)

    def pull(self, p: Numbers, tape: Array, d_z: Array) -> dict[str, Array]:
        """See `Family.pull`."""
        return {"logit": (d_z * tape).sum(axis=0)}

    def kl(self, p: Numbers) -> float:
        """See `Family.kl`: the penalty."""
        from scipy.special import expit

        return float(self.penalty * self.size * expit(p["logit"] - _SHIFT).sum())

    def kl_gradients(self, p: Numbers) -> dict[str, Array]:
        """See `Family.kl_gradients`."""
        from scipy.special import expit

        open_ = expit(p["logit"] - _SHIFT)
        return {"logit": self.penalty * self.size * open_ * (1 - open_)}

    def test(self, p: Numbers) -> Array:
        """See `Family.test`: clip(1.2 S(a) - 0.1, 0, 1)."""
        from scipy.special import expit

        return np.asarray(np.clip((HIGH - LOW) * expit(p["logit"]) + LOW, 0, 1))

    def score(self, p: Numbers, name: str) -> Array:
        """See `Family.score`."""
        return -p["logit"]
