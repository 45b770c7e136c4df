"""One run of a sweep, in whatever process or machine: a function of a description that says all."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from svd_numpy.checks import SvdError
from svd_numpy.experiments.series import begun
from svd_numpy.files.run_log import read_log
from svd_numpy.train.console import TrainingInterrupted

# Name of an experiment -> its file in svd_numpy.experiments, and its function there.
EXPERIMENTS = {
    "mnist": ("mnist", "train_mnist"),
    "cifar": ("cifar", "train_cifar"),
    "text": ("text", "train_text"),
    "sentiment": ("text", "train_sentiment"),
}
FIGURES = ("valid_error", "valid_nll", "compression", "seconds")  # of the last record of a run


class Task(NamedTuple):
    """A run of a sweep.

    Attributes
    ----------
    experiment : str
        One of `EXPERIMENTS`.
    folder : str
        Where the run is kept.
    point : dict
        The varied numbers and the seed, by name.
    options : dict
        What all runs share.
    """

    experiment: str
    folder: str
    point: dict[str, Any]
    options: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the run has its result."""
        return (Path(self.folder) / "result.json").is_file()

    def row(self) -> dict[str, Any]:
        """The point and the figures of the finished run; those of held-out images are None if there are none."""
        last = read_log(Path(self.folder) / "metrics.jsonl")[-1]
        return {**self.point, **{name: last.get(name) for name in FIGURES}}


def function_of(experiment: str) -> Callable[..., Any]:
    """The function behind the name of an experiment."""
    file, name = EXPERIMENTS[experiment]
    found: Callable[..., Any] = getattr(importlib.import_module(f"svd_numpy.experiments.{file}"), name)
    return found


def arguments(numbers: dict[str, Any], own: set[str]) -> dict[str, Any]:
    """Sort numbers into arguments of an experiment, `own`, and changes of its recipe."""
    changes = {name: value for name, value in numbers.items() if name not in own}
    given = {name: value for name, value in numbers.items() if name in own}
    return {**given, "changes": {**(numbers.get("changes") or {}), **changes}} if changes else given


def do(task: Task) -> str:
    """Do a run, or what is left of it. Returns "" when it has finished, else why it has not."""
    if task.finished:
        return ""
    function, folder = function_of(task.experiment), Path(task.folder)
    given = arguments({**task.options, **task.point}, {*inspect.signature(function).parameters})
    try:
        function(**given, run_dir=folder, resume=begun(folder), progress=False)
    except TrainingInterrupted:
        return "stopped"
    except (SvdError, OSError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
