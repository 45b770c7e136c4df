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

from svd_numpy.kernels.backend import AdamSettings, StepSettings
from svd_numpy.kernels.cuda.device import cuda
from svd_numpy.kernels.cuda.sweep import DIALS


def dial_row(kl_scale: float, keep: float, adam: AdamSettings) -> NDArray[np.float32]:
    """Settings of one step as the sweep reads them (`sweep.DIALS`)."""
    rate, correction2 = adam.lr / (1 - adam.beta1**adam.step), 1 / (1 - adam.beta2**adam.step)
    betas = adam.beta1, 1 - adam.beta1, adam.beta2, 1 - adam.beta2  # in float32, 1 - 0.999 would be off by 1e-5
    return np.array([kl_scale, keep, rate, correction2, *betas, adam.epsilon], np.float32)


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

    def __init__(self, clock: Any, dials: Any, totals: Any, runs: int) -> None:
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
        settings : sequence of (kl_scale, keep, AdamSettings)

        Returns
        -------
        list of lists
            What the loss operation returned at each step, in each run.
        """
        table = np.concatenate([dial_row(*one) for one in settings])
        self._dials[DIALS * row : DIALS * (row + len(settings))].copy_to_device(table)
        self._clock.copy_to_device(np.array([row, step % 2**32], np.uint32))
        cuda.synchronize()
        for _ in settings:
            self.play()
        cuda.synchronize()
        sums = self._totals.copy_to_host().reshape(self._runs, -1, 2)[:, row : row + len(settings)]
        self._clock.copy_to_device(np.zeros(2, np.uint32))
        return [[self.result(float(first), float(second)) for first, second in step] for step in sums.swapaxes(0, 1)]
