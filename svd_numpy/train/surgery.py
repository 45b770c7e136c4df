"""Dynamic network surgery (Guo, Yao, Chen 2016): a pruned weight goes on learning, and may come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_numpy.checks import SvdValueError, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.train.pruning import Place, Pruner, Pruning

LEAVES, COMES_BACK = 0.9, 1.1  # times the threshold of a layer; in between, a weight stays as it is


@dataclass(frozen=True, kw_only=True)
class Surgery(Pruning):
    """Prune and splice: the gradient of the pruned network updates all weights, also those that are cut.

    The threshold of a layer is mean |theta| + c * std |theta|, measured once, at `start`. A weight is cut where |theta|
    is at most 0.9 times as large, and spliced where it is more than 1.1 times as large.

    Attributes
    ----------
    start, stop : float
        Epochs; surgeries take place in between. Afterwards, what is cut stays cut, and the others train on.
    c : numbers
        One for all layers, or one for each: more prunes more.
    gamma : float
        At the n-th step after `start`, there is a surgery with probability 1 / (1 + gamma n).
    l2 : float
        Factor of an L2 term, l2 / 2 * sum theta^2, in the loss, over all weights.
    """

    kind: ClassVar[str] = "surgery"
    epochs: ClassVar[tuple[str, ...]] = ("start", "stop")
    start: float = 10.0
    stop: float = 40.0
    c: tuple[float, ...] = (2.0,)
    gamma: float = 1e-4
    l2: float = 0.0

    def __post_init__(self) -> None:
        self.check_window(self.start, self.stop)
        if not isinstance(self.c, Sequence) or not self.c:
            raise SvdValueError(f"c: got {self.c!r}, expected numbers such as (2.0,), or one for each layer")
        object.__setattr__(self, "c", tuple(check_number("c", c, low=-10, high=100) for c in self.c))
        check_number("gamma", self.gamma, low=0, high=1)
        check_number("l2", self.l2, low=0, high=1)

    def pruner(self, model: Sequential, place: Place) -> Pruner:
        """See `Pruning.pruner`."""
        return _Surgeon(self, model, place)


class _Surgeon(Pruner):
    """Keeps all weights, cut ones as they would be, beside the network, which is always the cut one.

    `arrays`: all numbers of the network, uncut; the threshold of each layer.
    """

    def __init__(self, plan: Surgery, model: Sequential, place: Place) -> None:
        super().__init__(model, place)
        if len(plan.c) not in (1, len(self.weights)):
            raise SvdValueError(f"c: got {len(plan.c)} numbers, expected 1, or {len(self.weights)}, one for each layer")
        self._plan = plan
        self._c = plan.c if len(plan.c) > 1 else plan.c * len(self.weights)
        self._start, self._stop = place.step(plan.start), place.step(plan.stop)
        self._uncut, self._limits = self.arena.params.copy(), np.zeros(len(self.weights))
        self.arrays = {"pruning/uncut": self._uncut, "pruning/limits": self._limits}

    def holds(self, step: int) -> bool:
        """See `Pruner.holds`: only once the surgeries are over."""
        return step >= self._stop

    def before_update(self, step: int, lr: float) -> None:
        """Put all weights back, so that Adam updates them with the gradient of the cut network."""
        if self._start <= step < self._stop:
            self.arena.params[:] = self._uncut
        self.decay(self._plan.l2)

    def after_update(self, done: int) -> None:
        """Operate, then cut."""
        if done == self._start:
            for i, name in enumerate(self.weights):
                size = np.abs(self.arena.views[name].astype(np.float64))
                self._limits[i] = max(0.0, size.mean() + self._c[i] * size.std())
        if not self._start <= done <= self._stop:
            return
        self._uncut[:] = self.arena.params
        if done < self._stop and operates(done - self._start, self._plan.gamma, self.place.seed):
            for name, limit in zip(self.weights, self._limits, strict=True):
                mask = self.arena.mask_views[name]
                mask[...] = new_mask(self.arena.views[name], mask, limit)
        self.arena.params *= self.arena.mask
        if done == self._stop:
            for name in self.weights:
                self.arena.hold(name, self.arena.mask_views[name] == 1)


def new_mask(theta: Array, mask: Array, limit: float) -> Array:
    """Which weights of a layer live after a surgery: large ones, and those between that lived before."""
    size = np.abs(theta)
    return np.where(mask == 1, size > LEAVES * limit, size > COMES_BACK * limit)


def operates(step: int, gamma: float, seed: int) -> bool:
    """Whether there is a surgery at a step, counted from the first one: a function of seed and step."""
    return bool(np.random.default_rng([seed, step]).random() * (1 + gamma * step) < 1)
