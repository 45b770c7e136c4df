"""How long a row of the papers' tables would take on this machine, from steps that are measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from svd_numpy.data import Dataset
from svd_numpy.experiments.methods import METHODS
from svd_numpy.experiments.options import Options
from svd_numpy.experiments.published import PaperRow
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.run import begin, configure
from svd_numpy.train.trainer import Trainer

_SHAPES = {"mnist": (60_000, (1, 28, 28)), "cifar": (50_000, (3, 32, 32))}  # training images, and the shape of one
_LEAST = 0.2  # seconds to measure


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes
    ----------
    step : float
        Seconds of a training step.
    steps : int
    """

    step: float
    steps: int

    @property
    def hours(self) -> float:
        """Hours of all steps, as if each took as long as the measured ones; those of small or plain networks do not."""
        return self.step * self.steps / 3600


def estimate(row: PaperRow, epochs: int | None = None, backend: str = "auto") -> Cost:
    """Measure steps of a row's recipe on random images, and count the steps of a run.

    Parameters
    ----------
    row : PaperRow
    epochs : int, optional
        Instead of the recipe's.
    backend : str
    """
    images, shape = _SHAPES[row.experiment]
    plan = get_recipe(row.arch, "default")
    options = Options(
        dataset="random", arch=row.arch, method=row.method, epochs=epochs, backend=backend, progress=False
    )
    config = configure(METHODS[row.method].adapt(plan).config, options)
    rng, rows = np.random.default_rng(0), 2 * config.batch_size
    x, y = rng.integers(0, 256, (rows, math.prod(shape)), np.uint8), np.arange(rows) % 10
    data = Dataset("random", x, y, x[:1], y[:1], shape, 10, "made here")
    # With its full KL from the start: a step without one is faster.
    trainer = Trainer(begin(options, data).model, data, replace(config, kl_schedule=((0.0, 1.0),)))
    trainer.step()  # may compile
    seconds = list[float]()
    while len(seconds) < 2 or (sum(seconds) < _LEAST and not trainer.done):
        start = time.perf_counter()
        trainer.step()
        seconds.append(time.perf_counter() - start)
    before = plan.pretrain.total_epochs if plan.pretrain and METHODS[row.method].kind == "variational" else 0
    return Cost(min(seconds), (config.total_epochs + before) * math.ceil(images / config.batch_size))
