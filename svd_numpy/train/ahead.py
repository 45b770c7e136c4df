"""Training steps without the host, on backends that can record one (`Backend.record`): many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svd_numpy.kernels.backend import Recording, StepSettings
from svd_numpy.network.layers.base import Mode, Pass

if TYPE_CHECKING:
    from svd_numpy.train.trainer import Trainer

MOST_AT_ONCE = 100  # steps between two looks at Ctrl-C


class Ahead:
    """Does the steps of a `Trainer`: one by one, or as many as a recording can do.

    The first step of a stage is an ordinary one, in which the backend meets every array and compiles every kernel. Then
    it is recorded, and played until the stage ends; a batch at the end of an epoch that is short of examples is an
    ordinary step again.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.recordings: dict[bool, Recording | None] = {}  # of each stage, by "is it fine-tuning?"
        self._whole = trainer.n_train // trainer.config.batch_size  # batches of an epoch

    def advance(self) -> None:
        """Do one step or more, none beyond the end of the epoch."""
        trainer = self.trainer
        finetune, row = trainer.schedule()[2], trainer.progress.step % trainer.steps_per_epoch
        count = min(self._whole - row, MOST_AT_ONCE)
        if count < 1:
            trainer.step()
        elif finetune not in self.recordings:
            trainer.step()
            self.recordings[finetune] = self._record(finetune)
        elif (recording := self.recordings[finetune]) is None:
            trainer.step()
        else:
            self._play(recording, row, count)

    def _record(self, finetune: bool) -> Recording | None:
        """Record a step of this stage. It names no batch but gives all of an epoch's."""
        trainer, model = self.trainer, self.trainer.model
        settings, backend, (x, d_outputs) = trainer.settings(), trainer.backend, trainer.buffers
        mode: Mode = "mean" if finetune else "sample"
        run = Pass(backend, mode, settings.keep, model.seed, 0, training=True, learn=True)

        def work() -> None:
            backend.gather_rows(trainer.x_train, trainer.order, trainer.scale, model.input_mean, x, trainer.moved)
            outputs = model.forward(x, run)
            model.likelihood.losses(backend, outputs, trainer.ordered_labels, d_outputs)
            model.backward(d_outputs, run)
            backend.adam_step(model.arena, model.prior, *settings, finetune)

        return backend.record(work, self._whole)

    def _play(self, recording: Recording, row: int, count: int) -> None:
        trainer, p, settings = self.trainer, self.trainer.progress, list[StepSettings]()
        size, start = trainer.config.batch_size, trainer.progress.step
        trainer.batch_index()  # brings a new epoch's order over
        trainer.draw_moves(start, count)
        trainer.to_device()
        for p.step in range(start, start + count):
            settings.append(trainer.settings())
        p.step = start
        for each_found in recording.run(row, start, settings):
            for run, found in zip(trainer.together, each_found, strict=True):
                run.count(*run.model.likelihood.outcome(found, size), size)
