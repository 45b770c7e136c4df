"""Which tiles suit a GPU: steps and products with other tiles than those of `kernels/cuda/tiling.py`.

    python benchmarks/gpu_tiles.py
    python benchmarks/gpu_tiles.py --small 32,64,16,4,4 32,64,16,2,4 --large 128,64,8,8,4 128,128,8,8,8

Each candidate is compiled in a process of its own, all at once; times are taken one after the other. A candidate is BM,
BN, BK, TM, TN, with BN = 16 TN. The first of each list stands beside every candidate of the other. A minute or two; one
line for each time, as soon as it is known.
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

SMALL = ("32,64,16,4,4", "32,64,16,2,4", "16,64,16,2,4", "32,64,8,4,4")
LARGE = ("128,64,8,8,4", "128,128,8,8,8", "64,128,8,4,8", "256,64,8,16,4")
STEPS = (("LeNet-300-100", 1), ("LeNet-300-100", 16), ("LeNet-5", 1), ("VGG-like", 1))
SIZE = 4096


@contextmanager
def alone(lock: str) -> Iterator[None]:
    """Let no other process of this program take times meanwhile."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take(small: str, large: str, slice_from: int) -> None:
    """Put other tiles in the place of the package's, before its kernels are made."""
    from svd_numpy.kernels.cuda import tiling

    made = [tiling.Tile(*map(int, sizes.split(","))) for sizes in (small, large)]
    tiling.SMALL, tiling.LARGE = made
    tiling.TILES = {"small": tiling.SMALL, "large": tiling.LARGE}
    tiling.SHORTEST = slice_from


def time_steps(small: str, large: str, slice_from: int, lock: str) -> None:
    """Recorded steps of the networks."""
    take(small, large, slice_from)
    from gpu_section import Section
    from gpu_timings import launches_of, played_seconds, recorded, trainer_of

    for network, runs in STEPS:
        section = Section(Path(tempfile.gettempdir(), "tiles.json"), trial=False)
        launches = launches_of(recorded([trainer_of(section, network, seed) for seed in range(runs)]))
        with alone(lock):
            micros = 1e6 * played_seconds(launches, 1, 0.3)
        print(f"small {small:14s} large {large:14s} slices from {slice_from:3d}  {network} x {runs}: {micros:.0f} µs",
              flush=True)  # fmt: skip


def time_products(small: str, large: str, slice_from: int, lock: str) -> None:
    """The three fused products of 4096 x 4096 x 4096, with the large tile."""
    take(small, large, slice_from)
    from gpu_timings import fused_products, seconds_of

    from svd_numpy.kernels.cuda.device import cuda

    for role, name, work in fused_products(SIZE):
        if name == "large":
            work()  # compiled while others are
            cuda.synchronize()
            with alone(lock):
                seconds = seconds_of(work, cuda.synchronize, 0.3)
            print(f"large {large:14s} {role:8s} {4 * SIZE**3 / seconds / 1e12:5.1f} TFLOP/s", flush=True)


def main() -> int:
    from svd_numpy.kernels.cuda import detect

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", nargs="+", default=list(SMALL))
    parser.add_argument("--large", nargs="+", default=list(LARGE))
    options = parser.parse_args()
    if (reason := detect.why_not()) or detect.simulated():
        print(f"nothing to time: {reason or 'the simulator knows no speed'}", file=sys.stderr)
        return 1
    first, lock = (options.small[0], options.large[0]), tempfile.mkstemp()[1]
    jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
    jobs += [(time_steps, (small, first[1], 128, lock)) for small in options.small]
    jobs += [(time_steps, (first[0], large, 128, lock)) for large in options.large[1:]]
    jobs += [(time_steps, (*first, 64, lock))]
    jobs += [(time_products, (first[0], large, 128, lock)) for large in options.large]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=arguments) for work, arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    Path(lock).unlink()
    return max(process.exitcode or 0 for process in processes)


if __name__ == "__main__":
    raise SystemExit(main())
