"""One recipe several times, with several seeds and KL weights: arguments, folders, the table and its picture."""

from __future__ import annotations

import numbers
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from svd_numpy.checks import SvdTypeError, SvdValueError, check_count
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run import Options, check_kl_weight
from svd_numpy.files import checkpoint


def options_of_each(options: Options, seeds: Any, kl_weights: Any, kind: str) -> tuple[list[Options], bool]:
    """Options of each run, by KL weight and then by seed; and whether they are a series, not one run.

    The runs of a series have folders of their own in the run_dir. Each goes on with what is there.
    """
    one_weight = isinstance(kl_weights, numbers.Real)
    if seeds is None and one_weight:
        return [replace(options, kl_weight=check_kl_weight(kl_weights, kind))], False
    if seeds is not None and options.seed:
        raise SvdValueError(f"seed: got {options.seed} and seeds, which stands in for it; leave one of them out")
    weights = [kl_weights] if one_weight else _each_once("kl_weight", kl_weights, "numbers", "(0.5, 1, 2)")
    chosen = [options.seed] if seeds is None else _each_once("seeds", seeds, "whole numbers", "range(16)")
    folder, each = options.run_dir, list[Options]()
    for weight in (check_kl_weight(weight, kind) for weight in weights):
        for seed in (check_count("seeds", seed, low=0) for seed in chosen):
            words = ([] if one_weight else [f"kl-{weight:g}"]) + ([] if seeds is None else [f"seed-{seed}"])
            inner = None if folder is None else folder / "-".join(words)
            begun = inner is not None and checkpoint.latest(inner / "checkpoints") is not None
            each.append(replace(options, seed=seed, kl_weight=weight, run_dir=inner, resume=begun))
    there = [one.run_dir for one in each if one.resume]
    if there and not options.resume:
        raise SvdValueError(f"run_dir: {there[0]} holds a run already; choose another folder, or resume=True")
    if options.resume and not there:
        raise SvdValueError(f"resume: {folder} holds none of these runs; correct run_dir, or leave resume out")
    return each, True


def _each_once(name: str, values: Any, what: str, example: str) -> list[Any]:
    wanted = f"expected {what}, each once, such as {example}"
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise SvdTypeError(f"{name}: got {values!r} of type {type(values).__name__}, {wanted}")
    if not (listed := list(values)):
        raise SvdValueError(f"{name}: got none, {wanted}")
    if twice := [each for i, each in enumerate(listed) if each in listed[:i]]:
        raise SvdValueError(f"{name}: got {twice} more than once, {wanted}; the same numbers give the same run")
    return listed


class TrainResults(Sequence[TrainResult]):
    """Outcomes of one recipe with several seeds and KL weights; `print` it for the table.

    A sequence of `TrainResult`. The table has a row for each seed, and their mean ± standard deviation; where there are
    several KL weights, such a mean for each of these.
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

    @property
    def by_kl_weight(self) -> dict[float, TrainResults]:
        """The results of each KL weight."""
        weights = dict.fromkeys(one.kl_weight for one in self)
        return {weight: TrainResults([one for one in self if one.kl_weight == weight]) for weight in weights}

    def __str__(self) -> str:
        if not self:
            return "no run"
        first, groups = self[0], self.by_kl_weight
        seeds = len(self) // len(groups)
        if len(groups) == 1:
            rows = [(f"seed {one.model.seed}", TrainResults([one])) for one in self] + [("mean", self)]
            what = f"{first.title}, recipe {first.recipe.name!r}"
        else:
            rows = [(f"KL weight {weight:g}", group) for weight, group in groups.items()]
            what = f"{replace(first, kl_weight=1.0).title}, recipe {first.recipe.name!r}, {len(groups)} KL weights"
        lines = [
            f"{what}, {f'{seeds} seeds; mean ± standard deviation' if seeds > 1 else f'seed {first.model.seed}'}",
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

    def plot(self) -> Any:
        """Draw what sparsity costs: error and compression of every run, and their means by KL weight; a Figure."""
        from svd_numpy.plots import error_against_compression

        groups = self.by_kl_weight
        runs = {
            f"KL weight {weight:g}": [(one.test_error, one.compression) for one in group]
            for weight, group in groups.items()
        }
        row = self[0].published
        return error_against_compression(
            runs,
            None if row is None else (row.error, row.compression),
            title=f"{replace(self[0], kl_weight=1.0).title}: what sparsity costs",
        )

    def save(self, run_dir: str | Path) -> None:
        """Write results.txt and results.png into `run_dir`."""
        from svd_numpy.files.atomic import write_atomic

        write_atomic(Path(run_dir) / "results.txt", f"{self}\n".encode())
        self.plot().savefig(Path(run_dir) / "results.png", dpi=100)


def mean_sd(values: Sequence[float], digits: int) -> str:
    """Mean and, of several, sample standard deviation."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
