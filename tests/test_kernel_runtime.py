"""The Numba kernels in a running program: threads and memory."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import environment
from thread_counts import assert_same_bits, digest

from svd_numpy.data import Dataset
from svd_numpy.network.layers import Dense, ReLU, VariationalDense
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.trainer import Trainer

Array = NDArray[Any]
# --- Threads and memory ---


def twenty_steps() -> tuple[Array, ...]:
    """Train for three epochs and fine-tune for one, with short batches at the end of each."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((280, 70)).astype(np.float32), rng.integers(0, 3, 280)
    data = Dataset("noise", x, y, x[:5], y[:5], None, 3, "")
    model = Sequential(VariationalDense(70, 130), ReLU(), VariationalDense(130, 3), backend="numba")
    trainer = Trainer(model, data, TrainConfig(epochs=3, finetune_epochs=1, batch_size=60, train_mask=True))
    for _ in range(20):
        trainer.step()
    return model.arena.params, model.arena.m, model.arena.v


def test_training_has_the_same_bits_on_any_number_of_threads() -> None:
    assert_same_bits(twenty_steps)


def test_a_process_that_has_one_thread_computes_the_same_bits() -> None:
    """Buffers depend on how many threads Numba may use, which a process decides once."""
    code = "from test_kernel_runtime import digest, twenty_steps; print(digest(twenty_steps()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == digest(twenty_steps()), done.stderr


def test_two_python_threads_predict_at_once() -> None:
    x = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)
    layers = [(VariationalDense(40, 70, log_sigma2=-3.0), ReLU(), Dense(70, 3)) for _ in range(2)]
    models = [Sequential(*stack, backend="numba", seed=seed) for seed, stack in enumerate(layers)]
    jobs: list[Callable[[], Array]] = [
        lambda: models[0].predict(x), lambda: models[1].predict(x), lambda: models[0].sample(x, 2),
    ]  # fmt: skip
    expected = [job().tobytes() for job in jobs]
    wrong: list[int] = []

    def work(number: int) -> None:
        wrong.extend(number for _ in range(20) if jobs[number]().tobytes() != expected[number])

    workers = [threading.Thread(target=work, args=(number,)) for number in (0, 1, 2, 0)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_memory_does_not_grow_with_the_steps(blobs: Dataset, backend: str) -> None:
    model = Sequential(VariationalDense(12, 65), ReLU(), VariationalDense(65, 3), backend=backend)
    trainer = Trainer(model, blobs, TrainConfig(epochs=20, batch_size=50))  # the last batch of an epoch is smaller
    for _ in range(10):
        trainer.step()
    tracemalloc.start()
    trainer.step()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(30):
        trainer.step()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 40_000  # one more array of the weights at each of 30 steps would be 117 kB
