"""Interleaved timing of candidates, each in a process of its own, pinned alike."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from machine import allowed_cores, wait_until_quiet

BLOCK_SECONDS = 0.3
# libgomp's threads spin for some milliseconds after their last region: the window lets those of the
# candidate before go to sleep. /proc/stat counts in ticks of 10 ms on each processor.
SETTLE_SECONDS = 0.1
HERE = Path(__file__).resolve().parent
QUIET_SHARE = 0.2
PATIENCE_SECONDS = 10.0
FOREIGN_SECONDS_ALLOWED = 0.03
FOREIGN_SHARE_ALLOWED = 0.05


@dataclass(frozen=True)
class Candidate:
    """A function ``builder(workload, batch, threads) -> Step`` in a module of this folder."""

    name: str
    module: str
    builder: str
    floats: bool = False  # it takes images as float32, see `workload.Workload`
    checkout: str = ""  # another checkout of the project, whose package and benchmarks are to be used


@dataclass
class Timing:
    """Milliseconds per step in the blocks of one candidate; ``unavailable`` says why there are none."""

    name: str
    blocks_ms: list[float] = field(default_factory=list)
    repeated_blocks: int = 0
    disturbed_blocks: int = 0
    cold_seconds: float = 0.0
    memory_mib: float | None = None
    first_loss: float = 0.0
    last_loss: float = 0.0
    data: str = ""
    unavailable: str = ""

    @property
    def median_ms(self) -> float:
        """Median over the blocks."""
        return statistics.median(self.blocks_ms)

    @property
    def min_ms(self) -> float:
        """Fastest block."""
        return min(self.blocks_ms)


def worker_environment(threads: int, scratch: str) -> dict[str, str]:
    """Return the environment of every worker: the same threads and pinning for all candidates.

    OMP_WAIT_POLICY is left unset on purpose (README.md says why). ``scratch`` is an empty folder for
    compiled code, so that the cold start of a compiling candidate is a cold one.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment.update(
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
        NUMBA_NUM_THREADS=str(threads),
        OPENBLAS_NUM_THREADS="1",
        OMP_PROC_BIND="close",
        OMP_PLACES=",".join(f"{{{core}}}" for core in allowed_cores()[:threads]),
        OMP_DYNAMIC="false",
        TORCHINDUCTOR_CACHE_DIR=scratch,
        TORCHINDUCTOR_COMPILE_THREADS="1",
        PYTHONPATH=str(HERE),  # so that another checkout's worker finds a builder that it does not have
    )
    return environment


class Worker:
    """A candidate in its process; the constructor returns when it is warm."""

    def __init__(self, candidate: Candidate, arch: str, batch: int, threads: int, scratch: str) -> None:
        self.timing = Timing(candidate.name)
        self._steps = 0
        folder = Path(candidate.checkout) / "benchmarks" if candidate.checkout else HERE
        self._process = subprocess.Popen(
            [sys.executable, str(folder / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(threads, scratch),
            text=True,
        )
        request = {key: value for key, value in asdict(candidate).items() if key != "name"}
        answer = self._ask(**request, arch=arch, batch=batch, threads=threads)
        if "step_seconds" in answer:
            self._steps = max(2, round(BLOCK_SECONDS / answer.pop("step_seconds")))
        for name, value in answer.items():
            setattr(self.timing, name, value)

    def _ask(self, **request: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.timing.name!r} died; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def time_block(self) -> None:
        """Time one block; repeat it while others use the processors; out of patience, keep the quietest."""
        best_seconds, least_foreign = 0.0, float("inf")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            wait_until_quiet(SETTLE_SECONDS, QUIET_SHARE, deadline)
            answer = self._ask(do="time", steps=self._steps)
            seconds, foreign = answer["seconds"], answer["foreign_seconds"]
            if foreign < least_foreign:
                best_seconds, least_foreign = seconds, foreign
            if foreign <= FOREIGN_SECONDS_ALLOWED + FOREIGN_SHARE_ALLOWED * seconds:
                break
            if time.monotonic() > deadline:
                self.timing.disturbed_blocks += 1
                break
            self.timing.repeated_blocks += 1
        self.timing.blocks_ms.append(best_seconds / self._steps * 1e3)

    def close(self) -> None:
        """Ask for the last loss and end the process; without a finite loss the times do not count."""
        if not self.timing.unavailable:
            self.timing.last_loss = self._ask(do="loss")["loss"]
            if not math.isfinite(self.timing.last_loss):
                self.timing.unavailable = f"its loss became {self.timing.last_loss}"
                self.timing.blocks_ms.clear()
        self._process.communicate()


def time_candidates(
    candidates: Sequence[Candidate], arch: str, batch: int, threads: int, rounds: int, scratch: str
) -> list[Timing]:
    """Time all candidates on one network, batch size and thread count, one block each in every round.

    Workers are built one after another, so that nobody compiles while another is timed. The order
    turns by one from round to round: no candidate always follows the same other one.
    """
    workers = [Worker(candidate, arch, batch, threads, scratch) for candidate in candidates]
    runnable = [worker for worker in workers if not worker.timing.unavailable]
    for turn in range(rounds):
        first = turn % max(1, len(runnable))
        for worker in runnable[first:] + runnable[:first]:
            worker.time_block()
    for worker in workers:
        worker.close()
    return [worker.timing for worker in workers]
