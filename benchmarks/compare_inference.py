"""Predictions of a pruned LeNet-300-100, by public names that every version of the package has (`compare.py`)."""

from __future__ import annotations

import numpy as np
from workload import SEED, Step, Workload

import svd_numpy as svd


def _pruned() -> svd.Sequential:
    """A network with one weight in 68 left, as in the paper, without training."""
    sizes = (784, 300), (300, 100), (100, 10)
    layers = []
    for n_in, n_out in sizes:
        layers += [svd.VariationalDense(n_in, n_out), svd.ReLU()]
    model = svd.Sequential(*layers[:-1], backend="numba", seed=SEED)
    rng = np.random.default_rng(SEED)
    for name, kept in (("dense1", 0.011), ("dense2", 0.028), ("dense3", 0.38)):
        log_sigma2 = model.parameters[f"{name}.log_sigma2"]
        log_sigma2[:] = np.where(rng.uniform(size=log_sigma2.shape) < kept, -20, 10)
    return model


def build_compact(workload: Workload, batch: int, threads: int) -> Step:
    """Return a function that predicts a batch with the compact network."""
    small, x = svd.compress(_pruned()), workload.images[:batch]
    return lambda: float(small.predict(x)[0, 0])


def build_pruned(workload: Workload, batch: int, threads: int) -> Step:
    """Return a function that predicts a batch with the pruned network, zeros and all."""
    model, x = _pruned(), workload.images[:batch]
    return lambda: float(model.predict(x)[0, 0])
