"""Pruning single weights by evidence instead of a threshold on log_alpha: the Savage-Dickey ratio.

A network without a weight is one with it at w = 0. The evidence for the former divided by that for the latter is the
density of the posterior at 0 over that of the prior (Dickey 1971; for neural networks Markovic, Friston, Kiebel 2023).
With a posterior N(theta, sigma^2) and a prior N(0, 1) its logarithm is -(log_sigma2 + theta^2 / sigma^2) / 2.
"""

from __future__ import annotations

import numpy as np

from svd_numpy.checks import SvdValueError, check_number, check_type
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential


def evidence_against(model: Sequential) -> dict[str, Array]:
    """Log evidence, in nats, for the network without each weight against that with it; positive: better without.

    Parameters
    ----------
    model : Sequential
        With layers whose prior is "normal".

    Returns
    -------
    dict of layer name -> array (I, O) in float64
        Of every layer whose weights have this prior.

    Raises
    ------
    SvdValueError
        If no layer has it; other priors here have no density at 0.
    """
    check_type("model", model, Sequential)
    normal = {segment.name for segment in model.arena.segments if segment.prior == "normal"}
    found = dict[str, Array]()
    for layer in model.variational_layers:
        if f"{layer.name}.theta" in normal:
            theta, log_sigma2 = layer.theta.astype(np.float64), layer.log_sigma2.astype(np.float64)
            found[layer.name] = -(log_sigma2 + theta * theta * np.exp(-log_sigma2)) / 2
    if not found:
        raise SvdValueError(
            f"evidence: got a network with prior {model.prior!r}, expected layers with prior 'normal', whose density "
            "at 0 is known"
        )
    return found


def prune_by_evidence(model: Sequential, tolerance: float = 0.0) -> Sequential:
    """Return a copy without the weights against which the evidence is at least -tolerance; they are exactly 0 there.

    Parameters
    ----------
    model : Sequential
        As in `evidence_against`.
    tolerance : float
        Nats of evidence for a weight that are given up for a sparser network.

    Returns
    -------
    Sequential
    """
    least = -check_number("tolerance", tolerance, low=-1e6, high=1e6)
    copy = model.copy()
    for name, evidence in evidence_against(copy).items():
        theta = copy.parameters[f"{name}.theta"]
        theta[(evidence >= least).reshape(theta.shape)] = 0
    return copy
