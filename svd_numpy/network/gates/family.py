"""What a gate family is: a distribution of random factors z, its KL, and a rule by which a unit is pruned.

A `layers.gate.Gate` multiplies every unit by such a factor. All that concerns a gate and not an activation is computed
here, in float64 and on the host: there are hundreds or thousands of gates, but millions of activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdTypeError, SvdValueError, check_choice, check_number
from svd_numpy.kernels.priors import get_prior

Array = NDArray[Any]
Numbers = Mapping[str, Array]  # parameters by name, in float64: (U,), or (1,) if they are shared


class Knob(NamedTuple):
    """A parameter of a gate.

    Attributes
    ----------
    start, low, high : float
        Initial value and bounds; every function of a family is finite within them. A mean of a family with a `prior` is
        free, as that of a weight is.
    shared : bool
        Whether the whole layer has one number, instead of one for each unit.
    """

    start: float
    low: float
    high: float
    shared: bool = False


@dataclass(frozen=True)
class Family:
    """Base class. A family is a frozen dataclass; its fields are numbers, the options that a `Gate` passes on.

    Attributes
    ----------
    name, reference : str
        Its name in `FAMILIES`, and where its formulas come from.
    thresholds : mapping of score name -> float
        The scores by which units can be pruned, with the threshold of each; the first is the default.
    prior : str
        If given, factors are Gaussians N(mean, exp(log_var)), with these two parameters, and this prior, a name in
        `svd_numpy.kernels.priors.PRIORS`: unless the family has a `kl` of its own, its KL is that of a weight, and the
        pass over all parameters takes care of it.
    shared_noise : int
        How many numbers of noise a row has beside one for each unit.
    lr_factor : float
        Factor on the learning rate: Adam moves a parameter by at most about the learning rate a step, and gates have
        a long way to go.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    thresholds: ClassVar[Mapping[str, float]]
    prior: ClassVar[str] = ""
    shared_noise: ClassVar[int] = 0
    lr_factor: ClassVar[float] = 10.0

    def knobs(self) -> dict[str, Knob]:
        """Parameters by name."""
        raise NotImplementedError

    def sample(self, p: Numbers, noise: Array) -> tuple[Array, Any]:
        """Factors z (rows, U) from standard normal noise (rows, U + shared_noise), and what `pull` needs."""
        raise NotImplementedError

    def pull(self, p: Numbers, tape: Any, d_z: Array) -> dict[str, Array]:
        """Gradients of the parameters through `sample`, given those of the factors (rows, U)."""
        raise NotImplementedError

    def kl(self, p: Numbers) -> float:
        """KL of all gates of a layer, in nats."""
        return float(get_prior(self.prior).kl(p["mean"], p["log_var"]).sum())

    def kl_gradients(self, p: Numbers) -> dict[str, Array]:
        """Gradients of `kl`; here the parameters come in the dtype of the network, which is faster if it is float32."""
        return dict(zip(("mean", "log_var"), get_prior(self.prior).gradients(p["mean"], p["log_var"]), strict=True))

    def test(self, p: Numbers) -> Array:
        """The factors (U,) of the network that is tested: E z, or what stands for it."""
        raise NotImplementedError

    def variance(self, p: Numbers) -> Array:
        """Variance (U,) of z, for the precision of weights behind a gate; 0 where weights are no Gaussians anyway."""
        return np.zeros(len(self.test(p)))

    def score(self, p: Numbers, name: str) -> Array:
        """Score (U,) of each unit, finite; it is pruned where this is above the threshold."""
        raise NotImplementedError


FAMILIES: dict[str, type[Family]] = {}
_OWN = __name__.rpartition(".")[0] + "."


def add_family(family: type[Family]) -> type[Family]:
    """Register a family, so that a `Gate` can choose it by name; usable as a decorator.

    Raises
    ------
    SvdValueError
        If the name belongs to a family of this package.
    """
    known = FAMILIES.get(family.name)
    if known is not None and known.__module__.startswith(_OWN) and known.__module__ != family.__module__:
        raise SvdValueError(f"family: the name {family.name!r} is taken by {known.__name__}; choose another")
    FAMILIES[family.name] = family
    return family


def make_family(name: str, options: Mapping[str, Any]) -> Family:
    """Make a family by name; raise if it has no such option, or an option is no finite number."""
    kind = FAMILIES[check_choice("family", name, tuple(FAMILIES))]
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(options) - set(known)):
        raise SvdTypeError(f"Gate: got {unknown}, but family {name!r} has the options {known}; correct or omit them")
    return kind(**{option: check_number(option, value, low=1e-30, high=1e30) for option, value in options.items()})


def column_sums(a: Array, b: Array) -> Array:
    """Sum of a * b over the rows, both (rows, U)."""
    return np.asarray(np.einsum("bu,bu->u", a, b), np.float64)
