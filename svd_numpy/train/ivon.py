"""IVON (Shen et al. 2024): a Gaussian over ordinary weights at about the price of Adam, which says what may leave.

`micro/ivon.py` derives it. In place of Adam, a step draws the weights from N(m, sigma^2), and moves the means m by the
gradient there, divided by the curvature h that it estimates on the way; sigma = 1 / sqrt(n_train (h + l2)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_numpy.checks import check_number
from svd_numpy.kernels.backend import Array, NoiseKey
from svd_numpy.network.model import Sequential
from svd_numpy.train.magnitude import GradualMagnitude, GradualPruner
from svd_numpy.train.pruning import Place, Pruner

_LAYER = 2**31  # in the noise keys: that of no layer
_BLOCK = 4096  # numbers that are treated at a time, and have a row of noise


@dataclass(frozen=True, kw_only=True)
class IVON(GradualMagnitude):
    """Train by improved variational online Newton, and prune gradually the weights whose sign is least known.

    The weights with the least |m| / sigma leave, along the same curve as with `GradualMagnitude`. The learning rates of
    `TrainConfig` are IVON's, and larger than Adam's by about a hundred: gradients are divided by the curvature, not
    by its root. The network that is scored, stored and shipped is that of the means.

    Attributes
    ----------
    start, stop, sparsity, every, scale
        See `GradualMagnitude`.
    l2 : float
        delta, above 0: the prior of each number of the network is N(0, 1 / (n_train l2)).
    std_start : float
        First sigma. Where there are few examples, sigma stays larger, and so the curvature must not start too low.
    beta1 : float
        Decay of the average of the gradient.
    beta2 : float or None
        Decay of the curvature's; None: 1 - 1 / (steps until `stop`). Most weights have hardly any curvature. A memory
        much shorter than the training forgets where it started, and steps divided by what is left then diverge: on
        MNIST, .9998 is right for 12 epochs, and after 25 the network guesses.
    """

    kind: ClassVar[str] = "ivon"
    l2: float = 1e-4
    std_start: float = 0.013
    beta1: float = 0.9
    beta2: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("l2", self.l2, low=1e-12, high=1)
        check_number("std_start", self.std_start, low=1e-6, high=1)
        for name in ("beta1", "beta2"):
            if (beta := getattr(self, name)) is not None:
                check_number(name, beta, low=0, high=1 - 1e-7)

    def pruner(self, model: Sequential, place: Place) -> Pruner:
        """See `Pruning.pruner`."""
        return _Newton(self, model, place)


class _Newton(GradualPruner):
    """Between two steps the network's numbers are the means. `arrays`: the averages g and h."""

    _plan: IVON

    def __init__(self, plan: IVON, model: Sequential, place: Place) -> None:
        super().__init__(plan, model, place)
        self._backend = model.backend
        self._rest2 = 1 / max(2, place.step(plan.stop)) if plan.beta2 is None else 1 - plan.beta2
        params = self.arena.params
        self._means, self._std, self._g = (np.zeros_like(params) for _ in range(3))
        h = max(1 / (place.n_train * plan.std_start**2) - plan.l2, 1e-6)
        self._h, self._noise = np.full_like(params, h), params
        self.arrays = {"pruning/g": self._g, "pruning/h": self._h}

    def _blocks(self) -> Iterator[slice]:
        """The numbers of the network, in parts that stay in the cache."""
        for start in range(0, self.arena.params.size, _BLOCK):
            yield slice(start, start + _BLOCK)

    def before_forward(self, step: int) -> None:
        """Draw the weights; those that have left stay 0."""
        params, rows = self.arena.params, -(-self.arena.params.size // _BLOCK)
        self._noise = self._backend.noise(NoiseKey(self.place.seed, _LAYER, step), rows, _BLOCK).ravel()[: params.size]
        self._means[:] = params
        for here in self._blocks():
            self._std[here] = 1 / np.sqrt(self.place.n_train * (self._h[here] + self._plan.l2))
            params[here] += self._std[here] * self._noise[here] * self.arena.mask[here]

    def before_update(self, step: int, lr: float) -> None:
        """Move the averages and the means. Adam gets gradients of 0, and so it changes nothing."""
        plan, params, first = self._plan, self.arena.params, 1 - self._plan.beta1 ** (step + 1)
        for here in self._blocks():
            gradient, mean, g, h = (array[here] for array in (self.arena.grads, self._means, self._g, self._h))
            change = self._rest2 * (gradient * self._noise[here] / self._std[here] - h)
            g += (1 - plan.beta1) * (gradient - g)
            h += change + change**2 / (2 * (h + plan.l2))
            params[here] = mean - lr * (g / first + plan.l2 * mean) / (h + plan.l2) * self.arena.mask[here]
        self.arena.grads[:] = 0

    def sizes(self, name: str) -> Array:
        """|m| / sigma of the weights of an array, up to a factor that all have."""
        theta = self.arena.views[name]
        h = self._h[self.arena.ranges[name]].reshape(theta.shape)
        return np.asarray(np.abs(theta) * np.sqrt(h + self._plan.l2))
