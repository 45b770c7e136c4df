"""Pruning by magnitude: the smallest weights leave, in rounds (Han et al. 2015) or gradually (Zhu & Gupta 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from svd_numpy.checks import SvdValueError, check_choice, check_count, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.network.params import Arena
from svd_numpy.train.pruning import Place, Pruner, Pruning
from svd_numpy.train.schedules import Knots, check_knots

Scale = Literal["none", "layer"]


@dataclass(frozen=True, kw_only=True)
class _ByMagnitude(Pruning):
    """What both ways share: when there is which sparsity, and how weights of different layers are compared."""

    kind: ClassVar[str] = ""
    scale: Scale = "none"
    l2: float = 0.0

    def _check(self) -> None:
        check_choice("scale", self.scale, ("none", "layer"))
        check_number("l2", self.l2, low=0, high=1)

    def sparsity_at(self, done: int, place: Place) -> float | None:
        """Sparsity to prune to when so many steps are done; None: no pruning there."""
        raise NotImplementedError

    def pruner(self, model: Sequential, place: Place) -> Pruner:
        """See `Pruning.pruner`."""
        return GradualPruner(self, model, place)


@dataclass(frozen=True, kw_only=True)
class MagnitudeRounds(_ByMagnitude):
    """Train, drop the smallest weights, retrain what is left, and again (Han et al. 2015; Renda et al. 2020).

    Attributes
    ----------
    rounds : pairs (epoch, sparsity)
        After so many epochs, prune until this share of all weights is 0.
    scale : "none" or "layer"
        Compare |theta| over the whole network, or |theta| / std of the living theta of the layer, which is Han's rule:
        one quality parameter times the standard deviation of each layer.
    l2 : float
        Factor of an L2 term, l2 / 2 * sum theta^2, in the loss: it shrinks what the data do not need.
    """

    kind: ClassVar[str] = "magnitude-rounds"
    rounds: Knots = ((10.0, 0.5), (20.0, 0.75), (30.0, 0.87), (40.0, 0.92))

    def __post_init__(self) -> None:
        self._check()
        rounds = check_knots("rounds", self.rounds)
        for _, sparsity in rounds:
            _check_sparsity(sparsity)
        object.__setattr__(self, "rounds", rounds)

    def sparsity_at(self, done: int, place: Place) -> float | None:
        """See `_ByMagnitude.sparsity_at`."""
        due = [sparsity for epoch, sparsity in self.rounds if place.step(epoch) == done]
        return due[-1] if due else None

    def ending_at(self, sparsity: float) -> Pruning:
        """See `Pruning.ending_at`: the rounds below it, then one to it in the place of the next."""
        before = [knot for knot in self.rounds[:-1] if knot[1] < sparsity]
        return replace(self, rounds=(*before, (self.rounds[len(before)][0], sparsity)))

    def stretched(self, factor: float) -> Pruning:
        """See `Pruning.stretched`."""
        return replace(self, rounds=tuple((epoch * factor, sparsity) for epoch, sparsity in self.rounds))


@dataclass(frozen=True, kw_only=True)
class GradualMagnitude(_ByMagnitude):
    """Prune a little every so many steps, along a cubic curve (Zhu & Gupta 2017).

    Sparsity is sparsity * (1 - (1 - t)^3), where t runs from 0 at `start` to 1 at `stop`: fast at first, while many
    weights can be spared. A pruned weight stays 0.

    Attributes
    ----------
    start, stop : float
        Epochs.
    sparsity : float
        Share of all weights that is 0 at the end.
    every : int
        Steps from one pruning to the next.
    scale, l2
        See `MagnitudeRounds`.
    """

    kind: ClassVar[str] = "gradual-magnitude"
    epochs: ClassVar[tuple[str, ...]] = ("start", "stop")
    start: float = 5.0
    stop: float = 35.0
    sparsity: float = 0.95
    every: int = 100

    def __post_init__(self) -> None:
        self._check()
        self.check_window(self.start, self.stop)
        _check_sparsity(self.sparsity)
        check_count("every", self.every)

    def sparsity_at(self, done: int, place: Place) -> float | None:
        """See `_ByMagnitude.sparsity_at`."""
        start, stop = place.step(self.start), place.step(self.stop)
        if not start < done <= stop or ((done - start) % self.every and done != stop):
            return None
        return self.sparsity * (1 - (1 - (done - start) / (stop - start)) ** 3)

    def ending_at(self, sparsity: float) -> Pruning:
        """See `Pruning.ending_at`."""
        return replace(self, sparsity=sparsity)


class GradualPruner(Pruner):
    """Prunes the smallest weights whenever the plan says so."""

    def __init__(self, plan: _ByMagnitude, model: Sequential, place: Place) -> None:
        super().__init__(model, place)
        self._plan = plan

    def before_update(self, step: int, lr: float) -> None:
        """See `Pruner.before_update`."""
        self.decay(self._plan.l2)

    def sizes(self, name: str) -> Array:
        """What the weights of an array are compared by."""
        return np.abs(self.arena.views[name])

    def after_update(self, done: int) -> None:
        """See `Pruner.after_update`."""
        sparsity = self._plan.sparsity_at(done, self.place)
        if sparsity is not None:
            drop_smallest(self.arena, {name: self.sizes(name) for name in self.weights}, sparsity, self._plan.scale)


def drop_smallest(arena: Arena, sizes: Mapping[str, Array], sparsity: float, scale: Scale) -> None:
    """Set the smallest weights of these arrays to 0 for good, until this share of them is 0; dead ones stay dead.

    sizes : by the name of the array, of its shape
    """
    scores = []
    for name, size in sizes.items():
        size, alive = size.ravel(), arena.mask_views[name].ravel() == 1
        if scale == "layer" and alive.any():
            size = size / max(float(arena.views[name].ravel()[alive].std()), np.finfo(np.float32).tiny)
        scores.append(np.where(alive, size, -1))  # below every living one
    everything = np.concatenate(scores)
    dead = min(round(sparsity * everything.size), everything.size - 1)
    least = np.partition(everything, dead)[dead]  # the smallest score that is kept
    for name, score in zip(sizes, scores, strict=True):
        arena.hold(name, (score >= max(least, 0)).reshape(arena.views[name].shape))


def _check_sparsity(value: Any) -> None:
    if not 0 <= check_number("sparsity", value) < 1:
        raise SvdValueError(f"sparsity: got {value:g}, expected a share of the weights, at least 0 and below 1")
