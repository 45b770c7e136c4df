"""Schedules of the learning rate and the KL weight.

A schedule is a sequence of knots (epoch, value), with straight lines between them and constant values before the
first and after the last. It can express both learning-rate decay and KL warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from svd_numpy.checks import SvdValueError, check_number

Knots = tuple[tuple[float, float], ...]


def check_knots(name: str, knots: Sequence[Sequence[float]]) -> Knots:
    """Return knots as a tuple of pairs; epochs must increase, and epochs and values be >= 0."""
    try:
        pairs = tuple((float(epoch), float(value)) for epoch, value in knots)
    except (TypeError, ValueError):
        raise SvdValueError(
            f"{name}: got {knots!r}, expected pairs (epoch, value) such as ((5, 0.0), (20, 1.0))"
        ) from None
    if not pairs:
        raise SvdValueError(f"{name}: got no knot, expected at least one pair (epoch, value)")
    for epoch, value in pairs:
        check_number(f"{name} epoch", epoch, low=0)
        check_number(f"{name} value", value, low=0)
    epochs = [epoch for epoch, _ in pairs]
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise SvdValueError(f"{name}: got epochs {epochs}, expected them to increase")
    return pairs


def at_epoch(knots: Knots, epoch: float) -> float:
    """Value of the schedule at a (fractional) epoch."""
    before = knots[0]
    if epoch <= before[0]:
        return before[1]
    for after in knots[1:]:
        if epoch <= after[0]:
            share = (epoch - before[0]) / (after[0] - before[0])
            return before[1] + share * (after[1] - before[1])
        before = after
    return before[1]
