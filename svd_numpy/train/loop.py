"""The training loop: `fit`, for one run or for several side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from svd_numpy.checks import SvdValueError, check_callbacks, check_flag, check_path, check_type
from svd_numpy.data import Dataset
from svd_numpy.files import checkpoint
from svd_numpy.files.atomic import make_folder, sweep
from svd_numpy.files.lock import FolderLock
from svd_numpy.files.run_log import RunLog
from svd_numpy.network.model import Sequential
from svd_numpy.network.scoring import Score
from svd_numpy.train import resuming
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.ranks import ALONE, Ranks
from svd_numpy.train.runner import groups, make_runner
from svd_numpy.train.shards import agree, check_shards
from svd_numpy.train.trainer import Record, Trainer

SAVE_SECONDS = 20.0  # a crash loses at most this much work plus one epoch
Callback = Callable[[Trainer, Record], None]


def fit(
    model: Sequential,
    data: Dataset,
    config: TrainConfig | None = None,
    callbacks: Sequence[Callback] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    ranks: Ranks = ALONE,
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
        Folder for `metrics.jsonl` and `checkpoints/`; without it nothing is written.
    resume : bool
        Continue the run in `run_dir`, bit for bit as if it had never stopped. A finished run is only read back, unless
        `config` extends it (`TrainConfig.extended`).
    progress : bool
        Show a bar (in a terminal or a notebook) or a line per epoch (elsewhere).
    ranks : Ranks
        The processes that share the run (`join_ranks`); each has to make the same call. Needs `TrainConfig.shards`, a
        multiple of their number. Rank 0 writes and shows progress; callbacks are called on every rank.

    Returns
    -------
    list of dict
        One record per epoch, as in `metrics.jsonl`.

    Raises
    ------
    SvdValueError, SvdTypeError
        For arguments that make no sense or do not fit each other, or a model that is being fitted already, by another
        thread or by the `fit` whose callback this is. Callbacks and other threads may use the model otherwise.
    TrainingInterrupted
        After Ctrl-C or SIGTERM; the current step is finished first and, with a run_dir, saved.
    """
    progress = check_flag("progress", progress)
    run = Run(model, data, config, callbacks, run_dir, resume, ranks)
    try:
        return fit_together([run], progress)[0]
    finally:
        run.release()


class Run:
    """One run of `fit_together`; takes the arguments of `fit`, and raises if they make no sense.

    It owns its folder until `release`: no other run can write there.
    """

    def __init__(
        self, model: Sequential, data: Dataset, config: TrainConfig | None, callbacks: Sequence[Callback],
        run_dir: str | Path | None, resume: bool, ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        self.trainer = Trainer(model, data, TrainConfig() if config is None else config)
        check_type("ranks", ranks, Ranks)
        check_shards(self.trainer, ranks)
        _require_free(model)
        self.callbacks, self.folder, self.ranks = check_callbacks(callbacks), check_path("run_dir", run_dir), ranks
        self.resume = check_flag("resume", resume)
        if ranks.rank:
            self.folder = None
        elif self.resume and self.folder is None:
            raise SvdValueError("resume=True needs run_dir, the folder of the run to continue")
        self.lock: FolderLock | None = None
        if self.folder is not None and (self.resume or self.folder.exists()):
            self._own(self.folder)
        if ranks.size > 1:
            agree(self.trainer, ranks)

    def _own(self, folder: Path) -> None:
        """Lock the folder; then restore the run that is resumed, or refuse to begin another one beside it."""
        self.lock = FolderLock(folder)
        sweep(folder)
        try:
            if self.resume:
                checkpoint.clear_up(folder / "checkpoints")
                resuming.restore(self.trainer, folder)
            elif checkpoint.latest(folder / "checkpoints"):
                raise SvdValueError(
                    f"run_dir {folder} holds a run already; choose another one, or resume=True to continue it"
                )
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let other runs use the folder."""
        if self.lock is not None:
            self.lock.release()

    def begin(self) -> None:
        """Open the log and start the clock."""
        if self.folder is not None and self.lock is None:
            make_folder(self.folder)
            self._own(self.folder)
        log = None if self.folder is None else self.folder / "metrics.jsonl"
        self.log = RunLog(log, self.trainer.epoch if self.resume else None)
        self.log.records[:] = self.ranks.tell(self.log.records)
        self.started = time.perf_counter() - self.trainer.progress.seconds
        if self.folder is not None and not self.resume:
            resuming.save(self.trainer, self.folder, 0.0)  # even a run that is killed early can then be resumed

    def end_epoch(self, step_seconds: float, forms: dict[str, str], scores: dict[str, Score]) -> Record:
        """Log the epoch that has just ended (`Trainer.end_epoch`), and call the callbacks."""
        trainer = self.trainer
        record = trainer.end_epoch(time.perf_counter() - self.started, step_seconds, forms, scores)
        self.log.append(record)
        trainer.best.note(record)
        for callback in self.callbacks:
            callback(trainer, record)
        if trainer.done:
            trainer.best.put_back()
        return record

    def save(self) -> None:
        """Write a checkpoint if there is a folder."""
        if self.folder is not None:
            self.log.sync()
            resuming.save(self.trainer, self.folder, time.perf_counter() - self.started)


def _require_free(model: Sequential) -> None:
    """Raise if a model is being fitted."""
    if model.fitting:
        raise SvdValueError(
            "model: got one that is being fitted already, in another thread or by the fit that called this callback; "
            "wait until that has ended, or fit a copy (Sequential.copy)"
        )


@contextmanager
def _claimed(models: Sequence[Sequential]) -> Iterator[None]:
    """Mark models as being fitted; raise if one is already."""
    ours = list[Sequential]()
    try:
        for model in models:
            with model.exclusive:
                _require_free(model)
                model.fitting = True
            ours.append(model)
        yield
    finally:
        for model in ours:
            model.fitting = False


def side_by_side(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs of one recipe for `fit_together` (see `runner.groups`)."""
    of = {id(run.trainer): run for run in runs}
    return [[of[id(trainer)] for trainer in group] for group in groups([run.trainer for run in runs])]


def fit_together(runs: Sequence[Run], progress: bool) -> list[list[Record]]:
    """Train one group from `side_by_side`; return the records of each run. Progress is that of the first."""
    with _claimed([run.trainer.model for run in runs]):
        return _fit_together(runs, progress)


class _Clock:
    """Adds up the time of an epoch's steps."""

    def __init__(self) -> None:
        self.seconds, self.count = 0.0, 0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._since

    def mean(self) -> float:
        """Seconds per step since the last call."""
        mean = self.seconds / self.count
        self.seconds, self.count = 0.0, 0
        return mean


def _fit_together(runs: Sequence[Run], progress: bool) -> list[list[Record]]:
    from svd_numpy.train.console import StopSignal, TrainingInterrupted, make_reporter

    trainers = [run.trainer for run in runs]
    trainer, ranks = trainers[0], runs[0].ranks
    runner = make_runner(trainers, ranks)
    for run in runs:
        run.begin()
    saved, steps = time.perf_counter(), _Clock()
    with StopSignal() as stop, make_reporter(trainer, progress and ranks.rank == 0) as report:
        while not trainer.done:
            before = trainer.progress.step
            with steps:
                runner.advance(trainer.steps_per_epoch - before % trainer.steps_per_epoch)
            steps.count += trainer.progress.step - before
            epoch_ended = trainer.progress.step % trainer.steps_per_epoch == 0
            if epoch_ended:
                runner.sync()
                for each in trainers:
                    each.check_finite()
                forms = runner.forms()
                for each in trainers:
                    each.remove()
                scores = runner.scores() if trainer.scores_now else [{} for _ in runs]
                mean = steps.mean()
                records = [run.end_epoch(mean, forms, score) for run, score in zip(runs, scores, strict=True)]
                report.epoch(records[0])
            report.step(trainer.progress.step - before)
            stopped_by = ranks.highest(stop.number if stop.requested else 0)
            due = stopped_by or trainer.done or (epoch_ended and time.perf_counter() - saved > SAVE_SECONDS)
            if due:
                runner.sync()
                for run in runs:
                    run.save()
                saved = time.perf_counter()
            if stopped_by and not trainer.done:
                ranks.wait()  # a rank that ends with an error ends all, even one that is still writing
                raise TrainingInterrupted(stopped_by, runs[0].folder)
    return [run.log.records for run in runs]
