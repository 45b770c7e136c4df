"""Callbacks that show a run in other people's tools: TensorBoard and MLflow.

The log of the run, `metrics.jsonl`, stays the source. A tracker copies its records, first those that are there already,
then each new one; so a run that was killed, resumed or extended has each epoch once, as in its log.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdTypeError, SvdValueError, as_path, check_choice
from svd_numpy.files.atomic import write_atomic
from svd_numpy.files.lock import one_at_a_time
from svd_numpy.files.run_log import read_log
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.trainer import Record, Trainer

RUN_ID = "mlflow.txt"
_EXPERIMENT = "svd-numpy"
_BEGINNING = ".mlflow.lock"  # beside the folders of runs
_FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"  # MLflow asks for it; without a database package it has no other local store


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of a record by name, such as "test_error" and "sparsity/dense1"."""
    found = dict[str, float]()
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{layer}": each for layer, each in value.items() if isinstance(each, int | float)}
        elif isinstance(value, int | float) and name not in ("schema", "epoch"):
            found[name] = float(value)
    return found


class _Tracker:
    """A callback that copies the log of a run; what goes wrong there is said once, and the run goes on.

    Parameters
    ----------
    run_dir : path
        The folder of the run, whose `metrics.jsonl` is copied.

    Raises
    ------
    SvdValueError
        If the package is not installed.
    """

    name = package = ""

    def __init__(self, run_dir: str | Path) -> None:
        self.folder = as_path("run_dir", run_dir)
        if importlib.util.find_spec(self.package) is None:
            raise SvdValueError(
                f"log: {self.name} needs the package {self.package}, which is not installed; "
                f"pip install 'svd-numpy[{self.name}]'"
            )
        self._open = self._failed = False

    def __call__(self, trainer: Trainer, record: Record) -> None:
        if self._failed:
            return
        try:
            if self._open:
                self.write([record])
            else:
                records = read_log(self.folder / "metrics.jsonl")
                self.begin(trainer.config)
                self._open = True
                self.write(records)
            if trainer.done:
                self.end()
        except Exception as error:
            self._failed = True
            warnings.warn(
                f"log: {self.name} gets no more of this run ({type(error).__name__}: {error}); "
                f"{self.folder / 'metrics.jsonl'} has everything",
                stacklevel=2,
            )

    def begin(self, config: TrainConfig) -> None:
        """Open what is written to."""
        raise NotImplementedError

    def write(self, records: list[Record]) -> None:
        """Write the records of epochs that follow each other, up to the present one."""
        raise NotImplementedError

    def end(self) -> None:
        """Close it."""
        raise NotImplementedError


class TensorBoardLog(_Tracker):
    """Callback: write TensorBoard's event files to the folder `tensorboard` of the run.

    `tensorboard --logdir runs` shows them. A resumed run writes them anew, from its log.
    """

    name, package = "tensorboard", "tensorboardX"

    def begin(self, config: TrainConfig) -> None:
        """Replace the event files, if there are any."""
        from tensorboardX import SummaryWriter

        folder = self.folder / "tensorboard"
        if folder.exists():
            shutil.rmtree(folder)
        self._writer = SummaryWriter(str(folder), write_to_disk=True)

    def write(self, records: list[Record]) -> None:
        """Add a point to each curve; times are those of the run, without interruptions."""
        now = time.time() - records[-1]["seconds"]
        for record in records:
            for name, value in figures(record).items():
                self._writer.add_scalar(name, value, record["epoch"], now + record["seconds"])
        self._writer.flush()

    def end(self) -> None:
        """Close the file."""
        self._writer.close()


class MlflowLog(_Tracker):
    """Callback: write the run to MLflow, at `MLFLOW_TRACKING_URI`, or else into the folder `mlruns` beside the run's.

    The identity of the run in MLflow is in `mlflow.txt` in the run's folder, so that a resumed run goes on there.
    """

    name, package = "mlflow", "mlflow"

    def begin(self, config: TrainConfig) -> None:
        """Find the run in MLflow, or create it with the numbers of the configuration as parameters."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        address = os.environ.get("MLFLOW_TRACKING_URI") or (self.folder.resolve().parent / "mlruns").as_uri()
        held, self._there = self.folder / RUN_ID, dict[str, set[int]]()
        # The runs of a sweep begin at the same moment, and in its store of files MLflow would give each an experiment.
        with one_at_a_time(self.folder.resolve().parent, _BEGINNING):
            with _file_store_allowed():
                self._client = MlflowClient(address)
            experiment = "" if held.is_file() else self._experiment()
        if not experiment:
            self._run = held.read_text(encoding="ascii")
            for name in self._client.get_run(self._run).data.metrics:
                self._there[name] = {old.step for old in self._client.get_metric_history(self._run, name)}
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = str(self._client.create_run(experiment, run_name=self.folder.name).info.run_id)
        keep_run_id(held, self._run)
        numbers = [Param(field.name, str(getattr(config, field.name))) for field in fields(config)]
        self._client.log_batch(self._run, params=numbers)

    def _experiment(self) -> str:
        """Find or create the experiment; a run elsewhere may create it at the same moment."""
        for _ in range(2):
            found = self._client.get_experiment_by_name(_EXPERIMENT)
            if found is not None:
                return str(found.experiment_id)
            with contextlib.suppress(Exception):  # it is there now
                return str(self._client.create_experiment(_EXPERIMENT))
        raise SvdValueError(f"MLflow has no experiment {_EXPERIMENT!r} and does not create one")

    def write(self, records: list[Record]) -> None:
        """Add what is not there yet: a run that was killed may have got further here than its last checkpoint."""
        from mlflow.entities import Metric

        now = time.time() - records[-1]["seconds"]
        for record in records:
            new = [
                Metric(name, value, round(1000 * (now + record["seconds"])), record["epoch"])
                for name, value in figures(record).items()
                if record["epoch"] not in self._there.get(name, ())
            ]
            if new:
                self._client.log_batch(self._run, metrics=new)

    def end(self) -> None:
        """Say that the run has finished."""
        self._client.set_terminated(self._run)


def keep_run_id(path: Path, run: str) -> None:
    """Write down which run in MLflow this is."""
    write_atomic(path, run.encode())


@contextlib.contextmanager
def _file_store_allowed() -> Iterator[None]:
    """Let MLflow open its store of files, and leave the environment as it was."""
    before = os.environ.get(_FILE_STORE)
    os.environ[_FILE_STORE] = before or "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FILE_STORE]
        else:
            os.environ[_FILE_STORE] = before


TRACKERS: dict[str, type[_Tracker]] = {"tensorboard": TensorBoardLog, "mlflow": MlflowLog}


def trackers(names: Iterable[str], run_dir: str | Path | None) -> list[_Tracker]:
    """Make the trackers that the argument `log` of an experiment names.

    Raises
    ------
    SvdValueError, SvdTypeError
        For unknown names, missing packages, and a run without a folder, which has no log to copy.
    """
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Iterable):
        raise SvdTypeError(f"log: got {names!r}, expected names such as ('tensorboard', 'mlflow')")
    chosen = [TRACKERS[check_choice("log", name, tuple(TRACKERS))] for name in names]
    if chosen and run_dir is None:
        raise SvdValueError("log: needs run_dir, the folder of the run whose log is copied")
    return [tracker(run_dir) for tracker in chosen if run_dir is not None]
