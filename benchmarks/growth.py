"""How a run grows with the number of ranks: a model of the step's time, checked with two ranks here, and what it says.

    python benchmarks/growth.py

The time of a step on P ranks, with a batch of B examples:

    t = fixed + each * B / P + log2(P) * (bytes / bandwidth + latency + add)

`fixed` (Adam and the KL, which every rank does whole) and `each` come from steps at two batch sizes on one thread,
`add` (adding the partner's gradients) from a copy of that size, `bandwidth` and `latency` here from two processes that
exchange arrays. Every exchange carries the gradients of all weights once, 8 bytes for each. Writes results/growth.md,
growth.json and growth.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, describe, one_line
from ranks import BATCH, SPEED, on_ranks, prepare

from svd_numpy.files.atomic import write_atomic

OUT = Path(__file__).parent / "results"
NETWORKS = {"10 Gbit/s": 10e9 / 8, "25 Gbit/s": 25e9 / 8, "100 Gbit/s": 100e9 / 8}  # bytes a second
LATENCY = 2e-5  # seconds of one exchange between two machines, with TCP
NODES = (1, 2, 8, 32, 128)
CORES = 16  # of a node
SPREAD = 0.8  # what a core of such a node gives beside the others, of what it gives alone
TWO_RANKS = "2 shards, 2 ranks x 1 thread"


@dataclass(frozen=True)
class Cost:
    """What a step costs on one thread: seconds that every rank spends, seconds for each example, bytes exchanged."""

    fixed: float
    each: float
    bytes: float
    add: float

    def step(self, ranks: int, batch: int, bandwidth: float, latency: float, threads: float = 1) -> float:
        """Seconds of a step."""
        exchange = self.bytes / bandwidth + latency + self.add
        return (self.fixed + self.each * batch / ranks) / threads + math.log2(ranks) * exchange

    def wider(self, factor: float) -> Cost:
        """The same network with so many times as many weights, and work for each example."""
        return Cost(*(factor * part for part in (self.fixed, self.each, self.bytes, self.add)))


def exchange(size: int) -> tuple[float, int]:
    """Seconds of one exchange of so many bytes between two ranks here, and the number of this one."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    own, other, times = np.ones(size, np.uint8), np.empty(size, np.uint8), []
    for _ in range(15):
        comm.Barrier()
        began = time.perf_counter()
        comm.Sendrecv(own, 1 - comm.Get_rank(), recvbuf=other, source=1 - comm.Get_rank())
        times.append(time.perf_counter() - began)
    return statistics.median(times), comm.Get_rank()


def measure_exchange(size: int) -> float:
    """The same, started from here."""
    done = subprocess.run(on_ranks(2, __file__, "exchange", str(size)), stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[0])


def step_seconds(arch: str, batch: int) -> tuple[float, int]:
    """Seconds of a step on this process's threads, and the number of the network's weights."""
    from svd_numpy.train.config import TrainConfig
    from svd_numpy.train.runner import make_runner
    from svd_numpy.train.trainer import Trainer

    model, data = prepare(arch, SPEED[arch], None)
    runner = make_runner([Trainer(model, data, TrainConfig(epochs=1000, batch_size=batch))])
    times = []
    for step in range(12):
        began = time.perf_counter()
        runner.advance(1)
        if step >= 3:
            times.append(time.perf_counter() - began)
    return statistics.median(times), sum(layer.theta.size for layer in model.variational_layers)


def measure(arch: str) -> dict[str, Any]:
    """Cost of a network's step, from two batch sizes on one thread."""
    small, large = 20, BATCH
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = []
    for batch in (small, large):
        command = [sys.executable, __file__, "step", arch, str(batch)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found.append(done.stdout.split())
    (of_small, weights), (of_large, _) = ((float(seconds), int(count)) for seconds, count in found)
    each = (of_large - of_small) / (large - small)
    size = 8 * weights
    array, other = np.ones(size // 4, np.float32), np.ones(size // 4, np.float32)
    began = time.perf_counter()
    for _ in range(10):
        array += other
    add = (time.perf_counter() - began) / 10
    cost = Cost(max(0.0, of_small - small * each), each, size, add)
    return {"weights": weights, "cost": cost.__dict__, "exchange": measure_exchange(size)}


def check(results: dict[str, Any]) -> list[str]:
    """The model beside what two ranks measured (`ranks.py`)."""
    speed = json.loads((OUT / "ranks.json").read_text())["speed"]
    lines = [
        "| network | one rank, ms | two ranks, model | measured | exchange, model | measured |",
        "|--|--:|--:|--:|--:|--:|",
    ]
    for arch, found in results["networks"].items():
        cost, here = Cost(**found["cost"]), found["exchange"]
        one, two = cost.step(1, BATCH, math.inf, 0), cost.step(2, BATCH, math.inf, here)
        measured = {
            key: statistics.median(run[key] for run in speed[arch][TWO_RANKS]) for key in ("ms", "communication_ms")
        }
        title = arch + (f", width {SPEED[arch]:g}" if SPEED[arch] != 1 else "")
        lines.append(
            f"| {title} | {1e3 * one:.2f} | {1e3 * two:.2f} | {measured['ms']:.2f} | {1e3 * (here + cost.add):.2f} "
            f"| {measured['communication_ms']:.2f} |"
        )
    return lines


def forecast(cost: Cost, batch_of: Any) -> list[str]:
    """Speed-up over one node for each network between nodes, by number of nodes; and the share that waits for it."""
    threads = CORES * SPREAD
    head = " | ".join(f"{nodes} nodes" for nodes in NODES[1:])
    lines = [f"| batch | network | one node, ms | {head} |", "|--|--|--:" + "|--:" * (len(NODES) - 1) + "|"]
    for name, bandwidth in NETWORKS.items():
        one = cost.step(1, batch_of(1), bandwidth, LATENCY, threads)
        cells = []
        for nodes in NODES[1:]:
            seconds = cost.step(nodes, batch_of(nodes), bandwidth, LATENCY, threads)
            gain = one / seconds * batch_of(nodes) / batch_of(1)
            cells.append(f"{gain:.1f}x ({100 * gain / nodes:.0f} %)")
        label = f"{batch_of(1)} in all" if batch_of(1) == batch_of(2) else f"{batch_of(1)} a node"
        lines.append(f"| {label} | {name} | {1e3 * one:.0f} | {' | '.join(cells)} |")
    return lines


def table(results: dict[str, Any]) -> str:
    """The page."""
    vgg = Cost(**results["networks"]["vgg-like"]["cost"])
    ratio = (1.5 / SPEED["vgg-like"]) ** 2
    wide = vgg.wider(ratio)
    lines = [
        "# Growth: what ranks would give on more machines", "",
        f"* Machine: {one_line(results['machine'])}",
        f"* Command: {results['command']}", "",
        "The model, for P ranks and a batch of B:", "",
        "    t = fixed + each B / P + log2(P) (bytes / bandwidth + latency + add)", "",
        "## Measured here, one thread", "",
        "| network | weights | fixed, ms | each example, ms | exchanged, MB | add, ms | exchanged here in, ms |",
        "|--|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for arch, found in results["networks"].items():
        cost = Cost(**found["cost"])
        lines.append(
            f"| {arch}, width {SPEED[arch]:g} | {found['weights']:,} | {1e3 * cost.fixed:.2f} | {1e3 * cost.each:.3f} "
            f"| {cost.bytes / 1e6:.1f} | {1e3 * cost.add:.2f} | {1e3 * found['exchange']:.2f} |"
        )
    lines += ["", "## The model against two ranks here", "", *check(results), ""]
    lines += [
        "## VGG-like at k = 1.5 on more machines: a forecast, not a measurement", "",
        f"{ratio * results['networks']['vgg-like']['weights']:,.0f} weights, {wide.bytes / 1e6:.0f} MB in each "
        f"exchange; nodes of {CORES} cores, each worth {100 * SPREAD:.0f} % of the core here; "
        f"{1e6 * LATENCY:.0f} us latency. "
        "How many times as many examples in the same time as one node, and that by node.", "",
        *forecast(wide, lambda nodes: BATCH), "", *forecast(wide, lambda nodes: BATCH * nodes),
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def picture(results: dict[str, Any]) -> Any:
    """Draw seconds of an epoch against nodes, with the batch of each node fixed."""
    import matplotlib.pyplot as plt

    cost = Cost(**results["networks"]["vgg-like"]["cost"]).wider((1.5 / SPEED["vgg-like"]) ** 2)
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    nodes = 2 ** np.arange(0, 8)
    one = cost.step(1, BATCH, math.inf, 0, CORES * SPREAD)
    axes.plot(nodes, nodes, "--", color="0.6", label="as many runs of a sweep")
    for (name, bandwidth), marker in zip(NETWORKS.items(), "osD", strict=True):
        for batch, style in ((lambda n: BATCH * n, "-"), (lambda n: BATCH, ":")):
            gain = [one / cost.step(n, batch(n), bandwidth, LATENCY, CORES * SPREAD) * batch(n) / BATCH for n in nodes]
            kind = "a node" if style == "-" else "in all"
            axes.plot(nodes, gain, style, marker=marker, label=f"{name}, {BATCH} images {kind}")
    axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel="images in the same time, beside one node",
             title="VGG-like, k = 1.5: a forecast")  # fmt: skip
    axes.set_xticks(nodes, [str(n) for n in nodes])
    axes.legend(fontsize="small")
    return figure


def main() -> None:
    """Measure, and write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only write the page of what is in growth.json")
    options = parser.parse_args()
    path = OUT / "growth.json"
    if options.table:
        results = json.loads(path.read_text())
    else:
        results = {
            "machine": describe(),
            "command": command_line(),
            "networks": {arch: measure(arch) for arch in SPEED},
        }
        write_atomic(path, json.dumps(results, indent=1).encode())
    write_atomic(path.with_suffix(".md"), table(results).encode())
    picture(results).savefig(path.with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["step", arch, batch]:
            print(*step_seconds(arch, int(batch)))
        case ["exchange", size]:
            seconds, rank = exchange(int(size))
            if rank == 0:
                print(seconds, flush=True)
        case _:
            main()
