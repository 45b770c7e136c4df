"""Where the time of a training step goes, kernel by kernel, on a network of which a share of the weights lives.

    python benchmarks/step_parts.py --run runs/results/lenet-5-mnist-default-seed0
    python benchmarks/step_parts.py --arch lenet-300-100

The masks are those of `living.py`. Beside the kernels stands the noise of all outputs alone, which no step with
independent noise can do without. Run it on a quiet machine; adds to `results/step-parts.md` and `.json`.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import isa
import numba
import numpy as np
from harness import HERE
from living import EPOCHS, from_run, train
from living_steps import build_living, trained_model
from machine import add_rows, head
from workload import TASKS, Step, Workload, load_workload

from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.cpu import gates
from svd_numpy.kernels.cpu import threads as calls
from svd_numpy.kernels.cpu.backend import NumbaBackend, _words
from svd_numpy.kernels.cpu.tiles import LANES
from svd_numpy.network.living import LivingCopy, count_living
from svd_numpy.network.model import Sequential

OUT = HERE / "results" / "step-parts"
WARM_UP, STEPS = 20, 60


@contextmanager
def timed_kernels() -> Iterator[dict[str, list[float]]]:
    """Collect the milliseconds of each call of a parallel kernel, by kernel and the shape of its largest array."""
    found, plain = defaultdict[str, list[float]](list), calls.call

    def call(kernel: Callable[..., Any], *args: Any) -> None:
        begin = time.perf_counter()
        plain(kernel, *args)
        taken = 1e3 * (time.perf_counter() - begin)
        largest = max((a for a in args[:-1] if isinstance(a, np.ndarray)), key=lambda a: a.size)
        found[f"`{kernel.__name__}` {' x '.join(map(str, largest.shape))}"].append(taken)

    calls.call = call
    try:
        yield found
    finally:
        calls.call = plain


def median_ms(step: Callable[[], Any]) -> float:
    """Median milliseconds of a step."""
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def noise_ms(model: Sequential, batch: int) -> tuple[int, float]:
    """How many numbers of noise a step draws, and the milliseconds that they take alone."""
    layers = LivingCopy(model).model.variational_layers
    units, backend = [math.prod(layer.out_shape) for layer in layers], NumbaBackend()
    rows = [np.empty((batch, -(-outputs // 64) * 64), np.float32) for outputs in units]

    def draw() -> None:
        for i, out in enumerate(rows):
            backend._run(gates.noise_rows, _words(NoiseKey(0, i, 1)), out)  # without the memory of `Backend.noise`

    return batch * sum(units), median_ms(draw)


def measure(workload: Workload, share: float, batch: int, threads: int) -> dict[str, Any]:
    """The parts of a step, in milliseconds."""
    numba.set_num_threads(threads)
    step: Step = build_living(share, workload, batch, threads)
    for _ in range(WARM_UP):
        step()
    whole = median_ms(step)
    with timed_kernels() as found:
        for _ in range(STEPS):
            step()
    parts = {name: statistics.median(times) * len(times) / STEPS for name, times in found.items()}
    model = trained_model(workload, share)
    numbers, noise = noise_ms(model, batch)
    return {
        "arch": workload.arch, "share": share, "living": count_living(model), "batch": batch,
        "threads": threads, "lanes": LANES, "ms": whole, "noise": numbers, "noise_ms": noise, "parts": parts,
    }  # fmt: skip


def page(commands: list[str], rows: list[dict[str, Any]]) -> str:
    """A table for each network, share, processor and number of threads."""
    lines = [
        *head("The parts of a training step", commands),
        f"* Medians of {STEPS} steps. Each kernel with the shape of the largest array that it is given.",
        "* *noise alone*: all numbers of noise that a step draws, by the same generator and nothing else.",
    ]
    for row in rows:
        lines += [
            "",
            f"## {row['arch']}, {row['living']:,} living weights, batch {row['batch']}, {row['threads']} thread(s), "
            f"vectors of {row['lanes']}",
            "",
            "| part | ms | % of the step |\n|---|---|---|",
        ]
        shown = sorted(row["parts"].items(), key=lambda item: -item[1])
        shown = [*(item for item in shown if item[1] >= row["ms"] / 100), ("step", row["ms"])]
        shown += [(f"noise alone, {row['noise']:,} numbers", row["noise_ms"])]
        lines += [f"| {name} | {ms:.2f} | {100 * ms / row['ms']:.0f} |" for name, ms in shown]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure one network and add its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=list(TASKS), default="lenet-5")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.005])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--run", type=Path, help="folder of a finished run, whose masks are used")
    isa.add_option(parser)
    options = parser.parse_args()
    isa.hold(options.isa)
    state = HERE.parent / "runs" / f"living-{options.arch}.npz"
    os.environ["LIVING_STATE"] = str(state)
    if options.run is None:
        train(options.arch, EPOCHS[options.arch], state)
    else:
        from_run(options.arch, options.run, state)
    workload, batch, new = load_workload(options.arch, False), TASKS[options.arch].batches[0], dict[str, Any]()
    for threads in options.threads:
        for share in options.shares:
            new[f"{options.arch} {share:g} {batch} {threads} {LANES}"] = measure(workload, share, batch, threads)
    print(add_rows(OUT, new, page, order=lambda row: (row["arch"], -row["share"], row["threads"], row["lanes"])))


if __name__ == "__main__":
    main()
