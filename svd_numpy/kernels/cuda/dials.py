"""Dials: the numbers that change from step to step or from epoch to epoch, in device memory.

A number that a launch is given is recorded with it, and stays what it was however often the step is played again
(`recording.py`). So whatever changes while training is no argument of a kernel but a row of a table, and the clock says
which row:

    dials[clock[0] * DIALS + RATE]

Every run has its own table, since its KL weight is its own and its noise may be estimated on its own. A row holds what
Adam is told at one step, `keep` of the mask while training, and the std of a Gaussian likelihood in the form in which
the loss needs it. Adam's 1 - beta is a number of its own: in float32, 1 - 0.999 would be off by 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import StepSettings
from svd_numpy.kernels.cuda.device import U, cuda

KL_SCALE, KEEP, RATE, CORRECTION2, BETA1, REST1, BETA2, REST2, EPSILON, PRECISION, LOG_SCALE = map(U, range(11))
DIALS = U(11)  # numbers of a row

Row = Mapping[np.uint32, float]  # some of its columns


def of_step(settings: StepSettings) -> Row:
    """What `adam_step` is told."""
    adam = settings.adam
    return {
        KL_SCALE: settings.kl_scale,
        KEEP: settings.keep,
        RATE: adam.lr / (1 - adam.beta1**adam.step),
        CORRECTION2: 1 / (1 - adam.beta2**adam.step),
        BETA1: adam.beta1,
        REST1: 1 - adam.beta1,
        BETA2: adam.beta2,
        REST2: 1 - adam.beta2,
        EPSILON: adam.epsilon,
    }


def of_noise(std: float) -> Row:
    """What the loss of a Gaussian likelihood needs of its std."""
    return {PRECISION: 1 / std**2, LOG_SCALE: math.log(std * math.sqrt(2 * math.pi))}


class Dials:
    """The tables of runs side by side.

    Attributes
    ----------
    table : device array (runs, steps * DIALS)
    """

    def __init__(self, runs: int, steps: int) -> None:
        self._host: NDArray[np.float32] = np.zeros((runs, steps, int(DIALS)), np.float32)
        self.table = cuda.to_device(self._host.reshape(runs, -1))

    def turn(self, row: Row) -> None:
        """Set numbers of the first row, the same for every run; nothing is sent where they are there already."""
        columns, numbers = list(row), np.array([*row.values()], np.float32)
        if (self._host[:, 0, columns] != numbers).any():
            self._host[:, 0, columns] = numbers
            self._send()

    def write(self, first: int, rows: Sequence[Sequence[Row]]) -> None:
        """Set numbers of each run's rows, from one on; the same columns in all of them."""
        numbers = np.array([[[*row.values()] for row in of_run] for of_run in rows], np.float32)
        self._host[:, first : first + numbers.shape[1], list(rows[0][0])] = numbers
        self._send()

    def write_all(self, rows: Sequence[Row]) -> None:
        """Set numbers of each run, the same in all its rows."""
        for table, row in zip(self._host, rows, strict=True):
            table[:, list(row)] = [*row.values()]
        self._send()

    def _send(self) -> None:
        self.table.copy_to_device(self._host.reshape(self.table.shape))
