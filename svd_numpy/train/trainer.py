"""`Trainer`: one run, and one training step in ten lines.

Everything random is a function of (seed, epoch, step): the order of the examples, the noise. A run can
therefore stop after any step and go on later to the same bits, and it has the same bits when others go beside it:
where a backend can do several runs in the same launches, one trainer leads (`Trainer.lead`), and its steps are those of
all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, check_inputs, check_moves, check_type
from svd_numpy.data import Dataset
from svd_numpy.files import checkpoint
from svd_numpy.kernels.backend import AdamSettings, Backend, OfEach, StepSettings
from svd_numpy.network.layers.base import Mode, Pass
from svd_numpy.network.model import Sequential
from svd_numpy.network.scoring import Examples, Score
from svd_numpy.network.sparsity import freeze, measure_sparsity
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.schedules import at_epoch

DIVERGED = "lower lr, or scale inputs and targets to about 1"

Array = NDArray[Any]
Record = dict[str, Any]
_MOVES = 7  # sets the random numbers that move images apart from those that order them


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

    Attributes
    ----------
    backend : Backend
        Where steps are done: the model's, or one for several runs.
    together : tuple of Trainer
        The runs whose steps this one does, itself first.
    """

    def __init__(self, model: Sequential, data: Dataset, config: TrainConfig) -> None:
        check_type("model", model, Sequential)
        check_type("data", data, Dataset)
        check_type("config", config, TrainConfig)
        if data.n_classes and data.n_classes != model.n_outputs:
            raise SvdValueError(
                f"data {data.name!r} has {data.n_classes} classes, but the model has {model.n_outputs} outputs"
            )
        if data.x_train.shape[1] != model.input_mean.size:
            raise SvdValueError(
                f"data {data.name!r} has {data.x_train.shape[1]} inputs, but the model expects {model.input_mean.size}"
            )
        if data.image_shape is not None and len(model.in_shape) == 3 and data.image_shape != model.in_shape:
            raise SvdValueError(
                f"data {data.name!r} has images of shape {data.image_shape}, but the model expects {model.in_shape}"
            )
        check_moves(config.shift, config.mirror, model.in_shape)
        rows = len(check_inputs("x_train", data.x_train, model.in_shape))
        self.labels = model.likelihood.check(data.y_train, rows, model.n_outputs, model.dtype)
        self.test_examples = Examples(model, data.x_test, data.y_test, "x_test")
        self.model, self.data, self.config = model, data, config
        self.n_train = len(data.x_train)
        self.steps_per_epoch = -(-self.n_train // config.batch_size)
        self.scale = 1 / 255 if data.x_train.dtype == np.uint8 else 1.0
        self.progress = Progress()
        self._order_epoch = -1
        self.order, self.ordered_labels = np.empty(self.n_train, np.int64), np.empty_like(self.labels)
        self._on_device = False  # where the truth about parameters, moments and states is
        self.moved = np.zeros((self.n_train, 3), np.int32) if config.shift or config.mirror else None
        self.x_train = np.ascontiguousarray(data.x_train)
        self.backend: Backend = model.backend
        self.together: tuple[Trainer, ...] = (self,)
        self._kl_weights: OfEach = config.kl_weight
        self.backend.to_device(self.x_train)
        rows = min(config.batch_size, self.n_train)
        sizes = (model.inner_shape, (model.n_outputs,))  # of a batch's inputs, and of the gradient of its outputs
        self.buffers = tuple(np.empty((rows, *size), model.dtype) for size in sizes)

    def lead(self, others: Sequence[Trainer]) -> bool:
        """Do the steps of other runs along with this one's from now on; False where the backend cannot.

        They stand at the same step, and differ from this run in seed, training labels, weights and the factor on the KL
        alone.
        """
        runs = (self, *others)
        backend = self.model.backend.several([run.model.seed for run in runs])
        if backend is None:
            return False
        self.backend, self.together = backend, runs
        self._kl_weights = np.array([run.config.kl_weight for run in runs])
        for arrays in zip(*([*run._arrays().values(), *run._of_epoch()] for run in runs), strict=True):
            backend.stack(arrays)
        return True

    def _arrays(self) -> dict[str, Array]:
        """What a run consists of, by name: written by host and device, kept in checkpoints."""
        arena, model = self.model.arena, self.model
        return {"params": arena.params, "m": arena.m, "v": arena.v, "input_mean": model.input_mean, **model.state}

    def _of_epoch(self) -> list[Array]:
        """What the host writes for the steps of an epoch."""
        return [self.order, self.ordered_labels, *([] if self.moved is None else [self.moved])]

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.progress.step // self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.config.total_epochs

    def schedule(self) -> tuple[float, float, bool]:
        """Learning rate, KL weight (without the factor on it), and whether fine-tuning goes on, for the next step."""
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
            for run in self.together:
                run.order[:] = np.random.default_rng([run.config.seed, self.epoch]).permutation(self.n_train)
                run.ordered_labels[:] = run.labels[run.order]
                self.backend.to_device(run.order, run.ordered_labels)
        start = self.progress.step % self.steps_per_epoch * self.config.batch_size
        return self.order[start : start + self.config.batch_size]

    def moves(self, rows: int, step: int | None = None) -> NDArray[np.int32] | None:
        """(down, right, mirror) of the images of the next (or another) step, array (rows, 3).

        A function of (seed, epoch, step).
        """
        shift, mirror = self.config.shift, self.config.mirror
        if not (shift or mirror):
            return None
        step = self.progress.step if step is None else step
        rng = np.random.default_rng([self.config.seed, step // self.steps_per_epoch, step, _MOVES])
        moved = rng.integers(-shift, shift, (rows, 2), np.int32, endpoint=True)
        return np.hstack([moved, rng.integers(0, 2 if mirror else 1, (rows, 1), np.int32)])

    def draw_moves(self, first: int, count: int) -> None:
        """Write the moves of so many steps of an epoch into the table `moved` of every run."""
        size = self.config.batch_size
        start = first % self.steps_per_epoch * size
        for run in self.together:
            if run.moved is not None:
                drawn = run.moved[start : start + count * size]
                for row in range(0, len(drawn), size):
                    batch = drawn[row : row + size]
                    batch[:] = run.moves(len(batch), first + row // size)  # type: ignore[assignment]
                self.backend.to_device(drawn)

    def to_device(self) -> None:
        """Let the steps that follow see what the host wrote; they leave what they write on the backend's device."""
        if not self._on_device:
            for run in self.together:
                self.backend.to_device(*run._arrays().values())
            self._on_device = True

    def to_host(self) -> None:
        """Let the host see what the steps wrote into parameters, moments and states."""
        if self._on_device:
            for run in self.together:
                self.backend.to_host(*run._arrays().values())
            self._on_device = False

    # The loss is checked below, the weights at the end of an epoch.
    @np.errstate(over="ignore", invalid="ignore")
    def step(self) -> None:
        """Do one optimisation step."""
        model, config, backend, step = self.model, self.config, self.backend, self.progress.step
        finetune = self.schedule()[2]
        if finetune and step == config.epochs * self.steps_per_epoch:
            self.to_host()
            for each in self.together:
                freeze(each.model, config.finetune_threshold)
                each.model.arena.reset_moments()
        self.to_device()
        index, settings, start = self.batch_index(), self.settings(), step % self.steps_per_epoch * config.batch_size
        mode: Mode = "mean" if finetune else "sample"
        run = Pass(backend, mode, settings.keep, model.seed, step, training=True, learn=True)
        batch = slice(start, start + len(index))
        x, d_outputs = (buffer[: len(index)] for buffer in self.buffers)
        moved = None if self.moved is None else self.moved[batch]
        self.draw_moves(step, 1)

        backend.gather_rows(self.x_train, index, self.scale, model.input_mean, x, moved)
        outputs = model.forward(x, run)
        losses = model.likelihood.losses(backend, outputs, self.ordered_labels[batch], d_outputs)
        for each, (nll, error) in zip(self.together, losses, strict=True):
            each.count(nll, error, len(index))
        model.backward(d_outputs, run)
        backend.adam_step(model.arena, model.prior, *settings, finetune)

    def settings(self) -> StepSettings:
        """What the next step tells `adam_step`."""
        config, (lr, kl_weight, finetune) = self.config, self.schedule()
        first = config.epochs * self.steps_per_epoch if finetune else 0
        adam = AdamSettings(lr, config.beta1, config.beta2, config.epsilon, self.progress.step - first + 1)
        keep = self.model.keep if config.train_mask and not finetune else 0.0
        return StepSettings(self._kl_weights * kl_weight / self.n_train, keep, adam)

    def count(self, nll: float, error: float, examples: int) -> None:
        """Enter a step, or say that its loss is not finite."""
        p = self.progress
        if not math.isfinite(nll):
            raise SvdValueError(
                f"step {p.step}: the loss is {nll} with seed {self.model.seed}, expected a finite one; {DIVERGED}"
            )
        p.step += 1
        p.nll_sum += nll
        p.error_sum += error
        p.examples += examples

    def test_scores(self) -> list[Score | None]:
        """Score the pruned networks of all runs that go together on the test examples, if that is due now.

        The host has seen their weights (`to_host`).
        """
        every = self.config.eval_every
        if not (self.done or (every > 0 and self.epoch % every == 0)):
            return [None] * len(self.together)
        models = [run.model for run in self.together]
        unpruned = [(layer, layer.theta.copy()) for model in models for layer in model.variational_layers]
        try:
            for layer, _ in unpruned:
                layer.theta[:] = layer.pruned_theta(self.model.keep)
            self.backend.to_device(*(model.arena.params for model in models))
            return [*self.test_examples.score(self.model, self.backend, "mean")]
        finally:
            for layer, theta in unpruned:
                layer.theta[:] = theta

    def check_finite(self) -> None:
        """Say so if a weight, a moment or a running average is not finite; the host has seen them."""
        model = self.model
        if (non_finite := model.arena.share_non_finite()) > 0:
            raise SvdValueError(
                f"epoch {self.epoch}: {non_finite:.2g} of weights and moments are not finite; {DIVERGED}"
            )
        if lost := [name for name, array in model.state.items() if not np.isfinite(array).all()]:
            raise SvdValueError(f"epoch {self.epoch}: {lost} are not finite; {DIVERGED}")

    def end_epoch(self, seconds: float, test: Score | None) -> Record:
        """Summarise the epoch just finished, all finite, in one record and start the next one's sums."""
        p, model = self.progress, self.model
        p.step -= 1  # the schedule of the epoch's last step
        lr, kl_weight, finetune = self.schedule()
        p.step += 1
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
            "test_error": test and test["error"],
            "test_nll": test and test["nll"],
            "sparsity": sparsity.by_layer,
            "compression": sparsity.compression,
            "non_finite": 0.0,
        }
        p.nll_sum = p.error_sum = 0.0
        p.examples = 0
        return record

    # ------------------------------------------------------------ checkpoints
    def identity(self) -> dict[str, dict[str, Any]]:
        """What a resumed run must have in common with the interrupted one to go on to the same bits."""
        return {
            "config": self.config.to_json(),
            "model": {**self.model.config(), "backend": self.model.backend.name},
            "data": {"name": self.data.name, "n_train": self.n_train},
        }

    def save(self, run_dir: Path, seconds: float) -> Path:
        """Write a checkpoint from which `restore` continues to the same bits."""
        self.to_host()
        state = {
            "progress": {**asdict(self.progress), "seconds": seconds},
            **self.identity(),
        }
        return checkpoint.save(run_dir / "checkpoints", self.progress.step, self._arrays(), state)

    def restore(self, run_dir: Path) -> None:
        """Continue from the newest sound checkpoint in `run_dir`, of the same model, data and recipe."""
        found = checkpoint.load(run_dir / "checkpoints")
        for part, wanted in self.identity().items():
            have = found.state.get(part, {})
            if have != wanted:
                keys = sorted(k for k in {*have, *wanted} if have.get(k) != wanted.get(k))
                raise SvdValueError(
                    f"resume: the run in {run_dir} has another {part} (differs in {keys}: "
                    f"{[have.get(k) for k in keys]} there, {[wanted.get(k) for k in keys]} asked for); "
                    "use the same settings, or another run_dir"
                )
        for name, array in self._arrays().items():
            array[...] = found.arrays[name]
        self.progress = Progress(**found.state["progress"])
