"""Small data, small networks and short runs for the tests of model and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.files.run_log import read_log

N_TRAIN, N_IN, N_CLASSES = 110, 12, 3


def make_data(seed: int = 0, n_train: int = N_TRAIN, n_test: int = 60) -> Dataset:
    """Three classes that show in the first three of twelve columns; the other nine are noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, N_CLASSES, n_train + n_test)
    x = rng.normal(size=(n_train + n_test, N_IN)).astype(np.float32)
    x[:, :N_CLASSES] += 4 * np.eye(N_CLASSES)[y]
    return Dataset("own", x[:n_train], y[:n_train], x[n_train:], y[n_train:], None, N_CLASSES, "made here")


def make_net(backend: str = "numpy", seed: int = 0, **options: Any) -> svd.Sequential:
    """12 - 8 - 3, all weights variational."""
    layers = (svd.VariationalDense(N_IN, 8), svd.ReLU(), svd.VariationalDense(8, N_CLASSES))
    return svd.Sequential(*layers, backend=backend, seed=seed, **options)


def make_config(**changes: Any) -> svd.TrainConfig:
    """Four variational epochs of five steps (the last one short), then two of fine-tuning."""
    settings: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 25,
        "lr": 0.01,
        "lr_schedule": ((2.0, 1.0), (4.0, 0.2)),
        "kl_schedule": ((0.5, 0.0), (2.0, 1.0)),
        "finetune_epochs": 2,
        "finetune_lr": 0.005,
        "finetune_threshold": 0.0,
    }
    return svd.TrainConfig(**(settings | changes))


STEPS_PER_EPOCH = 5


def bits(model: svd.Sequential) -> dict[str, bytes]:
    """Every parameter array as bytes."""
    return {name: array.tobytes() for name, array in model.arrays().items()}


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records without the entries that differ between two equal runs."""
    times = ("seconds", "ms_per_step")
    return [{key: value for key, value in record.items() if key not in times} for record in records]


def run_log(run_dir: Path) -> list[dict[str, Any]]:
    """Return the records of a run folder, timeless."""
    return timeless(read_log(run_dir / "metrics.jsonl"))


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
