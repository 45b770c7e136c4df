"""ARD gates: z ~ N(mean, exp(log_var)), each with a prior N(0, its best variance).

That is the information bottleneck of Dai, Zhu, Guo, Wipf 2018, "Compressing neural networks using the variational
information bottleneck" (VIBNet), and the prior of Kharitonov, Molchanov, Vetrov 2018: KL = log(1 + rho^2) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from svd_numpy.network.gates.family import add_family
from svd_numpy.network.gates.normal_jeffreys import NormalJeffreys


@add_family
@dataclass(frozen=True)
class Ard(NormalJeffreys):
    """See the module; all but the KL is that of normal-Jeffreys gates."""

    name: ClassVar[str] = "ard"
    reference: ClassVar[str] = "Dai, Zhu, Guo, Wipf 2018 (VIBNet)"
    prior: ClassVar[str] = "ard"
