"""Networks for tables: what the scikit-learn estimators and the regression experiment share.

Tables are small, so budget and schedules follow from the number of rows, and inputs and targets are standardised.
The variance of the targets' noise decides how much a weight may cost; it is estimated while training, not set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from svd_numpy.checks import check_count, check_number
from svd_numpy.network.layers import Dense, Layer, ReLU, VariationalDense
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Gaussian, Likelihood
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.trainer import Record, Trainer

_STEPS, _EPOCHS = 1500, 50  # the budget where the user gives none: so many steps, but at least so many epochs
_LEAST_STD = 0.05  # of standardised targets: below, noise is not told from none, and the likelihood would have no bound
_SMALL = 50_000  # weights; below, handing a step to threads takes longer than the step


def make_network(
    n_in: int,
    hidden_sizes: Sequence[int],
    n_out: int,
    likelihood: str | Likelihood,
    seed: int,
    variational: bool = True,
    prior: str = "log_uniform",
    threshold: float = 3.0,
    backend: str = "auto",
) -> Sequential:
    """Build a network of dense layers with ReLU between.

    Parameters
    ----------
    n_in, n_out : int
    hidden_sizes : sequence of int
        Units of the hidden layers; none makes a linear model.
    likelihood, seed, prior, threshold
        As in `Sequential`.
    variational : bool
        Whether weights are Gaussians; else the ordinary network to compare with.
    backend : "auto", "numba" or "numpy"
        "auto" takes NumPy, in float64, for networks of less than 50,000 weights.
    """
    sizes = [n_in, *(check_count("hidden_sizes", size) for size in hidden_sizes), n_out]
    if backend == "auto" and sum(a * b for a, b in pairwise(sizes)) < _SMALL:
        backend = "numpy"
    layers: list[Layer] = []
    for before, after in pairwise(sizes):
        layers += [VariationalDense(before, after) if variational else Dense(before, after), ReLU()]
    return Sequential(
        *layers[:-1], prior=prior, backend=backend, dtype="float64" if backend == "numpy" else "float32", seed=seed,
        threshold=threshold, likelihood=likelihood,
    )  # fmt: skip


def make_config(
    n_rows: int,
    epochs: int | None = None,
    batch_size: int = 50,
    lr: float = 0.01,
    kl_weight: float = 1.0,
    finetune_epochs: int = 0,
    threshold: float = 3.0,
    seed: int = 0,
) -> TrainConfig:
    """Lay out the training on a table of `n_rows` rows.

    Parameters
    ----------
    n_rows : int
    epochs : int, optional
        Default: as many as make 1,500 steps, and at least 50.
    batch_size, finetune_epochs, seed : int
    lr : float
        Flat for half of the epochs, then in a straight line to 0; fine-tuning begins at a tenth of it.
    kl_weight : float
        Its final weight: 0 for a tenth of the epochs, rising until half of them are done.
    threshold : float
        Of the fine-tuning.
    """
    check_count("batch_size", batch_size)
    if epochs is None:
        epochs = max(_EPOCHS, math.ceil(_STEPS / math.ceil(n_rows / batch_size)))
    check_count("epochs", epochs)
    lr, kl_weight = check_number("lr", lr, low=0, high=10), check_number("kl_weight", kl_weight, low=0)
    return TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_schedule=((0.5 * epochs, 1.0), (epochs, 0.0)),
        kl_schedule=((0.1 * epochs, 0.0), (0.5 * epochs, kl_weight)),
        finetune_epochs=finetune_epochs,
        finetune_lr=0.1 * lr,
        finetune_threshold=threshold,
        seed=seed,
    )


def estimate_noise(trainer: Trainer, record: Record) -> None:
    """Set the std of a Gaussian likelihood to what maximises the evidence lower bound; a callback of `fit`.

    Only the mean NLL depends on it, squared / (2 std^2) + O log(std), and the best std^2 is the squared error per
    output, under the noise of the weights as they are: the M-step of variational expectation-maximisation. The epoch's
    training error is that.
    """
    if record["stage"] == "variational" and isinstance(trainer.model.likelihood, Gaussian):
        std = math.sqrt(record["train_error"] / trainer.model.n_outputs)
        trainer.model.likelihood = Gaussian(max(std, _LEAST_STD))


def used_inputs(model: Sequential) -> Any:
    """Whether each input still reaches an output through surviving weights: array (I,) of bool."""
    reaches = None
    for layer in reversed(model.variational_layers):
        alive = layer.pruned_theta(model.threshold) != 0
        reaches = alive.any(axis=1) if reaches is None else alive[:, reaches].any(axis=1)
    return reaches
