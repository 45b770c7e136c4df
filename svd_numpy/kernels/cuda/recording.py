"""Steps without the host: one training step, recorded once and played many times.

**Why.** Launching a kernel from Python takes longer than a small kernel runs: tens of microseconds for one with many
arrays, while the device is done with it in a few. A step of LeNet-300-100 is some twenty launches. A CUDA graph is a
list of launches that the device works through alone: a step is recorded into one, with the addresses and numbers it was
given, and then played, and no kernel waits for Python.

**What changes from step to step** cannot be a number of a launch, which is recorded. It is a row of a table in device
memory, and a clock, in device memory, too, says which row:

    clock = (row, step)
    row     of the order of examples, their labels, the moves of images, the dials (`dials.py`), the sums of the loss
    step    what is added to the step in the keys of the noise

Tables hold an epoch; they are filled before it is played, the losses are read after it. The last kernel of a recorded
step, `tick`, lets both hands of the clock go on. An ordinary step is the case of a clock that stands at 0: the same
kernels, the same bits.

**What must not change** is memory: a graph knows arrays by their addresses. All that a step was recorded with is kept
alive (`launches`), buffers of layers included, and every array was met, every kernel compiled, in an ordinary step
before. An array that turns up while a step is recorded is an error, and so is a copy between host and device: the graph
would not do it again.

**Order.** Launches are recorded on one stream, so that each kernel of the graph waits for the one before it. Kernels
that need not (weights' and inputs' gradients of a layer) do not run at the same time; what several of them would gain
on a device that is not full, several runs in each launch gain, too (`device.py`).

**What limits a played step** are then the kernels themselves, each with its few microseconds of latency: loads that
wait for memory, barriers, the last blocks that others wait for. R runs share these.

**The simulator has no graphs.** It keeps the launches of a step instead and does them again with the arguments that
they were given: a number that should have been on a table stays what it was, as on a device, and tests see it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from svd_numpy.kernels.cuda.device import SIMULATED, Kernel, cuda


class Launch(NamedTuple):
    """A kernel and all that it is launched with."""

    kernel: Kernel
    blocks: int | tuple[int, ...]
    threads: int
    args: tuple[Any, ...]
    runs: int

    def __call__(self, stream: Any = 0) -> None:
        """Launch it."""
        self.kernel.launch(self.blocks, self.threads, self.args, stream, self.runs)


class Recording:
    """A step that can be played again.

    Attributes
    ----------
    launches : list of Launch
        What the step consists of, and what must be kept alive for it.
    """

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.stream: Any = 0  # what the launches are recorded on
        self._graph: Any = None
        self._played_on: Any = None

    def add(self, launch: Launch) -> None:
        """Record a launch; nothing runs yet."""
        self.launches.append(launch)
        if not SIMULATED:
            launch(self.stream)

    def record(self, work: Callable[[], None]) -> None:
        """Record what `work` launches, by way of `add`."""
        if SIMULATED:
            work()
            return
        from cuda.core import Device

        here = Device()
        here.set_current()
        builder, self._played_on = here.create_graph_builder(), here.create_stream()
        cuda.synchronize()
        with cuda.defer_cleanup():  # memory must not be freed while launches are recorded
            builder.begin_building()
            self.stream = builder
            work()
            self._graph = builder.end_building().complete()
        self._graph.upload(self._played_on)

    def play(self) -> None:
        """Do the step, or begin to."""
        if SIMULATED:
            for launch in self.launches:
                launch()
        else:
            self._graph.launch(self._played_on)
