"""`Trainer`: one training run, and the operations of one of its steps.

Everything random (the order of the examples, their moves, the noise) is a function of seed, epoch and step. A run can
therefore stop after any step and continue later, or train side by side with others, without changing a bit. The steps
are done by a `Runner` (`runner.py`), one after the other or many at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from svd_numpy.checks import SvdValueError, check_type
from svd_numpy.data import Dataset
from svd_numpy.data.csr import parts
from svd_numpy.files import checkpoint
from svd_numpy.kernels.backend import AdamSettings, Array, Backend, StepSettings
from svd_numpy.network.layers.base import Mode, Pass
from svd_numpy.network.living import count_living, remove
from svd_numpy.network.model import Sequential
from svd_numpy.network.scoring import Examples, Score
from svd_numpy.network.sparsity import freeze, measure_sparsity
from svd_numpy.train.batches import Batches
from svd_numpy.train.best import Best
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.pruning import Place, Pruner
from svd_numpy.train.rounding import Rounder
from svd_numpy.train.schedules import at_epoch

DIVERGED = "lower lr, or scale inputs and targets to about 1"

Record = dict[str, Any]
Operations = Callable[[Backend, int, slice, int, int], tuple[float, float]]


@dataclass
class Progress:
    """How far a run has got; stored in checkpoints."""

    step: int = 0  # optimisation steps done, over all epochs
    nll_sum: float = 0.0  # this and the next two: over the current epoch
    error_sum: float = 0.0
    examples: int = 0
    seconds: float = 0.0  # training time up to the restored checkpoint


class Schedule(NamedTuple):
    """Scheduled values at one step: learning rate, KL weight (without the factor on it), whether it is fine-tuning."""

    lr: float
    kl_weight: float
    finetune: bool


class Trainer:
    """One training run: model, data, configuration and progress.

    A step gathers a batch, runs forward, loss and backward, and makes one pass over the arena (chain rule, KL, mask,
    Adam, projection).

    Attributes
    ----------
    model, data, config
    progress : Progress
    batches : Batches
        The training examples in the form that steps read.
    best : Best
        Early stopping.
    pruner : Pruner or None
        What prunes weights (`TrainConfig.pruning`), or rounds them (`finetune_bits`).
    model_at_start : dict
        Description of the model before the first step.
    """

    def __init__(self, model: Sequential, data: Dataset, config: TrainConfig) -> None:
        check_type("model", model, Sequential)
        check_type("data", data, Dataset)
        check_type("config", config, TrainConfig)
        _check_fit(model, data)
        self.model, self.data, self.config = model, data, config
        self.batches = Batches(model, data, config)
        self.carried = model.first_states(data.lanes) if data.lanes else {}
        self.best = Best(model, data, config)
        scored = {"valid": (data.x_valid, data.y_valid), "test": (data.x_test, data.y_test)}
        self.scored = {
            part: Examples(model, x, y, f"x_{part}", data.lanes)
            for part, (x, y) in scored.items()
            if x is not None and x.shape[0]
        }
        self._parts = ["test"] if data.x_valid is None else ["valid", "test"]  # what records report
        self.n_train = data.x_train.shape[0]
        self.steps_per_epoch = self.batches.per_epoch
        place = Place(self.steps_per_epoch, self.n_train, config.seed)
        self.pruner: Pruner | None = None if config.pruning is None else config.pruning.pruner(model, place)
        if config.finetune_bits is not None:
            self.pruner = Rounder(model, place, config.finetune_bits, place.step(config.epochs))
        if (steps := self.steps_per_epoch * config.total_epochs) > checkpoint.MAX_STEP:
            raise SvdValueError(
                f"config: {config.total_epochs:,} epochs are {steps:,} steps, expected at most "
                f"{checkpoint.MAX_STEP:,}; take fewer epochs or a larger batch_size"
            )
        self.progress = Progress()
        self.model_at_start = {**model.config(), "backend": model.backend.name}
        rows = min(config.batch_size, self.n_train)
        self._inputs = np.empty((rows, *self.batches.frame), model.input_dtype)
        self._d_outputs = np.empty((rows, *model.out_shape), model.dtype)

    @property
    def epoch(self) -> int:
        """Number of complete epochs."""
        return self.progress.step // self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether all epochs are done, or `patience` is at its end."""
        return self.epoch >= self.config.total_epochs or self.best.waited(self.epoch)

    def arrays(self) -> dict[str, Array]:
        """All arrays that steps change or checkpoints store, by name."""
        arena, model = self.model.arena, self.model
        moments = {"params": arena.params, "m": arena.m, "v": arena.v, "mask": arena.mask}
        carried = {f"carried/{name}": state for name, state in self.carried.items()}
        pruner = {} if self.pruner is None else self.pruner.arrays
        return {**moments, "input_mean": model.input_mean, **model.state, **carried, **self.best.arrays, **pruner}

    # ------------------------------------------------------------ one step
    def finetunes(self, step: int) -> bool:
        """Whether a step belongs to fine-tuning."""
        return step >= self.config.epochs * self.steps_per_epoch

    def schedule(self, step: int) -> Schedule:
        """Return the scheduled values at a step."""
        config, at = self.config, step / self.steps_per_epoch
        if self.finetunes(step):
            left = (config.total_epochs - at) / max(1, config.finetune_epochs)
            return Schedule(config.finetune_lr * left, config.finetune_kl or 0.0, True)
        return Schedule(config.lr * at_epoch(config.lr_schedule, at), at_epoch(config.kl_schedule, at), False)

    def settings(self, step: int) -> StepSettings:
        """Settings of `adam_step` at a step."""
        config, (lr, kl_weight, finetune) = self.config, self.schedule(step)
        first = config.epochs * self.steps_per_epoch if finetune else 0
        adam = AdamSettings(lr, config.beta1, config.beta2, config.epsilon, step - first + 1)
        keep = self.model.keep if config.train_mask and not finetune else 0.0
        return StepSettings(config.kl_weight * kl_weight / self.batches.n_counted, keep, adam)

    @property
    def prunes_now(self) -> bool:
        """Whether the next step is the first of fine-tuning."""
        return self.config.finetune_epochs > 0 and self.progress.step == self.config.epochs * self.steps_per_epoch

    def prune(self) -> None:
        """Prune for good and reset Adam, as is needed before the first step of fine-tuning."""
        freeze(self.model, self.config.finetune_threshold, noise=self.config.finetune_kl is not None)
        self.model.arena.reset_moments()

    @property
    def removes(self) -> bool:
        """Whether weights are removed while training."""
        return self.config.remove_above is not None

    def remove(self) -> None:
        """At the end of an epoch, remove for good what is dead by the rule of the configuration."""
        above, epoch = self.config.remove_above, self.epoch
        if above is not None and self.config.remove_from <= epoch <= self.config.epochs:
            with self.model.exclusive:
                remove(self.model, above)

    def operations(self, backend: Backend, step: int, rows: slice, count: int, noise: int) -> tuple[float, float]:
        """Do the operations of one step; return the summed NLL and error of its batch.

        Parameters
        ----------
        backend : Backend
        step : int
            Step at which the schedules are evaluated.
        rows : slice
            Rows of the tables of `batches`.
        count : int
            Number of examples in the batch.
        noise : int
            Step in the noise keys.
        """
        model, batches, settings = self.model, self.batches, self.settings(step)
        run = self.pass_of(backend, step, settings, noise)
        x, d_outputs = self._inputs[:count], self._d_outputs[:count]
        outputs = model.forward_rows(*batches.examples(rows, model.input_mean), x, run)
        found = model.likelihood.loss(backend, outputs, batches.targets[rows], d_outputs)
        if not math.isfinite(found[0]):
            return found  # no parameter or running average has changed yet
        batches.weigh(backend, rows, d_outputs)
        model.backward(d_outputs, run, kl_scale=settings.kl_scale)
        self.update(backend, step, settings)
        return found

    def pass_of(
        self, backend: Backend, step: int, settings: StepSettings, noise: int, first_sample: int = 0
    ) -> Pass:  # fmt: skip
        """Make the pass of a step through the network, for the part of the batch that begins with this example."""
        mode: Mode = "mean" if self.finetunes(step) and self.config.finetune_kl is None else "sample"
        keep, seed = settings.keep, self.model.seed
        return Pass(backend, mode, keep, seed, noise, first_sample, training=True, learn=True, carried=self.carried)

    def update(self, backend: Backend, step: int, settings: StepSettings) -> None:
        """Do what comes after the gradients of a step: clip, prune, Adam."""
        model = self.model
        if self.config.clip_norm:
            backend.clip_gradients(model.arena, self.config.clip_norm)
        held = self.finetunes(step) or self.removes
        if self.pruner is None:
            backend.adam_step(model.arena, settings, held)
        else:
            self.pruner.before_update(step, settings.adam.lr)
            backend.adam_step(model.arena, settings, held or self.pruner.holds(step))
            self.pruner.after_update(step + 1)

    @np.errstate(over="ignore", invalid="ignore")  # the loss is checked below, the weights at the end of an epoch
    def step(self, operations: Operations | None = None) -> None:
        """Do one optimisation step on the model's own backend, by the trainer's `operations` or by these."""
        step, model = self.progress.step, self.model
        with model.exclusive:
            if self.prunes_now:
                self.prune()
            self.batches.begin(step)
            self.batches.draw_moves(step)
            self.begin_epoch(step)
            rows = self.batches.rows(step)
            count = rows.stop - rows.start
            if self.pruner is not None:
                self.pruner.before_forward(step)
            self.enter(*(operations or self.operations)(model.backend, step, rows, count, step))

    def begin_epoch(self, step: int) -> bool:
        """Go back to the states in which texts begin, if this is the first step of an epoch."""
        first = step % self.steps_per_epoch == 0
        if first:
            for state in self.carried.values():
                state[:] = 0
        return first

    def enter(self, nll: float, error: float) -> None:
        """Add a step to the progress; raise if its loss is not finite."""
        p = self.progress
        if not math.isfinite(nll):
            raise SvdValueError(
                f"step {p.step}: the loss is {nll} with seed {self.model.seed}, expected a finite one; {DIVERGED}"
            )
        p.step += 1
        p.nll_sum += nll
        p.error_sum += error
        p.examples += self.batches.count(self.batches.rows(p.step - 1))

    # ------------------------------------------------------------ ends of epochs
    @property
    def scores_now(self) -> bool:
        """Whether to score the network after the epoch that has just ended."""
        every = self.config.eval_every
        return self.done or (every > 0 and self.epoch % every == 0)

    def check_finite(self) -> None:
        """Raise if a weight, a moment or a running average is not finite."""
        model = self.model
        if (non_finite := model.arena.share_non_finite()) > 0:
            raise SvdValueError(
                f"epoch {self.epoch}: {non_finite:.2g} of weights and moments are not finite; {DIVERGED}"
            )
        if lost := [name for name, array in model.state.items() if not np.isfinite(array).all()]:
            raise SvdValueError(f"epoch {self.epoch}: {lost} are not finite; {DIVERGED}")

    def end_epoch(self, seconds: float, step_seconds: float, forms: dict[str, str], scores: dict[str, Score]) -> Record:
        """Summarise the epoch that has just ended in one record, and reset the sums; call `check_finite` first.

        Parameters
        ----------
        seconds, step_seconds : float
            Of the whole run; of a step, on average.
        forms : dict of layer name -> str
            What the steps of the epoch computed on: "matrix" or "lists".
        scores : dict
            Those of the pruned network, by the part of the data; in the record, missing ones are None.
        """
        p, model = self.progress, self.model
        lr, kl_weight, finetune = self.schedule(p.step - 1)
        sparsity = measure_sparsity(model)
        record = {
            "epoch": self.epoch,
            "stage": "finetune" if finetune else "variational",
            "seconds": seconds,
            "nll": p.nll_sum / p.examples,
            "kl": model.kl(),
            "kl_weight": self.config.kl_weight * kl_weight,
            "lr": lr,
            "train_error": p.error_sum / p.examples,
            **{f"{part}_{what}": scores.get(part, {}).get(what) for part in self._parts for what in ("error", "nll")},
            "sparsity": sparsity.by_layer,
            "compression": sparsity.compression,
            "living": count_living(model),
            "forms": forms,
            "ms_per_step": 1e3 * step_seconds,
            "non_finite": 0.0,
        }
        p.nll_sum = p.error_sum = 0.0
        p.examples = 0
        return record

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of the training inputs and targets, and of their weights."""
        digest = hashlib.sha256()
        weights = () if self.data.weights is None else (self.data.weights,)
        for array in (*parts(self.data.x_train), self.data.y_train, *weights):
            array = np.ascontiguousarray(array)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.view(np.uint8).data if array.size else b"")
        return digest.hexdigest()


def _check_fit(model: Sequential, data: Dataset) -> None:
    """Raise if data and model do not fit each other."""
    if data.n_classes and data.n_classes != model.n_outputs:
        raise SvdValueError(
            f"data {data.name!r} has {data.n_classes} classes, but the model has {model.n_outputs} outputs"
        )
    expected = math.prod(model.in_shape)
    if math.prod(data.x_train.shape[1:]) != expected:
        raise SvdValueError(
            f"data {data.name!r} has {math.prod(data.x_train.shape[1:])} inputs, but the model expects {expected}"
        )
    if data.image_shape is not None and len(model.in_shape) == 3 and data.image_shape != model.in_shape:
        raise SvdValueError(
            f"data {data.name!r} has images of shape {data.image_shape}, but the model expects {model.in_shape}"
        )
