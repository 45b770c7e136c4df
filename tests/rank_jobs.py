"""What tests/test_ranks.py trains, in one process or as a script on several ranks.

python -m mpi4py tests/rank_jobs.py KIND FOLDER [resume] [kill | raise | stop]; the last three happen on rank 1, after
epoch 3. Every rank writes the CRC of what it has at the end into FOLDER-rankN.
"""

from __future__ import annotations

import os
import signal
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.train import loop
from svd_numpy.train.ranks import ALONE, Ranks

KINDS = ("dense", "conv")


def few_digits() -> Dataset:
    """So few that batches of 50 leave 30 over, which four shards do not divide."""
    data = svd.load("digits")
    return replace(data, x_train=data.x_train[:330], y_train=data.y_train[:330])


def network(kind: str, **options: Any) -> svd.Sequential:
    """A dense network; or a convolutional one with batch normalisation and dropout."""
    if kind == "dense":
        return svd.Sequential(
            svd.VariationalDense(784, 30), svd.ReLU(), svd.VariationalDense(30, 10), **options
        )  # fmt: skip
    return svd.Sequential(
        svd.VariationalConv2d(1, 8, 3, padding=1, bias=False), svd.BatchNorm(8), svd.ReLU(), svd.MaxPool2d(4),
        svd.Flatten(), svd.Dropout(0.2), svd.VariationalDense(392, 20, bias=False), svd.BatchNorm(20, momentum=None),
        svd.ReLU(), svd.VariationalDense(20, 10), input_shape=(1, 28, 28), **options,
    )  # fmt: skip


def configuration(kind: str, **changes: Any) -> svd.TrainConfig:
    """With removal and fine-tuning for the dense network, with shifted images for the other one."""
    common = {"batch_size": 50, "lr": 1e-2, "kl_weight": 0.03, "shards": 4, "eval_every": 1}
    if kind == "dense":
        removal = {"remove_above": -1.0, "remove_from": 2, "finetune_epochs": 1, "finetune_threshold": -1.0}
        return svd.TrainConfig(**{**common, **removal, "epochs": 5, **changes})
    return svd.TrainConfig(**{**common, "shift": 1, "epochs": 4, **changes})


def crc(model: svd.Sequential) -> str:
    """CRC-32 of all arrays of a network, running averages included."""
    return f"{zlib.crc32(b''.join(array.tobytes() for array in model.arrays().values())):08x}"


def train(kind: str, folder: Path | None, resume: bool, mishap: str, ranks: Ranks = ALONE) -> str:
    """Train on this rank; return the CRC of the result."""

    def happen(trainer: svd.Trainer, record: dict[str, Any]) -> None:
        if ranks.rank != 1 or record["epoch"] != 3:
            return
        if mishap == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mishap == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if mishap == "raise":
            raise RuntimeError("rank 1 fails")

    model = network(kind, backend="numba")
    svd.fit(model, few_digits(), configuration(kind), [happen], folder, resume, progress=False, ranks=ranks)
    return crc(model)


if __name__ == "__main__":
    loop.SAVE_SECONDS = 0.0
    of_all, at = svd.join_ranks(), Path(sys.argv[2])
    found = train(sys.argv[1], at, "resume" in sys.argv, sys.argv[-1], of_all)
    at.with_name(f"{at.name}-rank{of_all.rank}").write_text(found)
