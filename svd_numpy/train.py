"""The training loop: `TrainConfig`, one step in ten lines, and `fit`.

Everything random is a function of (seed, epoch, step): the order of the examples, the noise. A run can
therefore stop after any step and go on later to the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy import checkpoint
from svd_numpy.ahead import Ahead
from svd_numpy.checks import (
    check_callbacks,
    check_count,
    check_flag,
    check_inputs,
    check_moves,
    check_number,
    check_path,
    check_threshold,
    check_type,
)
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import AdamSettings, StepSettings
from svd_numpy.layers.base import Mode, Pass
from svd_numpy.model import Sequential
from svd_numpy.optim import Knots, at_epoch, check_knots
from svd_numpy.runlog import RunLog
from svd_numpy.sparsity import freeze, measure_sparsity

DIVERGED = "lower lr, or scale inputs and targets to about 1"

Array = NDArray[Any]
Record = dict[str, Any]
_MOVES = 7  # sets the random numbers that move images apart from those that order them


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes
    ----------
    epochs : int
        Epochs of variational training.
    batch_size : int
    lr : float
        Adam's learning rate.
    lr_schedule : knots (epoch, factor)
        The learning rate is lr * factor; straight lines between knots.
    kl_schedule : knots (epoch, weight)
        Weight of the KL term; 1 is the evidence lower bound.
    beta1, beta2, epsilon : float
        Adam's other settings.
    train_mask : bool
        Leave weights above the threshold out of the mean already while training (the authors' `train_clip`).
    finetune_epochs : int
        Epochs of masked fine-tuning at the end: the survivors alone, without noise and without KL.
    finetune_lr : float
        Learning rate at its start; it falls to 0 in a straight line.
    finetune_threshold : float
        The log_alpha above which weights are removed before it.
    seed : int
        Of the order of the examples.
    eval_every : int
        Measure the test error every so many epochs; 0: only after the last.
    shift : int
        Move each training image, at each step anew, by -shift..shift pixels down and as many right; what comes in from
        outside is the model's input_mean. (Padding by `shift` and cropping at random, He et al. 2016.)
    mirror : bool
        Mirror each training image left to right with probability 1/2, at each step anew.
    """

    epochs: int = 60
    batch_size: int = 100
    lr: float = 1e-3
    lr_schedule: Knots = ((0.0, 1.0),)
    kl_schedule: Knots = ((0.0, 1.0),)
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    train_mask: bool = False
    finetune_epochs: int = 0
    finetune_lr: float = 1e-3
    finetune_threshold: float = 3.0
    seed: int = 0
    eval_every: int = 0
    shift: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        checked = {
            "epochs": check_count("epochs", self.epochs, low=0),
            "batch_size": check_count("batch_size", self.batch_size),
            "lr": check_number("lr", self.lr, low=0, high=10),
            "lr_schedule": check_knots("lr_schedule", self.lr_schedule),
            "kl_schedule": check_knots("kl_schedule", self.kl_schedule),
            "beta1": check_number("beta1", self.beta1, low=0, high=0.999999),
            "beta2": check_number("beta2", self.beta2, low=0, high=0.999999),
            "epsilon": check_number("epsilon", self.epsilon, low=1e-16, high=1),
            "train_mask": check_flag("train_mask", self.train_mask),
            "finetune_epochs": check_count("finetune_epochs", self.finetune_epochs, low=0),
            "finetune_lr": check_number("finetune_lr", self.finetune_lr, low=0, high=10),
            "finetune_threshold": check_threshold("finetune_threshold", self.finetune_threshold),
            "seed": check_count("seed", self.seed, low=0),
            "eval_every": check_count("eval_every", self.eval_every, low=0),
            "shift": check_count("shift", self.shift, low=0),
            "mirror": check_flag("mirror", self.mirror),
        }
        for name, value in checked.items():  # plain Python numbers, which JSON can take
            object.__setattr__(self, name, value)

    @property
    def total_epochs(self) -> int:
        """Variational and fine-tuning epochs together."""
        return self.epochs + self.finetune_epochs


@dataclass
class Progress:
    """Where a run stands; all of it goes into a checkpoint."""

    step: int = 0  # optimisation steps done, over all epochs
    nll_sum: float = 0.0  # of the running epoch
    error_sum: float = 0.0
    examples: int = 0
    seconds: float = 0.0  # spent in earlier parts of the run


class Trainer:
    """One training run: model, data, configuration and progress.

    A step is: gather a batch, forward, loss, backward, and one pass over the arena (chain rule, KL, Adam,
    projection).
    """

    def __init__(self, model: Sequential, data: Dataset, config: TrainConfig) -> None:
        check_type("model", model, Sequential)
        check_type("data", data, Dataset)
        check_type("config", config, TrainConfig)
        if data.n_classes and data.n_classes != model.n_outputs:
            raise ValueError(
                f"data {data.name!r} has {data.n_classes} classes, but the model has {model.n_outputs} outputs"
            )
        if data.x_train.shape[1] != model.input_mean.size:
            raise ValueError(
                f"data {data.name!r} has {data.x_train.shape[1]} inputs, but the model expects {model.input_mean.size}"
            )
        if data.image_shape is not None and len(model.in_shape) == 3 and data.image_shape != model.in_shape:
            raise ValueError(
                f"data {data.name!r} has images of shape {data.image_shape}, but the model expects {model.in_shape}"
            )
        check_moves(config.shift, config.mirror, model.in_shape)
        rows, test_rows = (
            len(check_inputs(name, getattr(data, name), model.in_shape)) for name in ("x_train", "x_test")
        )
        self.labels = model.likelihood.check(data.y_train, rows, model.n_outputs, model.dtype)
        model.likelihood.check(data.y_test, test_rows, model.n_outputs, model.dtype)
        self.model, self.data, self.config = model, data, config
        self.n_train = len(data.x_train)
        self.steps_per_epoch = -(-self.n_train // config.batch_size)
        self.scale = 1 / 255 if data.x_train.dtype == np.uint8 else 1.0
        self.progress = Progress()
        self._order_epoch = -1
        self.order, self.ordered_labels = np.empty(self.n_train, np.int64), np.empty_like(self.labels)
        self._on_device = False  # where the truth about parameters, moments and states is
        self.x_train = np.ascontiguousarray(data.x_train)
        model.backend.to_device(self.x_train)
        rows = min(config.batch_size, self.n_train)
        sizes = (model.inner_shape, (model.n_outputs,))  # of a batch's inputs, and of the gradient of its outputs
        self.buffers = tuple(np.empty((rows, *size), model.dtype) for size in sizes)

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.progress.step // self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.config.total_epochs

    def schedule(self) -> tuple[float, float, bool]:
        """Learning rate, KL weight, and whether this is the fine-tuning stage, for the next step."""
        at = self.progress.step / self.steps_per_epoch
        if self.epoch >= self.config.epochs:
            left = (self.config.total_epochs - at) / max(1, self.config.finetune_epochs)
            return self.config.finetune_lr * left, 0.0, True
        lr = self.config.lr * at_epoch(self.config.lr_schedule, at)
        return lr, at_epoch(self.config.kl_schedule, at), False

    def batch_index(self) -> NDArray[np.int64]:
        """Rows of the next batch: a slice of the epoch's permutation, a function of (seed, epoch) alone."""
        if self._order_epoch != self.epoch:
            self._order_epoch = self.epoch
            self.order[:] = np.random.default_rng([self.config.seed, self.epoch]).permutation(self.n_train)
            self.ordered_labels[:] = self.labels[self.order]
            self.model.backend.to_device(self.order, self.ordered_labels)
        start = self.progress.step % self.steps_per_epoch * self.config.batch_size
        return self.order[start : start + self.config.batch_size]

    def moves(self, rows: int) -> NDArray[np.int32] | None:
        """(down, right, mirror) of each image of the next batch, array (rows, 3), a function of (seed, epoch, step)."""
        shift, mirror = self.config.shift, self.config.mirror
        if not (shift or mirror):
            return None
        rng = np.random.default_rng([self.config.seed, self.epoch, self.progress.step, _MOVES])
        moved = rng.integers(-shift, shift, (rows, 2), np.int32, endpoint=True)
        return np.hstack([moved, rng.integers(0, 2 if mirror else 1, (rows, 1), np.int32)])

    def to_device(self) -> None:
        """Let the steps that follow see what the host wrote; they leave what they write on the backend's device."""
        if not self._on_device:
            self.model.to_device()
            self.model.backend.to_device(self.model.arena.m, self.model.arena.v)
            self._on_device = True

    def to_host(self) -> None:
        """Let the host see what the steps wrote into parameters, moments and states."""
        if self._on_device:
            arena = self.model.arena
            self.model.backend.to_host(arena.params, arena.m, arena.v, *self.model.state.values())
            self._on_device = False

    # The loss is checked below, the weights at the end of an epoch.
    @np.errstate(over="ignore", invalid="ignore")
    def step(self) -> None:
        """Do one optimisation step."""
        model, config, p = self.model, self.config, self.progress
        finetune = self.schedule()[2]
        if finetune and p.step == config.epochs * self.steps_per_epoch:
            self.to_host()
            freeze(model, config.finetune_threshold)
            model.arena.reset_moments()
        self.to_device()
        index, settings, start = self.batch_index(), self.settings(), p.step % self.steps_per_epoch * config.batch_size
        mode: Mode = "mean" if finetune else "sample"
        run = Pass(model.backend, mode, settings.keep, model.seed, p.step, training=True, learn=True)
        x, d_outputs = (buffer[: len(index)] for buffer in self.buffers)

        model.backend.gather_rows(self.x_train, index, self.scale, model.input_mean, x, self.moves(len(x)))
        outputs = model.forward(x, run)
        nll, error = model.likelihood.loss(model.backend, outputs, self.ordered_labels[start:][: len(index)], d_outputs)
        self.count(nll, error, len(index))
        model.backward(d_outputs, run)
        model.backend.adam_step(model.arena, model.prior, *settings, finetune)

    def settings(self) -> StepSettings:
        """What the next step tells `adam_step`."""
        config, (lr, kl_weight, finetune) = self.config, self.schedule()
        first = config.epochs * self.steps_per_epoch if finetune else 0
        adam = AdamSettings(lr, config.beta1, config.beta2, config.epsilon, self.progress.step - first + 1)
        keep = self.model.keep if config.train_mask and not finetune else 0.0
        return StepSettings(kl_weight / self.n_train, keep, adam)

    def count(self, nll: float, error: float, examples: int) -> None:
        """Enter a step, or say that its loss is not finite."""
        p = self.progress
        if not math.isfinite(nll):
            raise ValueError(f"step {p.step}: the loss is {nll}, expected a finite one; {DIVERGED}")
        p.step += 1
        p.nll_sum += nll
        p.error_sum += error
        p.examples += examples

    def end_epoch(self, seconds: float, measure_test: bool) -> Record:
        """Summarise the epoch just finished in one record and start the next one's sums."""
        p, model = self.progress, self.model
        self.to_host()
        if (non_finite := model.arena.share_non_finite()) > 0:
            raise ValueError(f"epoch {self.epoch}: {non_finite:.2g} of weights and moments are not finite; {DIVERGED}")
        if lost := [name for name, array in model.state.items() if not np.isfinite(array).all()]:
            raise ValueError(f"epoch {self.epoch}: {lost} are not finite; {DIVERGED}")
        p.step -= 1  # the schedule of the epoch's last step
        lr, kl_weight, finetune = self.schedule()
        p.step += 1
        sparsity = measure_sparsity(model)
        test: dict[str, float | None] = {"error": None, "nll": None}
        if measure_test:
            test |= evaluate(model, self.data.x_test, self.data.y_test)
        record = {
            "epoch": self.epoch,
            "stage": "finetune" if finetune else "variational",
            "seconds": seconds,
            "nll": p.nll_sum / p.examples,
            "kl": model.kl(),
            "kl_weight": kl_weight,
            "lr": lr,
            "train_error": p.error_sum / p.examples,
            "test_error": test["error"],
            "test_nll": test["nll"],
            "sparsity": sparsity.by_layer,
            "compression": sparsity.compression,
            "non_finite": non_finite,
        }
        p.nll_sum = p.error_sum = 0.0
        p.examples = 0
        return record

    # ------------------------------------------------------------ checkpoints
    def identity(self) -> dict[str, dict[str, Any]]:
        """What a resumed run must have in common with the interrupted one to go on to the same bits."""
        return {
            "config": _json_config(self.config),
            "model": {**self.model.config(), "backend": self.model.backend.name},
            "data": {"name": self.data.name, "n_train": self.n_train},
        }

    def save(self, run_dir: Path, seconds: float) -> Path:
        """Write a checkpoint from which `restore` continues to the same bits."""
        self.to_host()
        arena = self.model.arena
        arrays = {"params": arena.params, "m": arena.m, "v": arena.v, "input_mean": self.model.input_mean}
        arrays |= self.model.state
        state = {
            "progress": {**asdict(self.progress), "seconds": seconds},
            **self.identity(),
        }
        return checkpoint.save(run_dir / "checkpoints", self.progress.step, arrays, state)

    def restore(self, run_dir: Path) -> None:
        """Continue from the newest sound checkpoint in `run_dir`, of the same model, data and recipe."""
        found = checkpoint.load(run_dir / "checkpoints")
        for part, wanted in self.identity().items():
            have = found.state.get(part, {})
            if have != wanted:
                keys = sorted(k for k in {*have, *wanted} if have.get(k) != wanted.get(k))
                raise ValueError(
                    f"resume: the run in {run_dir} has another {part} (differs in {keys}: "
                    f"{[have.get(k) for k in keys]} there, {[wanted.get(k) for k in keys]} asked for); "
                    "use the same settings, or another run_dir"
                )
        arena = self.model.arena
        for name, array in (("params", arena.params), ("m", arena.m), ("v", arena.v)):
            array[...] = found.arrays[name]
        for name, array in {"input_mean": self.model.input_mean, **self.model.state}.items():
            array[...] = found.arrays[name]
        self.progress = Progress(**found.state["progress"])


def _json_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON would give it back (tuples become lists)."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {
        name: [list(knot) for knot in value] if isinstance(value, tuple) else value for name, value in values.items()
    }


def evaluate(model: Sequential, x: Any, y: Any) -> dict[str, float]:
    """Score the pruned network: {"error": share of wrong guesses or mean squared error, "nll": nats}."""
    outputs = model.predict(x)
    targets = model.likelihood.check(y, len(outputs), model.n_outputs, model.dtype)
    nll, error = model.likelihood.loss(model.backend, outputs, targets, np.empty_like(outputs))
    return {"error": error / len(outputs), "nll": nll / len(outputs)}


Callback = Callable[[Trainer, Record], None]


def fit(
    model: Sequential,
    data: Dataset,
    config: TrainConfig | None = None,
    callbacks: Sequence[Callback] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> list[Record]:
    """Train `model` in place.

    Parameters
    ----------
    model : Sequential
    data : Dataset
    config : TrainConfig
    callbacks : functions (trainer, record)
        Called after every epoch with its record.
    run_dir : path, optional
        Where `metrics.jsonl` and `checkpoints/` go; without it nothing is written.
    resume : bool
        Continue the run in `run_dir` to the same bits as if it had never stopped; a finished run is only read
        back.
    progress : bool
        Show a bar (in a terminal or a notebook) or a line per epoch (elsewhere).

    Returns
    -------
    list of dict
        One record per epoch, as in `metrics.jsonl`.

    Raises
    ------
    TrainingInterrupted
        After Ctrl-C or SIGTERM: the step was finished and, with a run_dir, saved.
    """
    from svd_numpy.console import StopSignal, TrainingInterrupted, make_reporter

    trainer = Trainer(model, data, TrainConfig() if config is None else config)
    callbacks, folder = check_callbacks(callbacks), check_path("run_dir", run_dir)
    check_flag("progress", progress)
    if check_flag("resume", resume):
        if folder is None:
            raise ValueError("resume=True needs run_dir, the folder of the run to continue")
        trainer.restore(folder)
    elif folder is not None and checkpoint.latest(folder / "checkpoints"):
        raise ValueError(f"run_dir {folder} holds a run already; choose another one, or resume=True to continue it")
    ahead = Ahead(trainer)
    log = RunLog(None if folder is None else folder / "metrics.jsonl", trainer.epoch if resume else None)
    started = time.perf_counter() - trainer.progress.seconds
    saved = time.perf_counter()
    if folder is not None and not resume:
        trainer.save(folder, 0.0)  # so that a run that is killed early can be resumed, too
    with StopSignal() as stop, make_reporter(trainer, progress) as report:
        while not trainer.done:
            before = trainer.progress.step
            ahead.advance()
            epoch_ended = trainer.progress.step % trainer.steps_per_epoch == 0
            if epoch_ended:
                every = trainer.config.eval_every
                measure = trainer.done or (every > 0 and trainer.epoch % every == 0)
                record = trainer.end_epoch(time.perf_counter() - started, measure)
                log.append(record)
                for callback in callbacks:
                    callback(trainer, record)
                report.epoch(record)
            report.step(trainer.progress.step - before)
            now = time.perf_counter()
            due = stop.requested or trainer.done or (epoch_ended and now - saved > SAVE_SECONDS)
            if folder is not None and due:
                trainer.save(folder, now - started)
                saved = now
            if stop.requested and not trainer.done:
                trainer.to_host()
                raise TrainingInterrupted(stop.number, folder)
    return log.records


SAVE_SECONDS = 20.0  # a crash loses at most this much work, and one epoch
