"""A training step of every method with gates beside one of Sparse VD on the same network, nothing removed yet.

    python benchmarks/step_methods.py
    python benchmarks/step_methods.py --archs lenet-5 --methods bc-gnj --threads 1

Networks are those of the recipes `default`. Writes `results/step-methods.md` and `.json`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import isa
from harness import HERE, Candidate, time_candidates
from machine import one_line
from ours import dataset_of, train_steps
from step import facts_of, write
from workload import SEED, TASKS, Step, Workload

from svd_numpy.experiments import architectures
from svd_numpy.experiments.methods import DEFAULT, METHODS
from svd_numpy.experiments.recipes import get_recipe

NAMES = (DEFAULT, *(name for name, method in METHODS.items() if method.gated))
ARCHS = ("lenet-300-100", "lenet-5")
COLUMNS = ("network", "threads", "method", "ms", f"times {DEFAULT}")


def _build(name: str, workload: Workload, batch: int, threads: int) -> Step:
    method = METHODS[name]
    plan = method.adapt(get_recipe(workload.arch, "default"))
    model = architectures.build(dataset_of(workload, 100), plan, SEED, "numba", method.kind)
    return train_steps(model, workload, batch)


for _name in NAMES:  # the harness finds builders by their names
    globals()[f"build {_name}"] = partial(_build, _name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all methods and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", choices=ARCHS, default=ARCHS)
    parser.add_argument("--methods", nargs="+", choices=NAMES[1:], default=NAMES[1:])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11, help="timed blocks of each")
    isa.add_option(parser)
    options = parser.parse_args(arguments)
    isa.hold(options.isa)
    names = [DEFAULT, *options.methods]
    rows, lines = list[dict[str, Any]](), [f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"]
    for threads in options.threads:
        for arch in options.archs:
            with tempfile.TemporaryDirectory() as scratch:
                candidates = [Candidate(name, "step_methods", f"build {name}") for name in names]
                timings = time_candidates(candidates, arch, 100, threads, options.rounds, scratch)
            for timing in timings:
                pairs = zip(timing.blocks_ms, timings[0].blocks_ms, strict=True)
                ratio = statistics.median(own / base for own, base in pairs)
                rows.append({"arch": arch, "threads": threads, **asdict(timing)})
                lines.append(
                    f"| {TASKS[arch].title} | {threads} | {timing.name} | {timing.median_ms:.3f} | {ratio:.2f} |"
                )
                print(lines[-1], flush=True)
    facts = facts_of("step_methods.py", sys.argv[1:] if arguments is None else arguments, rows, options)
    text = [
        "# A step of the methods with gates, beside one of Sparse VD",
        "",
        f"* Machine: {one_line(facts['machine'])}",
        f"* Command: `{facts['command']}`, {facts['date']}",
        *isa.lines(),
        f"* Batches of 100, nothing removed yet. {facts['rounds']} blocks of {facts['block_seconds']} s each, in turn. "
        "Times are medians; ratios are medians over the rounds, below 1 if the method is the faster.",
        "",
        *lines,
        "",
    ]
    write(HERE / "results", f"step-methods{isa.suffix()}", "\n".join(text), rows, facts)


if __name__ == "__main__":
    main()
