"""How many bits a layer's weights need, according to their posterior (Bayesian Compression, Louizos et al. 2017).

A weight that the data determine only to within sigma need not be stored more precisely. With t fractional bits the
round-off is 2^-t; a weight gets the most bits that keep the round-off above twice its spread, and a layer gets the mean
over its surviving weights, rounded up.

The paper uses the variance as the spread, although the round-off has the unit of a standard deviation, and it includes
pruned weights, whose variance no longer matters. Here only surviving weights count, and either spread can be chosen.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from svd_numpy.checks import MOST_BITS, SvdValueError, check_choice, check_threshold, check_type
from svd_numpy.kernels.priors import LOG_SIGMA2_MIN
from svd_numpy.network.fold import fold_gates
from svd_numpy.network.layers.weighted import Variational
from svd_numpy.network.model import Sequential

Rule = Literal["deviation", "variance"]
_MOST = 23  # fractional bits, as many as a float32 has


def code_bits(largest: float, step: float) -> int:
    """Bits of a signed code for multiples of `step` up to the magnitude `largest`."""
    return 1 + round(largest / step).bit_length()


def step_of(largest: float, bits: int) -> float:
    """Return the smallest power of two whose multiples reach `largest` in codes of `bits` bits, sign included."""
    if not largest:
        return 1.0
    codes = 2 ** (bits - 1) - 1
    # `largest` still rounds to the last code if it is less than half a step above it
    exponent = math.ceil(math.log2(largest / (codes + 0.5)))
    while round(largest / 2.0**exponent) > codes:
        exponent += 1
    return float(2.0**exponent)


def posterior_bits(model: Sequential, threshold: float | None = None, rule: Rule = "deviation") -> dict[str, int]:
    """Bits for the weights of each layer, from the posterior variances of the surviving ones.

    Parameters
    ----------
    model : Sequential
        Before any fine-tuning, which removes the posterior.
    threshold : float, optional
        On log_alpha; default: the model's.
    rule : "deviation" or "variance"
        What the round-off is compared with: sigma, which has the same unit, or sigma^2, as published. For sigma < 1
        the latter gives more bits.

    Returns
    -------
    dict of str to int
        {"dense1.theta": bits, ...} for `quantise`: one for the sign, those for the integer part of the layer's largest
        weight, and the fractional ones. Layers without a surviving weight are left out.

    Raises
    ------
    ValueError
        For a network without a posterior, that is, a plain or a fine-tuned one.

    Notes
    -----
    The posterior is that of the weights as trained, with gates and their noise folded into them (`fold_gates`). If
    `compress` folds batch normalisation into them, their scale changes by channel: check the error afterwards, or use
    the bits as the start of `search_bits`.
    """
    check_type("model", model, Sequential)
    check_choice("rule", rule, ("deviation", "variance"))
    threshold = model.threshold if threshold is None else check_threshold("threshold", threshold)
    if not model.variational_layers:
        raise SvdValueError("posterior_bits: got a network without variational layers, expected one; use search_bits")
    bits = dict[str, int]()
    for layer in fold_gates(model, gate_noise=True).variational_layers:
        found = _layer_bits(layer, threshold, rule)
        if found is not None:
            bits[f"{layer.name}.theta"] = found
    return bits


def _layer_bits(layer: Variational, threshold: float, rule: Rule) -> int | None:
    theta = layer.pruned_theta(threshold)
    survives = theta != 0
    if not survives.any():
        return None
    log_sigma2 = layer.log_sigma2[survives].astype(np.float64)
    if (log_sigma2 <= LOG_SIGMA2_MIN).all():
        raise SvdValueError(
            f"posterior_bits: layer {layer.name!r} has no noise left (log_sigma2 = {LOG_SIGMA2_MIN:g}), as "
            "after fine-tuning; expected a posterior: use search_bits, or the network from before fine-tuning"
        )
    spread = np.exp(log_sigma2 / 2 if rule == "deviation" else log_sigma2)
    fractional = np.clip(np.ceil(-np.log2(2 * spread)) - 1, 0, _MOST)
    return min(code_bits(float(np.abs(theta).max()), 2.0 ** -math.ceil(fractional.mean())), MOST_BITS)
