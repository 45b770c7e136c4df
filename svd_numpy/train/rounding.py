"""Fine-tuning with rounded weights: they learn to be multiples of a few steps, and the network fits in a small file.

Courbariaux, Bengio, David 2015 (BinaryConnect), section 2.3: forward and backward use the rounded weights, and their
gradient moves the unrounded ones, in which small changes add up until they reach the next multiple.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from svd_numpy.checks import SvdValueError, check_bits
from svd_numpy.kernels.backend import Array
from svd_numpy.network.living import LivingCopy
from svd_numpy.network.model import Sequential
from svd_numpy.train.pruning import Place, Pruner


class Rounder(Pruner):
    """Rounds weights and biases from a step on; what becomes 0 is pruned, unless it comes back before the end.

    The step of an array is chosen once: the power of two that moves its numbers least, larger ones being cut to the
    last multiple that the bits allow.

    Parameters
    ----------
    bits : int, or mapping of array name to int
        For all arrays of weights and biases, or for those it names.
    start : int
        The first step of the run with rounded numbers.
    """

    setting = "finetune_bits"
    variational = True

    def __init__(self, model: Sequential, place: Place, bits: int | Mapping[str, int], start: int) -> None:
        super().__init__(model, place)
        if gated := [layer.name for layer in model.layers if layer.fixed]:
            raise SvdValueError(
                f"finetune_bits: got a model whose layers {gated} have factors, which would undo the rounding; use "
                "fold_gates(model)"
            )
        biases = (f"{name}.bias" for name in model.alive())
        names = [*self.weights, *(name for name in biases if name in self.arena.views)]
        self._bits, self._start = check_bits(bits, names), start
        self._unrounded, self._steps = self.arena.params.copy(), np.zeros(len(self._bits))
        self.arrays = {"rounding/unrounded": self._unrounded, "rounding/steps": self._steps}

    def on(self, copy: LivingCopy) -> Rounder:
        """See `Pruner.on`."""
        small = Rounder(copy.model, self.place, self._bits, self._start)
        small._steps = self._steps
        return small

    def exchange(self, small: Pruner, copy: LivingCopy, back: bool) -> None:
        """See `Pruner.exchange`."""
        assert isinstance(small, Rounder)
        copy.exchange(self._unrounded, small._unrounded, back)

    def holds(self, step: int) -> bool:
        """See `Pruner.holds`: no more than without rounding."""
        return False

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
        self._unrounded[:] = self.arena.params
        for (name, bits), step in zip(self._bits.items(), self._steps, strict=True):
            here, most = self.arena.ranges[name], step * largest_code(bits)
            unrounded = self._unrounded[here]
            np.clip(unrounded, -most, most, out=unrounded)  # beyond, rounding would hide what they learn
            self.arena.params[here] = np.rint(unrounded / step) * step


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
