"""Threads where other programs want the cores: how many there are, how long they wait, and that nobody else notices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import thread_counts
from processes import environment

import svd_numpy as svd
from svd_numpy.kernels.cpu import threads
from svd_numpy.kernels.cpu.threads import RETRY, WINDOW, Crew


class Machine:
    """A machine with `free` cores: threads beyond them wait half of the time."""

    def __init__(self, most: int) -> None:
        self.free, self.now, self.waited, self.window = most, 0.0, 0, WINDOW * 1.01
        self.crew = Crew(most, self.waits, lambda: self.now)

    def waits(self) -> dict[str, int]:
        return {"1": self.waited}

    def run(self, seconds: float) -> list[int]:
        """Sizes of the crew, window by window."""
        sizes = list[int]()
        for _ in range(round(seconds / self.window)):
            self.now += self.window
            too_many = max(0, self.crew.size - self.free)
            self.waited += round(0.6e9 * self.window * too_many)
            sizes.append(self.crew.look())
        return sizes


def test_a_crew_alone_keeps_all_its_threads() -> None:
    assert set(Machine(4).run(10)) == {4}


@pytest.mark.parametrize("free", [1, 2, 3])
def test_a_crew_takes_the_cores_that_are_free_and_comes_back(free: int) -> None:
    machine = Machine(4)
    machine.run(1)
    machine.free = free
    sizes = machine.run(20)
    assert set(sizes[100:]) <= {free, free + 1}
    assert sizes[100:].count(free + 1) <= 0.1 * len(sizes[100:])  # it asks seldom
    machine.free = 4
    assert machine.run(RETRY + 1)[-1] == 4


def test_a_short_disturbance_costs_little() -> None:
    machine = Machine(2)
    machine.run(1)
    machine.free = 1
    machine.run(machine.window)
    machine.free = 2
    assert machine.run(1).count(1) <= 3


def test_the_crew_never_goes_below_one_thread_and_looks_only_once_a_window() -> None:
    machine = Machine(2)
    machine.free = 0
    assert min(machine.run(5)) == 1
    looks = [machine.crew.look() for _ in range(100)]
    assert len(set(looks)) == 1


def test_the_kernel_counts_waits() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux says how long a thread waited for a core")
    assert str(os.getpid()) in threads.waits()


def test_a_smaller_crew_gives_the_same_bits_and_leaves_numba_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> bytes:
        model = svd.Sequential(svd.VariationalDense(40, 30), svd.ReLU(), svd.VariationalDense(30, 3), backend="numba")
        x = np.random.default_rng(0).standard_normal((64, 40)).astype(np.float32)
        loss, grads = model.loss_and_grads(x, np.zeros(64, np.int64), n_train=64)
        return str(loss).encode() + b"".join(grads[name].tobytes() for name in sorted(grads))

    with thread_counts.on(3):
        expected = trained()
        for size in (1, 2):
            crew = Crew(3, lambda: {}, lambda: 0.0)
            crew.size = size
            monkeypatch.setattr(threads, "_CREW", crew)
            assert trained() == expected
            assert numba.get_num_threads() == 3


SPIN = """
import os, sys
import svd_numpy.kernels.cpu.backend
import svd_numpy.kernels.cpu.threads as threads
print("libgomp" in open("/proc/self/maps").read(), os.environ.get("GOMP_SPINCOUNT"), threads._CREW is None)
import numba.np.ufunc.omppool
"""


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is the layer of Linux")
def test_openmp_is_loaded_with_a_short_spin_that_nobody_else_sees() -> None:
    """With OMP_DISPLAY_ENV, GNU OpenMP says while it is loaded what it has read."""

    def run(**variables: str) -> tuple[str, str]:
        held = environment(OMP_DISPLAY_ENV="VERBOSE", **variables)
        done = subprocess.run(
            [sys.executable, "-c", SPIN], env=held, cwd=Path(__file__).parent, text=True,
            capture_output=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout.strip(), done.stderr

    said, shown = run()
    assert said == "True None True"  # `environment` sets NUMBA_NUM_THREADS: that number is kept
    assert f"GOMP_SPINCOUNT = '{threads.SPINS}'" in shown
    said, shown = run(GOMP_SPINCOUNT="77")
    assert said == "False 77 True"
    assert "GOMP_SPINCOUNT = '77'" in shown
    assert f"'{threads.SPINS}'" not in run(OMP_WAIT_POLICY="active")[1]
