"""Training steps on a GPU: `CudaRunner`, for a run or for several side by side in the same launches.

The host draws the order of the examples and the moves of images, prunes, and writes records and checkpoints; steps and
scores are the device's. So the newest weights are now here, now there. After `sync` the host's arrays are the truth:
whoever likes may change them, until `advance` takes them over to the device and works on them there.

Each stage begins with an ordinary step, in which the backend meets every array and compiles every kernel. Then a step
is recorded, and played many times without the host (`kernels/cuda/recording.py`). A batch that is short of examples, at
the end of an epoch, is an ordinary step again, and so is every one where a step cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from svd_numpy.kernels.cuda.recording import Recording
from svd_numpy.kernels.cuda.side_by_side import SideBySide
from svd_numpy.network.core import require_finite
from svd_numpy.network.living import forms
from svd_numpy.network.model import Sequential
from svd_numpy.network.scoring import Score
from svd_numpy.train.trainer import Trainer

MOST_AT_ONCE = 100  # steps between two looks at Ctrl-C
_TABLED = ("likelihood", "threshold")  # parts of a model's config that a recorded step reads anew


class CudaRunner:
    """Does the steps of runs of one recipe that stand at the same step; see `Runner`.

    Operations are called for the first run, with its arrays, and do the work of all.

    Attributes
    ----------
    recordings : dict
        A recorded step of each stage, by "is it fine-tuning?"; None where a step cannot be recorded.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self._trainers, self._lead = tuple(trainers), trainers[0]
        lead = self._lead
        self._whole = lead.n_train // lead.config.batch_size  # batches of an epoch that are not short
        self._backend = SideBySide([trainer.model.seed for trainer in trainers], max(1, self._whole))
        self.recordings: dict[bool, Recording | None] = {}
        self._recorded: Any = None  # the config that they are recordings of
        self._on_device = False  # where the newest arrays of the runs are
        with self._exclusive():
            for arrays in zip(
                *([*trainer.arrays().values(), *trainer.batches.tables()] for trainer in trainers), strict=True
            ):
                self._backend.stack(arrays)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Let nobody else use the models meanwhile."""
        with ExitStack() as locks, np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused later
            for trainer in self._trainers:
                locks.enter_context(trainer.model.exclusive)
            yield

    # ------------------------------------------------------------ where the truth is
    def _to_device(self) -> None:
        """Take the runs over to the device, where they are not there yet."""
        if self._on_device:
            return
        for trainer in self._trainers:
            self._backend.to_device(*trainer.arrays().values())
        self._backend.set_noise([_std(trainer.model) for trainer in self._trainers])
        config = {name: part for name, part in self._lead.model.config().items() if name not in _TABLED}
        if config != self._recorded:
            self.recordings, self._recorded = {}, config
        self._on_device = True

    def sync(self) -> None:
        """See `Runner.sync`."""
        if self._on_device:
            with self._exclusive():
                for trainer in self._trainers:
                    self._backend.to_host(*trainer.arrays().values())
            self._on_device = False

    # ------------------------------------------------------------ steps
    def advance(self, limit: int) -> None:
        """See `Runner.advance`."""
        with self._exclusive():
            lead = self._lead
            step = lead.progress.step
            if lead.prunes_now:
                self.sync()
                for trainer in self._trainers:
                    trainer.prune()
            self._to_device()
            row = step % lead.steps_per_epoch
            finetune, count = lead.finetunes(step), min(limit, self._whole - row, MOST_AT_ONCE)
            recording = self.recordings.get(finetune)
            if recording is not None and count > 0:
                self._play(recording, row, step, count)
                return
            self._step(step)
            if count > 0 and finetune not in self.recordings:
                self.recordings[finetune] = None if lead.model.works_on_host else self._record(step)

    def _prepare(self, steps: range, row: int) -> None:
        """Write what the host draws and says for steps, and take it over; `row` is that of the first on the dials."""
        rows = slice(self._lead.batches.rows(steps[0]).start, self._lead.batches.rows(steps[-1]).stop)
        for trainer in self._trainers:
            if trainer.begin_epoch(steps[0]):
                self._backend.to_device(*trainer.carried.values())
            batches = trainer.batches
            if batches.begin(steps[0]):
                self._backend.to_device(*batches.tables())
            for step in steps:
                batches.draw_moves(step)
            if batches.moves is not None:
                self._backend.to_device(batches.moves[rows])
        self._backend.set_steps(row, [[run.settings(step) for step in steps] for run in self._trainers])

    def _step(self, step: int) -> None:
        """Do one ordinary step."""
        lead = self._lead
        self._prepare(range(step, step + 1), 0)
        rows = lead.batches.rows(step)
        count = rows.stop - rows.start
        lead.operations(self._backend, step, rows, count, noise=step)
        self._enter(self._backend.totals())

    def _record(self, step: int) -> Recording | None:
        """Record a step of the stage that this one belongs to. It names no batch but gives all of an epoch's."""
        lead = self._lead
        whole, size = slice(None), lead.config.batch_size
        return self._backend.record(lambda: lead.operations(self._backend, step, whole, size, noise=0))

    def _play(self, recording: Recording, row: int, step: int, count: int) -> None:
        """Do so many steps by a recording."""
        self._prepare(range(step, step + count), row)
        self._enter(self._backend.play(recording, row, step, count))

    def _enter(self, totals: Any) -> None:
        """Enter steps into the progress of every run."""
        for of_step in totals.tolist():
            for trainer, (nll, error) in zip(self._trainers, of_step, strict=True):
                trainer.enter(nll, error)

    def forms(self) -> dict[str, str]:
        """See `Runner.forms`."""
        return forms(self._lead.model)

    # ------------------------------------------------------------ scores
    def scores(self) -> list[dict[str, Score]]:
        """See `Runner.scores`."""
        with self._exclusive():
            backend, models = self._backend, [trainer.model for trainer in self._trainers]
            for trainer in self._trainers:
                backend.to_device(*trainer.arrays().values())
            passes = [model.pruned_pass(backend) for model in models]
            for name in passes[0].masks:
                backend.stack([run.masks[name] for run in passes])
            backend.set_noise([_std(model) for model in models])
            found: list[dict[str, Score]] = [{} for _ in self._trainers]
            for name, examples in self._lead.scored.items():
                backend.stack([trainer.scored[name].targets for trainer in self._trainers])
                batches = examples.batches(models[0], passes[0])
                sums = np.sum([backend.totals()[0] for _ in batches], axis=0)  # (runs, 2)
                require_finite("the outputs", sums)
                for score, of_run in zip(found, sums, strict=True):
                    score[name] = examples.score_of(of_run[None])
            return found


def _std(model: Sequential) -> float:
    """Of a Gaussian likelihood; of another one no kernel asks for it."""
    return getattr(model.likelihood, "std", 1.0)
