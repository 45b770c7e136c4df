"""One recipe with several seeds and KL weights: arguments, folders, the table and its picture."""

from __future__ import annotations

import numbers
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from svd_numpy.checks import SvdTypeError, SvdValueError, as_path, check_count
from svd_numpy.experiments.options import Options
from svd_numpy.experiments.result import TrainResult
from svd_numpy.files import checkpoint

_SIGN = "+-"  # not every console can print ±
PRETRAINING = "pretrain"  # folder of the first of two stages, inside the run's folder


def begun(folder: Path | None) -> bool:
    """Whether a folder holds a run, in any stage."""
    stages = () if folder is None else (folder, folder / PRETRAINING)
    return any(checkpoint.latest(stage / "checkpoints") is not None for stage in stages)


def options_of_each(options: Options, seeds: Any, kl_weights: Any) -> list[Options]:
    """Return the options of each run, by KL weight and then by seed.

    If there can be several runs, each has its own folder in the run_dir, and resumes if that folder holds a run.

    Parameters
    ----------
    options : Options
        Options shared by the runs.
    seeds : whole numbers or None
    kl_weights : number, or several

    Raises
    ------
    SvdValueError, SvdTypeError
        For seeds and weights that are invalid, repeated, or in conflict with the options.
    """
    if not _several(seeds, kl_weights):
        return [replace(options, kl_weight=kl_weights)]
    if options.ranks.size > 1:
        raise SvdValueError(
            f"ranks: got {options.ranks.size} and several seeds or KL weights, expected one run; make a call for each"
        )
    if seeds is not None and options.seed:
        raise SvdValueError(f"seed: got {options.seed} and seeds, which replaces it; leave one of them out")
    one_weight = isinstance(kl_weights, numbers.Real)
    weights = [kl_weights] if one_weight else _each_once("kl_weight", kl_weights, "numbers", "(0.5, 1, 2)")
    chosen = [options.seed] if seeds is None else _each_once("seeds", seeds, "whole numbers", "range(16)")
    folder, each = options.folder, list[Options]()
    for weight in weights:
        for seed in (check_count("seeds", seed, low=0) for seed in chosen):
            own = replace(options, seed=seed, kl_weight=weight)
            words = ([] if one_weight else [f"kl-{own.kl_weight:g}"]) + ([] if seeds is None else [f"seed-{seed}"])
            inner = None if folder is None else folder / "-".join(words)
            each.append(replace(own, run_dir=inner, resume=begun(inner)))
    there = [one.folder for one in each if one.resume]
    if there and not options.resume:
        raise SvdValueError(f"run_dir: {there[0]} holds a run already; choose another folder, or resume=True")
    if options.resume and not there:
        raise SvdValueError(f"resume: {folder} holds none of these runs; correct run_dir, or leave resume out")
    return each


def one_or_all(
    results: Sequence[TrainResult], options: Options, seeds: Any, kl_weights: Any
) -> TrainResult | TrainResults:
    """Return the result of a single run, or all results if there can be several, saved if there is a run_dir."""
    if not _several(seeds, kl_weights):
        return results[0]
    series = TrainResults(results)
    if options.folder is not None:
        series.save(options.folder)
    return series


def _several(seeds: Any, kl_weights: Any) -> bool:
    return seeds is not None or not isinstance(kl_weights, numbers.Real)


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
    """Results of one recipe with several seeds and KL weights; `print` shows them as a table.

    A sequence of `TrainResult`. With one KL weight, the table has a row for each seed, and one for their mean ±
    standard deviation. With several, it has one such row for each KL weight.
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
            f"{what}, {f'{seeds} seeds; mean +- standard deviation' if seeds > 1 else f'seed {first.model.seed}'}",
            f"{'':<14}{'error %':>16}{'nll':>18}{'compression':>16}   sparsity per layer %",
            *(f"{name:<14}{some._figures()}".rstrip() for name, some in rows),
        ]
        return "\n".join([*lines, f"NOTE: {first.data.warning}"] if first.data.warning else lines)

    def _figures(self) -> str:
        """Return one line of the table."""
        layers = zip(*(one.layer_sparsity.values() for one in self), strict=True)
        shares = " - ".join(f"{100 * statistics.mean(layer):.1f}" for layer in layers)
        error = mean_sd([100 * one.test_error for one in self], 2, _SIGN)
        nll = mean_sd([one.test_nll for one in self], 4, _SIGN)
        return f"{error:>16}{nll:>18}{mean_sd([one.compression for one in self], 1, _SIGN):>16}   {shares}"

    def plot(self) -> Any:
        """Draw what sparsity costs: error and compression of every run, with means by KL weight. Returns a Figure."""
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
        from svd_numpy.files.atomic import replacing, write_atomic
        from svd_numpy.plots.picture import try_to_draw

        with replacing(as_path("run_dir", run_dir), ("results.png", "results.txt")) as folder:
            write_atomic(folder / "results.txt", f"{self}\n".encode())
            try_to_draw(self.plot, folder / "results.png")


def mean_sd(values: Sequence[float], digits: int, sign: str = "±") -> str:
    """Mean and, if there are several values, sample standard deviation, as text, with this sign between them."""
    spread = f" {sign} {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
