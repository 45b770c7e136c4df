"""The methods of `train_mnist` and `train_cifar`: Sparse VD, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from svd_numpy.checks import SvdValueError, check_choice
from svd_numpy.experiments import baselines, gated
from svd_numpy.experiments.recipes import Recipe


def as_it_is(plan: Recipe) -> Recipe:
    """Leave a recipe unchanged."""
    return plan


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to make a network small.

    Attributes
    ----------
    title : str
        Its name in tables.
    source : str
        Where the method and its numbers come from.
    adapt : function Recipe -> Recipe
        Changes the recipe of Sparse VD for the same architecture.
    kind : str
        Kind of its layers, a key of `architectures.KINDS`: weights of another kind than "variational" have no KL.
    gated : bool
        Whether there are gates, which have a KL even if the weights have none.
    """

    title: str
    source: str
    adapt: Callable[[Recipe], Recipe] = as_it_is
    kind: str = "variational"
    gated: bool = False


DEFAULT = "sparse-vd"
METHODS = {
    DEFAULT: Method(title="Sparse VD", source="Molchanov, Ashukha, Vetrov 2017"),
    "dense": Method(
        title="Dense network", source="ordinary weights, none pruned", adapt=baselines.ordinary, kind="dense"
    ),
    "dropout": Method(
        title="Bernoulli dropout", source="Srivastava et al. 2014", adapt=baselines.ordinary, kind="dropout"
    ),
    "gaussian-dropout": Method(
        title="Gaussian dropout",
        source="Srivastava et al. 2014, section 10",
        adapt=baselines.ordinary,
        kind="gaussian-dropout",
    ),
    "magnitude": Method(title="Magnitude pruning", source="Han et al. 2015", adapt=baselines.magnitude, kind="dense"),
    "magnitude-rewind": Method(
        title="Magnitude pruning, learning rate rewound",
        source="Renda, Frankle, Carbin 2020",
        adapt=baselines.magnitude_rewind,
        kind="dense",
    ),
    "gradual-magnitude": Method(
        title="Gradual magnitude pruning", source="Zhu & Gupta 2017", adapt=baselines.gradual_magnitude, kind="dense"
    ),
    "ivon": Method(
        title="Variational online Newton (IVON)", source="Shen et al. 2024", adapt=baselines.ivon, kind="dense"
    ),
    "surgery": Method(
        title="Dynamic network surgery", source="Guo, Yao, Chen 2016", adapt=baselines.surgery, kind="dense"
    ),
    "weight-sharing": Method(
        title="Soft weight-sharing",
        source="Ullrich, Meeds, Welling 2017",
        adapt=baselines.weight_sharing,
        kind="dense",
    ),
    "bc-gnj": Method(
        title="Bayesian compression, normal-Jeffreys",
        source="Louizos, Ullrich, Welling 2017; 200 epochs, the KL rises to three times over 100, gates at ten times "
        "the rate",
        adapt=gated.compression,
        gated=True,
    ),
    "bc-ghs": Method(
        title="Bayesian compression, half-Cauchy",
        source="Louizos, Ullrich, Welling 2017, with a tighter KL (`network.gates.half_cauchy`) that rises to four "
        "times; else as bc-gnj",
        adapt=gated.half_cauchy,
        gated=True,
    ),
    "sbp": Method(
        title="Structured Bayesian pruning",
        source="Neklyudov, Molchanov, Ashukha, Vetrov 2017 and their script: Adam with beta1 .95, gates at ten times "
        "the rate, no ramp; here the weights learn without KL for 50 epochs instead of coming from another run",
        adapt=gated.structured,
        kind="dense",
        gated=True,
    ),
    "l0": Method(
        title="L0 regularisation",
        source="Louizos, Welling, Kingma 2018: lambda .1, here times 8, gates .8 open on inputs and .5 elsewhere, "
        "200 epochs",
        adapt=gated.l0,
        kind="dense",
        gated=True,
    ),
    "vib": Method(
        title="Information bottleneck",
        source="Dai, Zhu, Guo, Wipf 2018 (VIBNet), for its KL; the schedule is ours",
        adapt=gated.bottleneck,
        kind="dense",
        gated=True,
    ),
}


def get_method(name: Any, kind: str = "variational") -> Method:
    """Look up a method by name; the error for an unknown name lists the known ones.

    Only the default method has networks of several kinds.
    """
    method = METHODS[check_choice("method", name, tuple(METHODS))]
    if name != DEFAULT and kind != "variational":
        raise SvdValueError(f"kind: got {kind!r} with method {name!r}, which has networks of its own; leave it out")
    return method
