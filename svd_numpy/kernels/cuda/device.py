"""The only file that imports numba.cuda (but for the simulator's mend): the decorator behind every CUDA kernel.

**What a kernel is.** A function that very many threads run at once, each with another index, in blocks of some hundred
threads. A block runs on one of the device's multiprocessors (an H200 has 132), 32 threads of it (a warp) in lockstep.
Threads of a block can exchange numbers through shared memory, a few dozen KB beside the arithmetic units; blocks know
nothing of each other, and the order in which they run is nobody's business. So every kernel here writes each number
from one thread, and what it writes does not depend on that order.

**What a kernel is given.** Flat arrays and numbers, nothing else. Their types are a short signature, one letter each
(`LETTERS`). It has four readers: whoever reads the kernel; the launch in the simulator, which checks every argument
against it (there Python would take a float64 in silence); the tests, which compile each kernel from it for several
devices without having one; and the decorator, which finds in it what belongs to one run alone.

**Several runs in one launch.** A small network leaves most of a large device idle: the first layer of LeNet-300-100 at
batch 100 is some 100 small blocks, and a launch costs its few microseconds whether they fill the device or not. R runs
that differ in seeds (weights, order of examples, noise) and KL weights alone therefore go in the same launches. The
grid's z axis is the run, always. A kernel is written for one run and knows nothing of the others: arrays of which each
run has its own have a row for each, (runs, entries), and `kernel` puts a line before it that takes the rows of its run,

    array = array[run]          run = blockIdx.z

Arrays that all runs share (`COMMON`: data, tables of addresses, the clock) are passed on as they are. A single run is
the case of R = 1, and the arithmetic of a run cannot depend on who runs beside it: the same kernel, on the same grid in
x and y, adds the same numbers in the same order. The cost is one multiplication and addition of addresses for each
array and thread, before the first load. (A slice, array[run * stride:], would cost fifteen instructions: Python's rules
for what lies outside.)
"""

from __future__ import annotations

import importlib.metadata
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from svd_numpy.kernels.cuda.detect import simulated

SIMULATED = simulated()
if SIMULATED:
    from svd_numpy.kernels.cuda import simulator

    simulator.mend()

if not SIMULATED and not hasattr(np, "row_stack"):
    # NumPy 2.5 has no such name. numba-cuda 0.30 asks for it in one module, when that is first imported, to compile
    # anything at all. So the name is there for as long as that import takes.
    np.row_stack = np.vstack  # type: ignore[attr-defined, unused-ignore]
    try:
        importlib.import_module("numba.cuda.np.arrayobj")
    finally:
        del np.row_stack  # type: ignore[attr-defined, unused-ignore]

ALIGNED = not SIMULATED  # shared arrays on 16 bytes become 128-bit loads; the simulator does not know the option

F, U, I, D = np.float32, np.uint32, np.int32, np.float64  # noqa: E741  (casts inside kernels)
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)

# Threads of a block, and of a whole grid: constants, so that sums have the same order on every device. In the
# simulator a thread is one of Python's, and costs half a millisecond.
THREADS = 4 if SIMULATED else 256
GRID = 2 if SIMULATED else 1024

# One letter for each argument: capitals are arrays, each run its own but for those in COMMON.
LETTERS: dict[str, Any] = {
    "f": np.float32, "d": np.float64, "u": np.uint32, "i": np.int32,
    "F": np.float32, "D": np.float64, "U": np.uint32, "I": np.int32, "L": np.int64, "B": np.uint8,
    "T": np.uint32, "S": np.float32,
}  # fmt: skip
ANY = "X"  # an array of any type: of pixels, of numbers or of tokens
COMMON = ANY + "TS"  # all runs read the same: data; tables of addresses, of segments, the clock; bounds
# Tuples of whole numbers: what they hold, and how many.
TUPLES: dict[str, tuple[Any, int]] = {
    "h": (np.int32, 4),  # images: how many, height, width, channels
    "s": (np.int32, 9),  # how images are laid out in larger ones (`images.spread`)
    "g": (np.int32, 13),  # a window (`tables.geometry`)
    "w": (np.uint32, 5),  # a noise key: step, layer, first sample, seed low, seed high
    "z": (np.uint32, 6),  # a product: M, N, K, length of a slice, positions of an example, whether a ReLU follows
}


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a helper that kernels call. It does not name `cuda`: the simulator knows no thread's indices there."""
    made: Callable[..., Any] = function if SIMULATED else cuda.jit(device=True)(function)
    return made


# The entry of a kernel is generated source. Written once for all kernels it would take `*arguments`, and Numba cannot
# go through arguments of different types in a loop and move some of them.
ENTRY = """
def make(body, U):
    def entry({names}):
        run = U(cuda.blockIdx.z)
        body({arguments})
    return entry
"""


class Kernel:
    """A CUDA kernel: `function` in Python, for one run; its `signature`; and its compiled form, for several.

    Attributes
    ----------
    registers : int or None
        The most that a thread may have; None leaves it to the compiler.
    entry : function
        What is compiled, with the arguments of `function`: it takes its run's rows and goes on with `function`.
    own : set of int
        Which arguments are arrays that each run has its own of, a row each.
    """

    def __init__(self, function: Callable[..., None], signature: str, name: str, registers: int | None = None) -> None:
        self.function, self.signature, self.name, self.registers = function, signature, name, registers
        self.own = {i for i, letter in enumerate(signature) if letter.isupper() and letter not in COMMON}
        names = [f"a{i}" for i in range(len(signature))]
        arguments = [f"{name}[run]" if i in self.own else name for i, name in enumerate(names)]
        source = ENTRY.format(names=", ".join(names), arguments=", ".join(arguments))
        made: dict[str, Any] = {}
        # Among the names of the kernel's own module, because the simulator gives that module another `cuda`.
        exec(compile(source, f"<entry of {name}>", "exec"), function.__globals__, made)
        self.entry = made["make"](device(function), U)
        self._compiled = cuda.jit(self.entry, **({} if SIMULATED else {"max_registers": registers}))
        self._on_grid: dict[Any, Any] = {}  # ready to be called, on the default stream

    def launch(
        self, blocks: int | tuple[int, ...], threads: int, args: tuple[Any, ...], stream: Any = 0, runs: int = 1
    ) -> None:
        """Run on a grid of `blocks` blocks (one number or two) of `threads` threads, once for each run.

        Arrays of which each run has its own are (runs, entries); where there is one run, flat ones will do.
        """
        across, down = blocks if isinstance(blocks, tuple) else (blocks, 1)
        rows = tuple(arg.reshape(1, -1) if i in self.own and arg.ndim == 1 else arg for i, arg in enumerate(args))
        if SIMULATED:
            self._check(rows)
        self._configured((across, down, runs), threads, stream)(*rows)

    def _configured(self, grid: tuple[int, int, int], threads: int, stream: Any) -> Any:
        """The compiled kernel on a grid."""
        ready = None if stream or SIMULATED else self._on_grid.get((grid, threads))
        if ready is None:
            with warnings.catch_warnings():  # Numba warns of small grids; most of a small network's are
                warnings.simplefilter("ignore")
                ready = self._compiled[grid, threads, stream]
            if not stream:
                self._on_grid[grid, threads] = ready
        return ready

    def _check(self, args: tuple[Any, ...]) -> None:
        """Raise a TypeError where an argument is not what the signature says."""
        if len(args) != len(self.signature):
            raise TypeError(f"{self.name}: got {len(args)} arguments, expected {len(self.signature)}")
        for number, (letter, value) in enumerate(zip(self.signature, args, strict=True)):
            if letter in TUPLES:
                wanted, length = TUPLES[letter]
                fits = isinstance(value, tuple) and all(isinstance(entry, wanted) for entry in value)
                fits = fits and len(value) == length
            elif letter == ANY:
                fits = value.ndim == 1
            elif letter.isupper():
                fits = value.ndim == 1 + (number in self.own) and value.dtype == LETTERS[letter]
            else:
                fits = isinstance(value, LETTERS[letter])
            if not fits:
                got = getattr(value, "dtype", type(value))
                raise TypeError(f"{self.name}: argument {number} is {got}, expected {letter!r} (signature)")


KERNELS: dict[str, Kernel] = {}  # all that were made, by name: what the tests compile


def kernel(signature: str, name: str = "", registers: int | None = None) -> Callable[[Callable[..., None]], Kernel]:
    """Make a kernel of a function.

    A name is needed where several are made by one piece of source; `registers` is the most that a thread may have.
    """

    def decorate(function: Callable[..., None]) -> Kernel:
        made = Kernel(function, signature, name or function.__name__, registers)
        KERNELS[made.name] = made
        return made

    return decorate


def blocks_for(count: int, threads: int = 0) -> int:
    """Blocks for a loop over `count` that strides by the whole grid."""
    return max(1, min(GRID, math.ceil(count / (threads or THREADS))))


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
]  # fmt: skip
