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
from workload import Step, load_workload

WARM_UP_SECONDS = 0.5
WARM_UP_STEPS = 10


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
    workload = load_workload()
    start = time.perf_counter()
    module = importlib.import_module(request["module"])
    step: Step = getattr(module, request["builder"])(workload, request["batch"], request["threads"])
    first_loss = float(step())
    cold_seconds = time.perf_counter() - start

    warm_up_end = time.perf_counter() + WARM_UP_SECONDS
    done = 0
    while done < WARM_UP_STEPS or time.perf_counter() < warm_up_end:
        step()
        done += 1
    seconds, _ = timed_block(step, WARM_UP_STEPS)
    answer = {
        "cold_seconds": cold_seconds,
        "first_loss": first_loss,
        "step_seconds": seconds / WARM_UP_STEPS,
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
