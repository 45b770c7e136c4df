"""One pass over some rows: what `partial_fit` of the estimators does."""

from __future__ import annotations

import math

from svd_numpy.data import Dataset
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Gaussian
from svd_numpy.tabular.networks import STEPS, estimate_noise
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.runner import make_runner
from svd_numpy.train.trainer import Trainer

_MEMORY = 500  # rows: how long the estimated variance of the noise remembers


def one_pass(
    model: Sequential,
    table: Dataset,
    done: int,
    n_rows: int,
    *,
    batch_size: int,
    lr: float,
    kl_weight: float,
    seed: int,
) -> int:
    """Train a model on each row once, after `done` steps; return how many steps are then done.

    The learning rate is constant. The weight of the KL is 0 for a tenth of 1,500 steps, reaches `kl_weight` when half
    of them are done, as in the default training on a table (`make_config`), and stays there.

    Parameters
    ----------
    model : Sequential
        Changed in place, with Adam's moments.
    table : Dataset
        Its training rows, standardised.
    done : int
    n_rows : int
        Number of rows, of this call and all others, among which the KL is shared.
    batch_size, lr, kl_weight, seed
        As in `TrainConfig`.
    """
    per_epoch = math.ceil(table.x_train.shape[0] / batch_size)
    epochs = math.ceil(done / per_epoch)  # noise is a function of the step, which must therefore never come again
    ramp = min(1.0, max(0.0, (done / STEPS - 0.1) / 0.4))
    config = TrainConfig(
        epochs=epochs + 1, batch_size=batch_size, lr=lr, kl_schedule=((0.0, ramp),),
        kl_weight=kl_weight * table.x_train.shape[0] / n_rows, seed=seed,
    )  # fmt: skip
    before, trainer = model.likelihood, Trainer(model, table, config)
    progress = trainer.progress
    progress.step = epochs * per_epoch
    runner = make_runner([trainer])
    while not trainer.done:
        runner.advance(config.total_epochs * per_epoch - progress.step)
    runner.sync()
    trainer.check_finite()
    estimate_noise(trainer, {"stage": "variational", "train_error": progress.error_sum / progress.examples})
    if isinstance(before, Gaussian) and isinstance(model.likelihood, Gaussian):
        share = table.x_train.shape[0] / (table.x_train.shape[0] + _MEMORY)
        model.likelihood = Gaussian(math.sqrt((1 - share) * before.std**2 + share * model.likelihood.std**2))
    return progress.step
