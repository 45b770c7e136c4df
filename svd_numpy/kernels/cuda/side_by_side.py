"""The CUDA backend as a runner uses it: several runs in each launch, and steps that are recorded and played.

An operation is called once, with the arrays of the first run, and does the work of all. The runner says what else there
is: which arrays of the other runs belong to these (`stack`), and the numbers of every run at every step (`set_steps`,
`set_noise`), which are therefore not taken from the arguments of an operation; and it reads the losses of each
(`totals`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Array, StepSettings
from svd_numpy.kernels.cuda import dials, elementwise
from svd_numpy.kernels.cuda.backend import CudaBackend
from svd_numpy.kernels.cuda.device import U, cuda
from svd_numpy.kernels.cuda.recording import Recording


class SideBySide(CudaBackend):
    """The backend of runs that go side by side, one or more; see `CudaBackend` for its arguments."""

    def stack(self, arrays: Sequence[Array]) -> None:
        """Let arrays[r], all of one shape and of memory of their own, stand for run r's copy; send them there."""
        self._twins.stack(arrays)

    def set_steps(self, first: int, settings: Sequence[Sequence[StepSettings]]) -> None:
        """Set what each run is told at one step after the other, from a row of the tables on: 0 for an ordinary step.

        settings : run by run, of each step
        """
        self._dials.write(first, [[dials.of_step(step) for step in run] for run in settings])

    def set_noise(self, stds: Sequence[float]) -> None:
        """Set the std of each run's Gaussian likelihood, from now on."""
        self._dials.write_all([dials.of_noise(std) for std in stds])

    def _turn(self, row: dials.Row) -> None:
        """Leave the dials as they are: the runner has set them, for every run."""

    def totals(self, first: int = 0, count: int = 1) -> NDArray[np.float64]:
        """What the loss operation found in each run, at `count` steps from a row on: array (count, runs, 2)."""
        sums = self._totals.copy_to_host().reshape(self._runs, -1, 2)
        return np.ascontiguousarray(sums[:, first : first + count].swapaxes(0, 1))

    def record(self, work: Callable[[], object]) -> Recording | None:
        """Record the operations of `work`, which were done once before; None, with a warning, where it fails."""
        self._launch(elementwise.tick, 1, 2, U(0), self._clock, runs=1)  # compiled before anything is recorded
        recording = Recording()

        def step() -> None:
            work()
            self._launch(elementwise.tick, 1, 2, U(1), self._clock, runs=1)

        self._recording, self._twins.closed = recording, True
        try:
            recording.record(step)
        except Exception as error:  # a driver or its Python packages of another age; ordinary steps do the same
            warnings.warn(f"steps cannot be recorded as a CUDA graph and will be slower: {error!r}", stacklevel=2)
            return None
        finally:
            self._recording, self._twins.closed = None, False
        return recording

    def play(self, recording: Recording, row: int, step: int, count: int) -> NDArray[np.float64]:
        """Do a recorded step `count` times.

        Parameters
        ----------
        recording : Recording
        row : int
            Of the epoch's tables: which batch comes first.
        step : int
            What is to be added to the step of the recorded noise keys, at the first.
        count : int

        Returns
        -------
        array (count, runs, 2)
            What the loss operation found at each step, in each run.
        """
        self._clock.copy_to_device(np.array([row, step % 2**32], np.uint32))
        cuda.synchronize()
        for _ in range(count):
            recording.play()
        cuda.synchronize()
        self._clock.copy_to_device(np.zeros(2, np.uint32))
        return self.totals(row, count)
