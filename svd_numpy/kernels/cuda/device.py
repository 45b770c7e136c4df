"""The only file that imports numba.cuda: the decorator behind every CUDA kernel, and how kernels are launched.

Kernels take flat arrays and numbers, nothing else, and say their types in a short signature, one letter each. It has
three readers: whoever reads the kernel, the launch in the simulator, which checks every argument against it (there
Python would take a float64 in silence), and the tests, which compile each kernel from it for several devices without
having one.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from svd_numpy.kernels.cuda.detect import simulated

if not hasattr(np, "row_stack"):
    np.row_stack = np.vstack  # type: ignore[attr-defined, unused-ignore]  # gone from NumPy 2.5, but numba-cuda 0.30 names it

# Numba warns of every grid that does not fill the device; most of those of a small network cannot.
os.environ.setdefault("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", "0")

from numba import cuda

SIMULATED = simulated()
ALIGNED = not SIMULATED  # shared arrays on 16 bytes become 128-bit loads; the simulator does not know the option

F, U, I, D = np.float32, np.uint32, np.int32, np.float64  # noqa: E741  (casts inside kernels)
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)

# Threads of a block, and of a whole grid: constants, so that sums have the same order on every device. In the
# simulator a thread is one of Python's, and costs half a millisecond.
THREADS = 4 if SIMULATED else 256
GRID = 2 if SIMULATED else 1024

# One letter for each argument: capitals are arrays.
LETTERS: dict[str, Any] = {
    "f": np.float32, "d": np.float64, "u": np.uint32, "i": np.int32,
    "F": np.float32, "D": np.float64, "U": np.uint32, "I": np.int32, "L": np.int64,
}  # fmt: skip
ANY = "X"  # an array of any type: of pixels or of numbers
NUMBERS = "n"  # a tuple of int32, of any length
WORDS = "w"  # the five uint32 of a noise key: step, layer, first sample, seed low, seed high


class Kernel:
    """A CUDA kernel: `function` in Python, its `signature`, and its compiled form, made at the first launch."""

    def __init__(self, function: Callable[..., None], signature: str, name: str) -> None:
        self.function, self.signature, self.name = function, signature, name
        self._compiled = cuda.jit(function)

    def launch(self, blocks: int | tuple[int, ...], threads: int, args: tuple[Any, ...], stream: Any = 0) -> None:
        """Run on a grid of `blocks` blocks of `threads` threads."""
        if SIMULATED:
            self._check(args)
        self._compiled[blocks, threads, stream](*args)

    def _check(self, args: tuple[Any, ...]) -> None:
        """Raise a TypeError where an argument is not what the signature says."""
        if len(args) != len(self.signature):
            raise TypeError(f"{self.name}: got {len(args)} arguments, expected {len(self.signature)}")
        for number, (letter, value) in enumerate(zip(self.signature, args, strict=True)):
            if letter in (NUMBERS, WORDS):
                wanted = np.int32 if letter == NUMBERS else np.uint32
                fits = isinstance(value, tuple) and all(isinstance(entry, wanted) for entry in value)
            elif letter == ANY:
                fits = value.ndim == 1
            elif letter.isupper():
                fits = value.ndim == 1 and value.dtype == LETTERS[letter]
            else:
                fits = isinstance(value, LETTERS[letter])
            if not fits:
                got = getattr(value, "dtype", type(value))
                raise TypeError(f"{self.name}: argument {number} is {got}, expected {letter!r} (signature)")


KERNELS: dict[str, Kernel] = {}  # all that were made, by name: what the tests compile


def kernel(signature: str, name: str = "") -> Callable[[Callable[..., None]], Kernel]:
    """Make a kernel of a function; a name is needed where several are made by one piece of source."""

    def decorate(function: Callable[..., None]) -> Kernel:
        made = Kernel(function, signature, name or function.__name__)
        KERNELS[made.name] = made
        return made

    return decorate


device: Callable[[Callable[..., Any]], Callable[..., Any]] = cuda.jit(device=True)  # a helper that kernels call


def blocks_for(count: int, threads: int = 0) -> int:
    """Blocks for a loop over `count` that strides by the whole grid."""
    return max(1, min(GRID, math.ceil(count / (threads or THREADS))))


def recorded_graph(work: Callable[[], None], on_stream: Callable[[Any], None]) -> Callable[[], None]:
    """Record what `work` launches, on the stream told to `on_stream`, as a CUDA graph; return what plays it."""
    from cuda.core import Device

    here = Device()
    here.set_current()
    builder, stream = here.create_graph_builder(), here.create_stream()
    cuda.synchronize()
    with cuda.defer_cleanup():  # memory must not be freed while launches are recorded
        builder.begin_building()
        on_stream(builder)
        work()
        graph = builder.end_building().complete()
    graph.upload(stream)

    def play() -> None:
        graph.launch(stream)

    return play


def description() -> str:
    """Device, compute capability and memory, driver, and versions of the packages that compile for it."""
    if SIMULATED:
        return "none: Numba's simulator (NUMBA_ENABLE_CUDASIM)"
    versions = []
    for package in ("numpy", "numba", "numba-cuda", "cuda-core", "cuda-bindings", "nvidia-nvvm", "nvidia-cuda-nvcc"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    here = cuda.get_current_device()
    name = here.name.decode() if isinstance(here.name, bytes) else here.name
    _, memory = cuda.current_context().get_memory_info()
    capability = ".".join(map(str, here.compute_capability))
    return f"{name}, compute capability {capability}, {memory / 2**30:.0f} GiB; {', '.join(versions)}"


__all__ = [
    "ALIGNED", "GRID", "HALF", "KERNELS", "ONE", "SIMULATED", "THREADS", "TWO", "ZERO", "D", "F", "I", "Kernel", "U",
    "blocks_for", "cuda", "description", "device", "kernel",
    "recorded_graph",
]  # fmt: skip
