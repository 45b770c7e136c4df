"""The command that trains many networks with varied numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdValueError

_WORDS = {"true": True, "false": False, "none": None}
_DECADE = 10.0  # a range that spans it is searched by its logarithm


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train many networks with varied numbers; compare them on held-out training images; keep each in a folder.

    Started again, the same command does only what is missing. Example: svd-numpy sweep runs/kl --numbers
    dataset=digits recipe=small kl_weight=0.3,1,3 --seeds 3 --jobs 2

    Attributes
    ----------
    run_dir : path
        Folder of the sweep, with a folder for each run in it.
    numbers : words
        NAME=VALUE for all runs, NAME=VALUE,VALUE,... for each of these, NAME=LOW..HIGH for random numbers in between
        (by their logarithm if they span a factor of ten). Names are options of `train` (or `train-cifar`) and numbers
        of the recipe, such as lr.
    experiment : str
        "mnist" varies what `svd-numpy train` does, "cifar" what `svd-numpy train-cifar` does.
    seeds : int
        How many seeds each point has.
    samples : int, optional
        A random search over so many points; None takes every combination.
    search_seed : int
        Seed of the random points.
    held_out : float
        Share of the training images that the table is about; the test images take no part.
    jobs : int
        Runs at the same time; they share the processor cores.
    scheduler : str, optional
        Address of a Dask scheduler that does the runs, such as tcp://host:8786, or "local" for a cluster on this
        machine; None takes processes of this machine.
    progress : bool
        Show a progress bar (in a terminal) or a line per finished run (in a log).
    """

    run_dir: Path
    numbers: tuple[str, ...] = ()
    experiment: str = "mnist"
    seeds: int = 1
    samples: int | None = None
    search_seed: int = 0
    held_out: float = 0.1
    jobs: int = 1
    scheduler: str | None = None
    progress: bool = True

    def run(self) -> int:
        """Sweep; 0 when all runs have finished, 1 when some have failed."""
        from svd_numpy.experiments.sweep import sweep

        numbers = dict(parse_number(text) for text in self.numbers)
        result = sweep(
            self.experiment, run_dir=self.run_dir, seeds=self.seeds, samples=self.samples, jobs=self.jobs,
            search_seed=self.search_seed, held_out=self.held_out, scheduler=self.scheduler, progress=self.progress,
            **numbers,
        )  # fmt: skip
        print(result)
        return 1 if result.failed else 0


def parse_number(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, NAME=VALUE,VALUE or NAME=LOW..HIGH."""
    from svd_numpy.experiments.sweep import Between

    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise SvdValueError(f"numbers: got {text!r}, expected NAME=VALUE, NAME=VALUE,VALUE or NAME=LOW..HIGH")
    low, dots, high = value.partition("..")
    if dots:
        try:
            ends = float(low), float(high)
        except ValueError:
            raise SvdValueError(f"numbers: got {text!r}, expected two numbers, as in lr=3e-4..3e-3") from None
        return name, Between(*ends, log=ends[0] > 0 and ends[1] >= _DECADE * ends[0])
    values = [_value(word) for word in value.split(",")]
    return name, values if len(values) > 1 else values[0]


def _value(word: str) -> Any:
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    for kind in (int, float):
        try:
            number: int | float = kind(word)
        except ValueError:
            continue
        return word if math.isnan(number) else number
    return word
