"""Steps without the host: one training step, recorded once and played many times.

**Why.** Launching a kernel from Python takes longer than a small kernel runs: tens of microseconds for one with many
arrays, while the device is done with it in a few. A step of LeNet-300-100 is some twenty launches. A CUDA graph is a
list of launches that the device works through alone: a step is recorded into one, with the addresses and numbers it was
given, and then played, and no kernel waits for Python.

**What changes from step to step** cannot be a number of a launch, which is recorded. It is a row of a table in device
memory, and a clock, in device memory, too, says which row:

    clock = (row, step)
    row     of the order of examples, their labels, the moves of images, the settings of Adam, the sums of the loss
    step    what is added to the step in the keys of the noise

Tables hold an epoch; they are filled before it is played, the losses are read after it. The last kernel of a recorded
step, `tick`, lets both hands of the clock go on. An ordinary step is the case of a clock that stands at 0, and of
tables with one row: the same kernels, the same bits.

**What must not change** is memory: a graph knows arrays by their addresses. All that a step was recorded with is kept
alive (`kept`), buffers of layers included, and every array was met, every kernel compiled, in an ordinary step before.

**Order.** Launches are recorded on one stream, so that each kernel of the graph waits for the one before it. Kernels
that need not (weights' and inputs' gradients of a layer) do not run at the same time; what several of them would gain
on a device that is not full, several runs in each launch gain, too (`device.py`).

**What limits a played step** are then the kernels themselves, each with its few microseconds of latency: loads that
wait for memory, barriers, the last blocks that others wait for. R runs share these.

The simulator has no graphs; there a recorded step is run again by the host, by the same tables and the same clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import StepSettings
from svd_numpy.kernels.cuda.device import Own, cuda
from svd_numpy.kernels.cuda.sweep import DIALS


class Dials:
    """Tables of the settings of so many steps, of runs side by side, as the sweep reads them.

    Attributes
    ----------
    shared : device array (steps * DIALS,)
        What all runs have in common (`sweep.DIALS`).
    kl_scales : Own
        Of each run, an array (steps,).
    """

    def __init__(self, runs: int, steps: int) -> None:
        self._kl_scales = np.zeros((runs, steps), np.float32)
        self.shared = cuda.to_device(np.zeros(steps * DIALS, np.float32))
        self.kl_scales = Own(cuda.to_device(self._kl_scales.reshape(-1)), steps)

    def write(self, row: int, settings: Sequence[StepSettings]) -> None:
        """Write the settings of one step after the other, from a row on."""
        end = row + len(settings)
        self.shared[DIALS * row : DIALS * end].copy_to_device(np.concatenate([_row(one) for one in settings]))
        self._kl_scales[:, row:end] = np.array([one.kl_scale for one in settings]).T
        self.kl_scales.array.copy_to_device(self._kl_scales.reshape(-1))


def _row(settings: StepSettings) -> NDArray[np.float32]:
    adam = settings.adam
    rate, correction2 = adam.lr / (1 - adam.beta1**adam.step), 1 / (1 - adam.beta2**adam.step)
    betas = adam.beta1, 1 - adam.beta1, adam.beta2, 1 - adam.beta2  # in float32, 1 - 0.999 would be off by 1e-5
    return np.array([settings.keep, rate, correction2, *betas, adam.epsilon], np.float32)


class Recording:
    """A step that can be played again, and the tables it reads.

    Attributes
    ----------
    play : function ()
    result : function (sum, sum) -> what the loss operation returns
        Left here by the loss of the recorded step.
    kept : list
        What the step was recorded with: memory that a graph knows by its address must not be freed.
    """

    play: Callable[[], None]
    result: Callable[[float, float], Any]

    def __init__(self, clock: Any, dials: Dials, totals: Any, runs: int) -> None:
        self._clock, self._dials, self._totals, self._runs = clock, dials, totals, runs
        self.kept: list[Any] = []

    def run(self, row: int, step: int, settings: Sequence[StepSettings]) -> list[list[tuple[float, float]]]:
        """Play one step for each of the settings.

        Parameters
        ----------
        row : int
            Of the epoch's tables: which batch comes first.
        step : int
            What is to be added to the step of the recorded noise keys, at the first.
        settings : sequence of StepSettings

        Returns
        -------
        list of lists
            What the loss operation returned at each step, in each run.
        """
        self._dials.write(row, settings)
        self._clock.copy_to_device(np.array([row, step % 2**32], np.uint32))
        cuda.synchronize()
        for _ in settings:
            self.play()
        cuda.synchronize()
        sums = self._totals.copy_to_host().reshape(self._runs, -1, 2)[:, row : row + len(settings)]
        self._clock.copy_to_device(np.zeros(2, np.uint32))
        return [[self.result(float(first), float(second)) for first, second in step] for step in sums.swapaxes(0, 1)]
