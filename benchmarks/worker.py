"""One candidate of the step benchmark in a process of its own; started by ``harness.Worker``.

It speaks JSON lines: one request a line on standard input, one answer a line on standard output.
Between requests it blocks in a read, so that an idle candidate takes no processor time.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # svd_numpy of this checkout

from machine import busy_seconds
from memory import anonymous_mib, peak_of
from workload import Step, load_workload

WARM_UP_SECONDS = 0.5
WARM_UP_STEPS = 10
WARM_UP_PATIENCE = 5.0  # seconds; steps of half a second and more get by with fewer


def timed_block(step: Step, steps: int) -> tuple[float, float]:
    """Run ``steps`` steps; return wall seconds and the processor seconds others used meanwhile."""
    busy = busy_seconds()
    own = time.process_time()  # user + system time of all threads of this process
    start = time.perf_counter()
    for _ in range(steps):
        step()
    seconds = time.perf_counter() - start
    own = time.process_time() - own
    busy_after = busy_seconds()
    foreign = 0.0 if busy is None or busy_after is None else busy_after - busy - own
    return seconds, foreign


def build(request: dict[str, Any]) -> tuple[Step, dict[str, Any]]:
    """Build the candidate, run its first step (that is its cold start) and warm it up."""
    workload = load_workload(request["arch"], request["floats"])
    start = time.perf_counter()
    module = importlib.import_module(request["module"])
    imported_mib = anonymous_mib()
    step: Step = getattr(module, request["builder"])(workload, request["batch"], request["threads"])
    first_loss = float(step())
    cold_seconds = time.perf_counter() - start

    warm_up_start = time.perf_counter()
    done, passed = 0, 0.0
    while passed < WARM_UP_SECONDS or (done < WARM_UP_STEPS and passed < WARM_UP_PATIENCE):
        step()
        done += 1
        passed = time.perf_counter() - warm_up_start
    steps = min(done, WARM_UP_STEPS)
    seconds, _ = timed_block(step, steps)
    peak_mib = peak_of(step)
    answer = {
        "cold_seconds": cold_seconds,
        "first_loss": first_loss,
        "step_seconds": seconds / steps,
        "memory_mib": None if imported_mib is None or peak_mib is None else peak_mib - imported_mib,
        "data": workload.description,
    }
    return step, answer


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the parent closes the pipe."""

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        step, answer = build(json.loads(requests.readline()))
    except ImportError as error:
        send({"unavailable": f"{type(error).__name__}: {error}"})
        return
    send(answer)
    for line in requests:
        request = json.loads(line)
        if request["do"] == "time":
            step()  # wakes the thread pool and brings the working set back into the caches
            seconds, foreign = timed_block(step, request["steps"])
            send({"seconds": seconds, "foreign_seconds": foreign})
        else:
            send({"loss": float(step())})


if __name__ == "__main__":
    # Libraries (and the C++ compiler torch calls) may print: keep the answers' pipe for the answers.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, pipe)
