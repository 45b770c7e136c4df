"""Gate families: one distribution of random factors per file, and the table of them."""

from svd_numpy.network.gates.ard import Ard
from svd_numpy.network.gates.family import FAMILIES, Family, Knob, add_family, make_family
from svd_numpy.network.gates.half_cauchy import HalfCauchy
from svd_numpy.network.gates.half_cauchy_bound import HalfCauchyBound
from svd_numpy.network.gates.hard_concrete import HardConcrete
from svd_numpy.network.gates.normal_jeffreys import NormalJeffreys
from svd_numpy.network.gates.truncated_log_normal import TruncatedLogNormal

__all__ = [
    "FAMILIES", "Ard", "Family", "HalfCauchy", "HalfCauchyBound", "HardConcrete", "Knob", "NormalJeffreys",
    "TruncatedLogNormal", "add_family", "make_family",
]  # fmt: skip
