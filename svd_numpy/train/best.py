"""`Best`: the weights with the lowest validation NLL so far, and whether to wait for better ones any longer."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Gaussian
from svd_numpy.train.config import TrainConfig


class Best:
    """Early stopping of one run, as `TrainConfig.patience` asks for it; without patience it does nothing.

    Attributes
    ----------
    arrays : dict of name -> array
        All that it remembers: a part of the run's arrays, so that checkpoints hold it.
    """

    def __init__(self, model: Sequential, data: Dataset, config: TrainConfig) -> None:
        self._model, self._config = model, config
        self._found = np.zeros(3)  # epoch (0: none yet), validation NLL, std of a Gaussian likelihood
        self._kept = dict[str, Array]()
        if config.patience:
            if data.x_valid is None or not data.x_valid.shape[0]:
                raise SvdValueError(
                    f"patience: got {config.patience}, but data {data.name!r} has no validation rows to watch; "
                    "take some with Dataset.split, or leave patience out"
                )
            self._kept = {name: array.copy() for name, array in self._own().items()}
        self.arrays = {f"best/{name}": array for name, array in self._kept.items()}
        if config.patience:
            self.arrays["best/found"] = self._found

    def _own(self) -> dict[str, Array]:
        """The arrays of the model that training changes."""
        arena = self._model.arena
        return {"params": arena.params, "mask": arena.mask, **self._model.state}

    def waited(self, epoch: int) -> bool:
        """Whether the last improvement is `patience` epochs ago."""
        return bool(self._config.patience and self._found[0] and epoch - self._found[0] >= self._config.patience)

    def note(self, record: dict[str, Any]) -> None:
        """Keep the weights if their record, that of the epoch that has just ended, is the best of those watched."""
        epoch, nll = record["epoch"], record.get("valid_nll")
        if not self._config.patience or nll is None or epoch <= self._config.watched_from:
            return
        if not self._found[0] or nll < self._found[1]:
            self._found[:] = epoch, nll, getattr(self._model.likelihood, "std", 0.0)
            for name, array in self._own().items():
                self._kept[name][...] = array

    def put_back(self) -> None:
        """Give the model its best weights, if there are any."""
        if not self._found[0]:
            return
        with self._model.exclusive:
            for name, array in self._own().items():
                array[...] = self._kept[name]
            if isinstance(self._model.likelihood, Gaussian):
                self._model.likelihood = Gaussian(float(self._found[2]))
