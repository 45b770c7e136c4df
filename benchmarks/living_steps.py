"""Steps on a network of which a share of the weights lives: ours, PyTorch with masks, SciPy's sparse matrices.

The masks are those of a trained network: the weights with the lowest log alpha are left, and units without inputs or
readers go, as in training. ``living.py`` trains it and names its file in ``LIVING_STATE``.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
from ours import untrained_model
from workload import KL_WEIGHT, LEARNING_RATE, SEED, TASKS, TRAIN_EXAMPLES, Step, Workload, batch_indices

from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.philox import gaussian
from svd_numpy.kernels.priors import kl_grad
from svd_numpy.network.living import living, remove
from svd_numpy.network.model import Sequential
from svd_numpy.network.sparsity import log_alpha
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.runner import make_runner
from svd_numpy.train.trainer import Trainer

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


def trained_model(workload: Workload, share: float) -> Sequential:
    """The trained network, in which so large a share of the weights is left."""
    with np.load(os.environ["LIVING_STATE"]) as file:
        arrays = {name: file[name] for name in file.files}
    model = untrained_model(workload)
    model.load_arrays(arrays)
    if share < 1:
        every = np.concatenate([alphas.ravel() for alphas in log_alpha(model).values()])
        highest = float(np.quantile(every, share))
        if highest == every.max():  # those that the run removed all have the same
            left = np.mean(every < highest)
            raise SystemExit(f"got a share of {share:g}; of the weights of this run, only {left:.4f} were left")
        remove(model, highest)
    return model


def build_living(share: float, workload: Workload, batch: int, threads: int) -> Step:
    """A step of a training that has removed all but this share of the weights."""
    model = trained_model(workload, share)
    data = Dataset(
        "workload", workload.images, workload.labels, workload.images[:100], workload.labels[:100],
        TASKS[workload.arch].image_shape, 10, "",
    )  # fmt: skip
    config = TrainConfig(
        epochs=10_000, batch_size=batch, lr=LEARNING_RATE, kl_schedule=((0.0, KL_WEIGHT),), seed=SEED, remove_above=60.0
    )
    trainer = Trainer(model, data, config)
    runner = make_runner([trainer])

    def step() -> float:
        before = trainer.progress.nll_sum
        runner.advance(1)
        return (trainer.progress.nll_sum - before) / batch

    return step


def build_scipy(share: float, workload: Workload, batch: int, threads: int) -> Step:
    """The same step of a dense network with SciPy's CSR matrices and NumPy, as one would write it."""
    from scipy import sparse

    model = trained_model(workload, share)
    layers = []
    for layer in model.variational_layers:
        rows, columns = np.nonzero(living(model)[layer.name])
        parts = [layer.theta[rows, columns], layer.log_sigma2[rows, columns], layer.bias.copy()]
        layers.append((layer.theta.shape, rows, columns, parts, [(np.zeros_like(p), np.zeros_like(p)) for p in parts]))
    images, labels = workload.images, workload.labels
    indices, count = batch_indices(batch, len(images)), [0]

    def step() -> float:
        count[0] += 1
        index = next(indices)
        x = images[index].astype(np.float32) * np.float32(1 / 255)
        kept: list[Any] = []
        for number, (shape, rows, columns, (theta, log_sigma2, bias), _) in enumerate(layers):
            sigma2 = np.exp(log_sigma2)
            mean, var = (sparse.csr_matrix((v, (columns, rows)), shape=shape[::-1]) for v in (theta, sigma2))
            std = np.sqrt((var @ (x * x).T).T)
            noise = gaussian(NoiseKey(SEED, number, count[0]), batch, shape[1], np.float32)
            y = (mean @ x.T).T + bias + std * noise
            r = np.where(std > 1e-15, noise / (2 * np.maximum(std, 1e-15)), 0)
            last = number == len(layers) - 1
            kept.append((x, y, r, mean, var, sigma2))
            x = y if last else np.maximum(y, 0)
        shifted = x - x.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        d = np.exp(log_p)
        d[np.arange(batch), labels[index]] -= 1
        d = (d / batch).astype(np.float32)
        for number in reversed(range(len(layers))):
            _, rows, columns, parts, moments = layers[number]
            x, y, r, mean, var, sigma2 = kept[number]
            if number < len(layers) - 1:
                d = d * (y > 0)
            d_var = d * r
            x_t, d_t, d_var_t = (np.ascontiguousarray(a.T) for a in (x, d, d_var))
            d_theta = np.einsum("nb,nb->n", x_t[rows], d_t[columns])
            d_log_sigma2 = sigma2 * np.einsum("nb,nb->n", x_t[rows] ** 2, d_var_t[columns])
            grads = [d_theta, d_log_sigma2, d.sum(axis=0)]
            for grad, kl in zip(grads, kl_grad(parts[0], parts[1], "log_uniform"), strict=False):
                grad += KL_WEIGHT / TRAIN_EXAMPLES * kl
            if number:
                d = (mean.T @ d_t).T + 2 * x * (var.T @ d_var_t).T
            rate, unbias = LEARNING_RATE / (1 - 0.9 ** count[0]), 1 / (1 - 0.999 ** count[0])
            for part, grad, (m, v) in zip(parts, grads, moments, strict=True):
                m += 0.1 * (grad - m)
                v += 0.001 * (grad * grad - v)
                part -= rate * m / (np.sqrt(v * unbias) + 1e-8)
        return float(-log_p[np.arange(batch), labels[index]].mean())

    return step


for _share in SHARES:
    globals()[f"build_living_{_share:g}"] = partial(build_living, _share)
    globals()[f"build_scipy_{_share:g}"] = partial(build_scipy, _share)
