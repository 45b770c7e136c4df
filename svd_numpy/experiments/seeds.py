"""One recipe with several seeds: their arguments, their folders, and what they return and print."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

from svd_numpy import checkpoint
from svd_numpy.checks import check_count
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run import Options


def check_seeds(seeds: Any, seed: int) -> list[int]:
    """Return different seeds as a list; `seed` must not be given as well."""
    wanted = "expected whole numbers, each once, such as range(16)"
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds: got {seeds!r} of type {type(seeds).__name__}, {wanted}; for one run give seed")
    checked = [check_count("seeds", each, low=0) for each in seeds]
    if not checked:
        raise ValueError(f"seeds: got none, {wanted}")
    if twice := sorted({each for each in checked if checked.count(each) > 1}):
        raise ValueError(f"seeds: got {twice} more than once, {wanted}; the same seed gives the same run")
    if seed:
        raise ValueError(f"seed: got {seed} and seeds, which stands in for it; leave one of them out")
    return checked


def options_of_each(options: Options, seeds: Sequence[int]) -> list[Options]:
    """Options of each seed's run: its folder `seed-N` in the run_dir, and whether to go on with what is there."""
    folder, each = options.run_dir, list[Options]()
    for seed in seeds:
        inner = None if folder is None else folder / f"seed-{seed}"
        begun = inner is not None and checkpoint.latest(inner / "checkpoints") is not None
        if begun and not options.resume:
            raise ValueError(f"run_dir {folder} holds a run of seed {seed} already; choose another one, or resume=True")
        each.append(replace(options, seed=seed, run_dir=inner, resume=begun))
    if options.resume and not any(one.resume for one in each):
        raise ValueError(f"resume: {folder} holds no run of these seeds; correct run_dir, or leave resume out")
    return each


class TrainResults(Sequence[TrainResult]):
    """Outcomes of the same recipe with several seeds; `print` it for the table with mean ± standard deviation.

    A sequence of `TrainResult`, in the order of the seeds.
    """

    def __init__(self, results: Sequence[TrainResult]) -> None:
        self._results = tuple(results)

    @overload
    def __getitem__(self, index: int) -> TrainResult: ...
    @overload
    def __getitem__(self, index: slice) -> TrainResults: ...
    def __getitem__(self, index: int | slice) -> TrainResult | TrainResults:
        return TrainResults(self._results[index]) if isinstance(index, slice) else self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[TrainResult]:
        return iter(self._results)

    def __str__(self) -> str:
        if not self:
            return "no run"
        first = self[0]
        rows = [(f"seed {one.model.seed}", TrainResults([one])) for one in self] + [("mean", self)]
        lines = [
            f"{first.title}, recipe {first.recipe.name!r}, {len(self)} seeds; mean ± standard deviation",
            f"{'':<14}{'error %':>16}{'nll':>18}{'compression':>16}   sparsity per layer %",
            *(f"{name:<14}{some._figures()}".rstrip() for name, some in rows),
        ]
        return "\n".join([*lines, f"NOTE: {first.data.warning}"] if first.data.warning else lines)

    def _figures(self) -> str:
        """One line of the table."""
        layers = zip(*(one.layer_sparsity.values() for one in self), strict=True)
        shares = " - ".join(f"{100 * statistics.mean(layer):.1f}" for layer in layers)
        error, nll = mean_sd([100 * one.test_error for one in self], 2), mean_sd([one.test_nll for one in self], 4)
        return f"{error:>16}{nll:>18}{mean_sd([one.compression for one in self], 1):>16}   {shares}"


def mean_sd(values: Sequence[float], digits: int) -> str:
    """Mean and, of several, sample standard deviation."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
