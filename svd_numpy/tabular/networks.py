"""Networks for tables: what the scikit-learn estimators and the regression experiment share.

Tables are small, so budget and schedules follow from the number of rows. Inputs and targets are to be standardised.
The variance of the targets' noise decides how much a weight may cost; it is estimated during training, not set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import check_choice, check_count, check_number
from svd_numpy.network.gates import FAMILIES
from svd_numpy.network.layers import Dense, Gate, Layer, ReLU, VariationalDense
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Gaussian, Likelihood
from svd_numpy.sparse.compaction import compact
from svd_numpy.sparse.ops import TakeOp
from svd_numpy.sparse.stages import stages_of
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.pruning import Pruning, check_pruning
from svd_numpy.train.trainer import Record, Trainer

STEPS, _EPOCHS = 1500, 50  # the default budget: this many steps, but at least this many epochs
_LEAST_STD = 0.05  # of standardised targets: without a bound, a perfect fit would drive the likelihood to infinity
_SMALL = 50_000  # weights; with fewer, handing a step to threads takes longer than the step itself


def make_network(
    n_in: int,
    hidden_sizes: int | Sequence[int],
    n_out: int,
    *,
    likelihood: str | Likelihood,
    seed: int,
    variational: bool = True,
    prior: str = "log_uniform",
    threshold: float = 3.0,
    backend: str = "auto",
    gates: str | None = None,
) -> Sequential:
    """Build a network of dense layers with ReLU between.

    Parameters
    ----------
    n_in, n_out : int
    hidden_sizes : int or sequence of int
        Units of the hidden layers; an empty one makes a linear model.
    likelihood, seed, prior, threshold
        As in `Sequential`.
    variational : bool
        Whether the weights are Gaussians; if not, this is the ordinary network to compare with.
    backend : "auto", "numba" or "numpy"
        "auto" takes NumPy, in float64, for networks of fewer than 50,000 weights.
    gates : str, optional
        A family of `Gate`: there is one before every layer, so that whole columns and hidden units can be closed.
    """
    given = hidden_sizes if isinstance(hidden_sizes, Iterable) else [hidden_sizes]
    sizes = [n_in, *(check_count("hidden_sizes", size) for size in given), n_out]
    if backend == "auto" and sum(a * b for a, b in pairwise(sizes)) < _SMALL:
        backend = "numpy"
    layers: list[Layer] = []
    for before, after in pairwise(sizes):
        gate = [] if gates is None else [Gate(before, check_choice("gates", gates, tuple(FAMILIES)))]
        layers += [*gate, VariationalDense(before, after) if variational else Dense(before, after), ReLU()]
    return Sequential(
        *layers[:-1], prior=prior, backend=backend, dtype="float64" if backend == "numpy" else "float32", seed=seed,
        threshold=threshold, likelihood=likelihood, input_shape=(n_in,),
    )  # fmt: skip


def make_config(
    n_rows: int,
    *,
    epochs: int | None = None,
    batch_size: int = 50,
    lr: float = 0.01,
    kl_weight: float = 1.0,
    finetune_epochs: int = 0,
    threshold: float = 3.0,
    seed: int = 0,
    patience: int = 0,
    remove_above: float | None = None,
    pruning: Pruning | None = None,
) -> TrainConfig:
    """Lay out the training on a table of `n_rows` rows.

    Parameters
    ----------
    n_rows : int
    epochs : int, optional
        Default: as many as make 1,500 steps, and at least 50.
    batch_size, finetune_epochs, seed : int
    lr : float
        Constant for half of the epochs, then falling to 0 in a straight line; fine-tuning begins at a tenth of it.
    kl_weight : float
        Factor on the schedule of the KL term, which is 0 for a tenth of the epochs and then rises to 1 until half of
        them are done.
    threshold : float
        Weights whose log_alpha exceeds it are removed before the fine-tuning.
    patience : int
        As in `TrainConfig`; the second half of the epochs is watched, or the fine-tuning if there is any.
    remove_above : float, optional
        As in `TrainConfig`; from the middle of the epochs on, when the KL term has its full weight.
    pruning : Pruning, optional
        As in `TrainConfig`, but its epochs are shares of all.
    """
    check_count("batch_size", batch_size)
    if epochs is None:
        epochs = max(_EPOCHS, math.ceil(STEPS / math.ceil(n_rows / batch_size)))
    check_count("epochs", epochs)
    lr, rule = check_number("lr", lr, low=0, high=10), check_pruning("pruning", pruning)
    return TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_schedule=((0.5 * epochs, 1.0), (epochs, 0.0)),
        kl_schedule=((0.1 * epochs, 0.0), (0.5 * epochs, 1.0)),
        kl_weight=kl_weight,
        finetune_epochs=finetune_epochs,
        finetune_lr=0.1 * lr,
        finetune_threshold=threshold,
        seed=seed,
        eval_every=1 if patience else 0,
        patience=patience,
        remove_above=remove_above,
        remove_from=epochs // 2,
        pruning=None if rule is None else rule.stretched(epochs),
    )


def estimate_noise(trainer: Trainer, record: Record) -> None:
    """Set the std of a Gaussian likelihood to what maximises the evidence lower bound; a callback of `fit`.

    Only the mean NLL depends on it, squared / (2 std^2) + O log(std), and the best std^2 is the squared error per
    output, under the noise of the weights as they are: the M-step of variational expectation-maximisation. The epoch's
    training error is that, unless examples have weights: then it is measured with one network from the posterior.
    """
    model, data = trainer.model, trainer.data
    if record["stage"] == "variational" and isinstance(model.likelihood, Gaussian):
        squared = record["train_error"]
        if data.weights is not None:
            errors = model.sample(data.x_train, 1)[0] - data.y_train.reshape(len(data.y_train), -1)
            squared = float(np.average((errors**2).sum(axis=1), weights=data.weights))
        model.likelihood = Gaussian(max(math.sqrt(squared / model.n_outputs), _LEAST_STD))


def used_inputs(model: Sequential) -> NDArray[np.bool_]:
    """Whether each input still reaches an output of the pruned network through its weights: array (I,)."""
    first, *_ = compact(stages_of(model, model.threshold), model.in_shape, model.inner_shape, model.input_mean)
    assert isinstance(first, TakeOp)
    used = np.zeros(model.input_mean.size, bool)
    used[first.index] = True
    return used
