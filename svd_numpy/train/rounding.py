"""Training with rounded weights: they learn to be multiples of a few steps, so that the network fits in a small file.

Courbariaux, Bengio, David 2015 (BinaryConnect), section 2.3: forward and backward use the rounded weights, and their
gradient moves the unrounded ones, in which small changes add up until they reach the next multiple.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_numpy.checks import SvdValueError, check_bits, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.train.pruning import Place, Pruner, Pruning


@dataclass(frozen=True, kw_only=True)
class Rounding(Pruning):
    """Round weights and biases to multiples of powers of two while training; what becomes 0 is pruned.

    The step of an array is chosen once, at `start`: the power of two that moves its numbers least, larger ones being
    cut to the last multiple that the bits allow. `compress` keeps the multiples as they are, and `pack` finds them.

    Attributes
    ----------
    bits : int, or mapping of array name to int
        2 to 24, sign included. One number applies to every array of weights and biases; a mapping to those it names,
        such as "dense1.theta", and leaves the others unchanged.
    start : float
        Epoch from which on.
    """

    kind: ClassVar[str] = "rounding"
    epochs: ClassVar[tuple[str, ...]] = ("start",)
    excludes: ClassVar[tuple[str, ...]] = ("remove_above", "patience")
    bits: int | Mapping[str, int] = 4
    start: float = 0.0

    def __post_init__(self) -> None:
        check_number("start", self.start, low=0)
        names = self.bits if isinstance(self.bits, Mapping) else ("all",)
        checked = check_bits(self.bits, list(names))
        object.__setattr__(self, "bits", checked if isinstance(self.bits, Mapping) else checked["all"])

    def pruner(self, model: Sequential, place: Place) -> Pruner:
        """See `Pruning.pruner`."""
        return _Rounder(self, model, place)


class _Rounder(Pruner):
    """Keeps all numbers, unrounded, beside the network. `arrays`: these; the step of each array."""

    def __init__(self, plan: Rounding, model: Sequential, place: Place) -> None:
        super().__init__(model, place, variational=True)
        if gates := [layer.name for layer in model.layers if layer.kind == "gate"]:
            raise SvdValueError(
                f"pruning: got a model with gates {gates}, whose factors would undo the rounding; use fold_gates(model)"
            )
        biases = (f"{name}.bias" for name in model.alive())
        self._bits = check_bits(plan.bits, [*self.weights, *(name for name in biases if name in self.arena.views)])
        self._start = place.step(plan.start)
        self._unrounded, self._steps = self.arena.params.copy(), np.zeros(len(self._bits))
        self.arrays = {"pruning/unrounded": self._unrounded, "pruning/steps": self._steps}

    def before_forward(self, step: int) -> None:
        """Choose the steps."""
        if step == self._start:
            for i, (name, bits) in enumerate(self._bits.items()):
                self._steps[i] = best_step(self.arena.views[name], bits)
            self._round()

    def before_update(self, step: int, lr: float) -> None:
        """Put the unrounded numbers back, so that Adam moves them with the gradient of the rounded ones."""
        if step >= self._start:
            self.arena.params[:] = self._unrounded * self.arena.mask

    def after_update(self, done: int) -> None:
        """Round them again."""
        if done > self._start:
            self._round()

    def _round(self) -> None:
        for (name, bits), step in zip(self._bits.items(), self._steps, strict=True):
            view, most = self.arena.views[name], step * largest_code(bits)
            np.clip(view, -most, most, out=view)  # beyond, rounding would hide what they learn
        self._unrounded[:] = self.arena.params
        for name, step in zip(self._bits, self._steps, strict=True):
            view = self.arena.views[name]
            view[...] = np.rint(view / step) * step


def largest_code(bits: int) -> int:
    """Return the largest whole number of so many bits, sign included."""
    return int(2 ** (bits - 1) - 1)


def best_step(values: Array, bits: int) -> float:
    """Return the power of two to whose multiples, in codes of so many bits, the values have the least squared distance.

    0 costs nothing with any step, and so pruned weights do not count.
    """
    values = values[values != 0].astype(np.float64)
    if not values.size:
        return 1.0
    codes = largest_code(bits)
    top = int(np.ceil(np.log2(np.abs(values).max() / codes)))
    steps = 2.0 ** np.arange(top, top - bits - 3, -1)
    costs = [np.sum((values - step * np.clip(np.rint(values / step), -codes, codes)) ** 2) for step in steps]
    return float(steps[int(np.argmin(costs))])
