"""Two trainings on the same cores: alone, one after the other, side by side, and beside another program's full load.

    python benchmarks/side_by_side.py

Each training is LeNet-300-100 at batch 100 in a process of its own, with as many threads as there are cores. "Spinning"
is what GNU OpenMP does unless told otherwise: threads spin for milliseconds at the end of each kernel. "Short spin"
lets them sleep earlier; "short spin, crew" (what the package does, `svd_numpy/kernels/cpu/threads.py`) also lets go of
threads that find no core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import allowed_cores, busy_seconds, command_line, describe, one_line

from svd_numpy.files.atomic import write_atomic

OUT = Path(__file__).parent / "results" / "side-by-side"
CORES = str(len(allowed_cores()))
SETTINGS = {  # name -> environment
    "spinning": {"NUMBA_NUM_THREADS": CORES, "GOMP_SPINCOUNT": "300000"},
    "short spin": {"NUMBA_NUM_THREADS": CORES},
    "short spin, crew": {},
}
OTHERS = ("NUMBA_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
COLUMNS = ("alone", "one after the other", "side by side", "beside a busy loop")
WARM_UP = 50  # steps


class Training:
    """A process that trains so many steps when it is told to."""

    def __init__(self, environment: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in OTHERS}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**clean, "OPENBLAS_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        self.end()

    def start(self, steps: int) -> None:
        """Begin to train."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Wait until it has trained."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("a training died; its message is above")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve() -> None:
    """Train the steps that standard input asks for, line by line."""
    from ours import build_ours
    from workload import load_workload

    step = build_ours(load_workload("lenet-300-100", False), 100, int(CORES))
    steps = WARM_UP
    while True:
        for _ in range(steps):
            step()
        print("done", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        steps = int(line)


def seconds(trainings: list[Training], steps: int) -> float:
    """Seconds until all have trained so many steps, side by side."""
    start = time.perf_counter()
    for training in trainings:
        training.start(steps)
    for training in trainings:
        training.end()
    return time.perf_counter() - start


def measure(first: Training, second: Training, steps: int) -> list[float]:
    """Seconds of one round, in the order of `COLUMNS`."""
    for training in (first, second):  # it may still have fewer threads, from the round before
        seconds([training], steps // 2)
    alone, other = seconds([first], steps), seconds([second], steps)
    together = seconds([first, second], steps)
    busy = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{allowed_cores()[0]}}})\nwhile True: pass"]
    )
    try:
        beside = seconds([first], steps)
    finally:
        busy.kill()
        busy.wait()
    return [(alone + other) / 2, alone + other, together, beside]


def table(rounds: dict[str, list[list[float]]], one_thread: list[float], steps: int, foreign: float) -> str:
    """The page."""
    lines = [
        "# Two trainings on the same cores",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}",
        f"* LeNet-300-100, batch 100, {CORES} threads, {steps:,} steps; medians of {len(one_thread)} rounds, in which",
        "  settings take turns. Milliseconds per step of one training; for two trainings, milliseconds until both have",
        "  done a step. The busy loop is bound to one core.",
        f"* Other programs took {foreign:.2f} cores meanwhile; where that is not about 0, `alone` was not alone",
        f"* On one thread, alone: {1e3 * statistics.median(one_thread) / steps:.2f} ms",
        "",
        f"| setting | {' | '.join(COLUMNS)} | side by side / one after the other |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, rows in rounds.items():
        cells = [1e3 * statistics.median(column) / steps for column in zip(*rows, strict=True)]
        ratio = statistics.median(row[2] / row[1] for row in rows)
        lines.append(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {ratio:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure all settings in turn, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    busy, start = busy_seconds() or 0.0, time.perf_counter()
    pairs = {name: (Training(environment), Training(environment)) for name, environment in SETTINGS.items()}
    lone = Training({"NUMBA_NUM_THREADS": "1"})
    rounds: dict[str, list[list[float]]] = {name: [] for name in SETTINGS}
    one_thread = list[float]()
    for _ in range(options.rounds):
        for name, pair in pairs.items():
            rounds[name].append(measure(*pair, options.steps))
        one_thread.append(seconds([lone], options.steps))
    for training in (lone, *(one for pair in pairs.values() for one in pair)):
        training.close()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(one.ru_utime + one.ru_stime for one in used)
    foreign = max(0.0, ((busy_seconds() or 0.0) - busy - own) / (time.perf_counter() - start))
    page = table(rounds, one_thread, options.steps, foreign)
    held = {
        "machine": describe(),
        "steps": options.steps,
        "columns": COLUMNS,
        "seconds": rounds,
        "one thread": one_thread,
    }
    write_atomic(OUT.with_suffix(".json"), json.dumps(held, indent=1).encode())
    write_atomic(OUT.with_suffix(".md"), page.encode())
    print(page)


if __name__ == "__main__":
    main()
