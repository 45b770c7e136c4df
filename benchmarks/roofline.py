"""How near each kernel comes to what this machine can do: ``python benchmarks/roofline.py --help``.

The roof of a kernel is the larger of two times: its floating-point operations at the speed of a large
matrix product, and its bytes at the speed of a triad ``a = b + s * c`` whose arrays together are as
large as what the kernel touches (so data that fit a cache are measured against that cache).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads here are ours; read when numpy loads

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import isa
import numpy as np
from machine import allowed_cores, describe, one_line
from workload import Kernel

BLOCKS = 5
BLOCK_SECONDS = 0.05
GEMM_SIZE = 2048
MIN_TRIAD_BYTES = 3 * 4 * 1024  # below this the call itself is what one would time


def seconds_per_call(call: Callable[[], object]) -> list[float]:
    """Return the seconds per call in each of the blocks, after a warm-up."""
    call()
    start = time.perf_counter()
    call()
    calls = max(1, round(BLOCK_SECONDS / max(time.perf_counter() - start, 1e-7)))
    blocks = []
    for _ in range(BLOCKS):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        blocks.append((time.perf_counter() - start) / calls)
    return blocks


def peak_gflops(threads: int) -> float:
    """Return the GFLOP/s of a 2048^3 float32 product, its rows shared out over the threads."""
    rng = np.random.default_rng(0)
    a = rng.random((GEMM_SIZE, GEMM_SIZE), dtype=np.float32)
    b = rng.random((GEMM_SIZE, GEMM_SIZE), dtype=np.float32)
    c = np.empty_like(a)
    rows = np.array_split(np.arange(GEMM_SIZE), threads)
    parts = [slice(part[0], part[-1] + 1) for part in rows]
    with ThreadPoolExecutor(threads) as pool:

        def product() -> None:
            list(pool.map(lambda part: np.dot(a[part], b, out=c[part]), parts))

        seconds = min(seconds_per_call(product))
    return 2 * GEMM_SIZE**3 / seconds / 1e9


def make_triad(threads: int) -> Callable[[float], float]:
    """Return a function from bytes to the GB/s of a triad whose three arrays together have that size."""
    import numba

    numba.set_num_threads(threads)

    @numba.njit(parallel=True)
    def triad(a, b, c, scale):  # type: ignore[no-untyped-def]
        for i in numba.prange(a.size):
            a[i] = b[i] + scale * c[i]

    def bandwidth(working_set: float) -> float:
        size = int(max(working_set, MIN_TRIAD_BYTES)) // (3 * 4)
        a, b, c = (np.ones(size, np.float32) for _ in range(3))
        scale = np.float32(0.5)
        return 3 * 4 * size / min(seconds_per_call(lambda: triad(a, b, c, scale))) / 1e9

    return bandwidth


def table(kernels: Sequence[Kernel], peak: float, bandwidth: Callable[[float], float]) -> str:
    """Time the kernels and return the Markdown table; ``peak`` in GFLOP/s, ``bandwidth(bytes)`` in GB/s."""
    lines = [
        "| kernel | us/call | GFLOP/s | GB/s | roof us | bound by | share of roof |",
        "|---|---|---|---|---|---|---|",
    ]
    for kernel in kernels:
        seconds = statistics.median(seconds_per_call(kernel.call))
        compute = kernel.flops / (peak * 1e9)
        memory = kernel.bytes / (bandwidth(kernel.bytes) * 1e9)
        roof = max(compute, memory)
        lines.append(
            f"| {kernel.name} | {seconds * 1e6:.1f} | {kernel.flops / seconds / 1e9:.1f}"
            f" | {kernel.bytes / seconds / 1e9:.1f} | {roof * 1e6:.1f}"
            f" | {'arithmetic' if compute > memory else 'memory'} | {roof / seconds:.0%} |"
        )
    return "\n".join(lines)


def blas_kernels(batch: int) -> list[Kernel]:
    """Return the mean products of the forward pass by NumPy's BLAS on one thread, as a yardstick."""
    rng = np.random.default_rng(0)

    def product(inputs: int, outputs: int) -> Kernel:
        x = rng.random((batch, inputs), dtype=np.float32)
        theta = rng.random((inputs, outputs), dtype=np.float32)
        y = np.empty((batch, outputs), np.float32)
        return Kernel(
            f"BLAS, 1 thread: x @ theta, {inputs} -> {outputs}",
            lambda: np.dot(x, theta, out=y),
            flops=2.0 * batch * inputs * outputs,
            bytes=4.0 * (x.size + theta.size + y.size),
        )

    return [product(784, 300), product(300, 100), product(100, 10)]


def main() -> None:
    """Measure the roofs and print one table for each thread count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=100, help="batch size of the kernels")
    cores = len(allowed_cores())
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}), help="thread counts")
    isa.add_option(parser)
    options = parser.parse_args()
    isa.hold(options.isa)
    if not all(1 <= threads <= cores for threads in options.threads):
        parser.error(f"--threads {options.threads}: this process may use {cores} cores; give 1 to {cores}")

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # svd_numpy of this checkout
    from ours import our_kernels

    today = datetime.date.today()
    text = [
        "# The kernels of a training step beside the machine's limits",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: `python benchmarks/roofline.py {' '.join(sys.argv[1:])}`, {today}".replace(" `,", "`,"),
        *isa.lines(),
        "* *roof us*: the time at the measured arithmetic or memory limit, whichever is longer. Data that stay in",
        "  a cache can beat the memory limit.",
    ]
    for threads in options.threads:
        peak, bandwidth = peak_gflops(threads), make_triad(threads)
        kernels = (blas_kernels(options.batch) if threads == 1 else []) + our_kernels(options.batch, threads)
        text += [
            "",
            f"## {threads} thread(s), batch {options.batch}",
            "",
            f"float32 product {GEMM_SIZE}^3: {peak:.0f} GFLOP/s; triad of 192 MB: {bandwidth(192e6):.1f} GB/s",
            "",
            table(kernels, peak, bandwidth),
        ]
    print("\n".join(text))
    out = Path(__file__).parent / "results"
    out.mkdir(exist_ok=True)
    (out / f"kernels{isa.suffix()}.md").write_text("\n".join([*text, ""]))


if __name__ == "__main__":
    main()
