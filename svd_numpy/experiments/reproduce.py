"""`reproduce`: train what papers have published, and show their figures beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdValueError, as_path, check_count, check_flag
from svd_numpy.experiments.methods import METHODS
from svd_numpy.experiments.mnist import ARCHS, train_mnist
from svd_numpy.experiments.published import BLOCKS, ROWS, PaperRow
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.series import TrainResults, begun, mean_sd
from svd_numpy.experiments.sweep.doing import do_all
from svd_numpy.experiments.sweep.engines import check_scheduler
from svd_numpy.experiments.sweep.task import Task
from svd_numpy.files.atomic import replacing, write_atomic
from svd_numpy.plots.picture import try_to_draw
from svd_numpy.train.console import say

FILES = ("reproduce.png", "reproduce.md")


def can_run(row: PaperRow) -> bool:
    """Whether this package has the method and the network of a row."""
    return row.method in METHODS and row.arch in ARCHS


def block_ratio(result: TrainResult) -> float:
    """All weights / those of dense matrices of the rows and columns that still have a weight."""
    blocks = [int(alive.any(axis=1).sum() * alive.any(axis=0).sum()) for alive in result.model.alive().values()]
    return sum(result.report.total.values()) / max(1, sum(blocks))


@dataclass(frozen=True, eq=False)
class Reproduction:
    """Our results beside the published ones; `print` shows them as a Markdown table.

    Attributes
    ----------
    results : dict of name of a row -> TrainResults
    quick : bool
        Whether they were trained on the digits, which compares methods, but not with the papers.
    """

    results: dict[str, TrainResults]
    quick: bool

    def ours(self, name: str) -> list[tuple[float, float]]:
        """(error, compression as the paper counts it) of each run of a row."""
        blocks = ROWS[name].measure == BLOCKS
        return [(one.test_error, block_ratio(one) if blocks else one.compression) for one in self.results[name]]

    def __str__(self) -> str:
        lines = [_HEAD, _RULE]
        for name, runs in self.results.items():
            row = ROWS[name]
            cells = [name, f"{100 * row.error:.2f}", f"{row.compression:.4g}x", row.measure]
            cells.append(mean_sd([100 * error for error, _ in self.ours(name)], 2))
            cells += [mean_sd([one.compression for one in runs], 1), mean_sd([block_ratio(one) for one in runs], 1)]
            cells.append(f"{statistics.mean(one.seconds for one in runs):.0f}")
            lines.append(f"| {' | '.join(cells)} |")
        if self.quick:
            lines += [
                "",
                "Ours were trained on the small digits, not on MNIST: compare them with one another only.",
            ]
        return "\n".join(lines)

    def plot(self) -> Any:
        """Draw error against compression, ours and theirs; returns a Figure."""
        from svd_numpy.plots.evaluation import beside_published

        ours = {name: self.ours(name) for name in self.results}
        theirs = {name: (ROWS[name].error, ROWS[name].compression) for name in self.results}
        return beside_published(ours, {} if self.quick else theirs, title="The papers' rows")

    def save(self, folder: str | Path) -> None:
        """Write reproduce.md and reproduce.png into `folder`."""
        with replacing(as_path("folder", folder), FILES) as beside:
            write_atomic(beside / "reproduce.md", f"{self}\n".encode())
            try_to_draw(self.plot, beside / "reproduce.png")


_HEAD = "| row | published error % | published | of | our error % | our non-zeros | our sub-matrices | seconds |"
_RULE = "|---|---|---|---|---|---|---|---|"


def rows_table() -> str:
    """All published rows as a Markdown table."""
    lines = ["| row | error % | compression | of | left | source | here |", "|---|---|---|---|---|---|---|"]
    for row in ROWS.values():
        cells = [row.name, f"{100 * row.error:.2f}", f"{row.compression:.4g}x", row.measure, row.left, row.source]
        lines.append(f"| {' | '.join([*cells, 'yes' if can_run(row) else 'no'])} |")
    return "\n".join(lines)


def reproduce(
    rows: Iterable[str] = (),
    *,
    seeds: Iterable[int] = (0,),
    quick: bool = False,
    folder: str | Path = "reproduced",
    epochs: int | None = None,
    backend: str = "auto",
    data_dir: str | Path | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> Reproduction:
    """Train the rows of the papers' tables and compare.

    Parameters
    ----------
    rows : names of rows, optional
        Keys of `published.ROWS`; default: all that can run.
    seeds : whole numbers
        A run for each.
    quick : bool
        Train on the digits with the recipe "small", in a minute or so for each row, without the rows of LeNet-5.
    folder : path
        Where runs are kept, each in a folder of its own; a call with the same folder goes on where it stopped. The
        table and the picture are written there after each row.
    epochs : int, optional
        Instead of the recipes'.
    backend, data_dir, progress
        See `train_mnist`.
    jobs, scheduler
        See `sweep`: runs at the same time, and where.

    Returns
    -------
    Reproduction

    Raises
    ------
    SvdValueError, SvdTypeError
        For rows that do not exist or cannot run, as `train_mnist`, and for runs that failed on other processes.
    """
    quick, chosen, seeds = check_flag("quick", quick), _chosen(list(rows), quick), list(seeds)
    folder, jobs, scheduler = as_path("folder", folder), check_count("jobs", jobs), check_scheduler(scheduler)
    shared: dict[str, Any] = {
        "dataset": "digits" if quick else "mnist", "recipe": "small" if quick else "default", "epochs": epochs,
        "backend": backend, "data_dir": data_dir,
    }  # fmt: skip
    own = {row: folder / f"{row.name.replace(' ', '-')}{'-quick' if quick else ''}" for row in chosen}
    points: dict[PaperRow, dict[str, Any]] = {
        row: {"arch": row.arch, "method": row.method, "sparsity": row.sparsity} for row in chosen
    }
    if jobs > 1 or scheduler is not None:
        tasks = [
            Task("mnist", str(own[row] / f"seed-{seed}"), {**points[row], "seed": seed}, shared)
            for row in chosen for seed in seeds
        ]  # fmt: skip
        if failed := do_all(tasks, jobs, scheduler, progress):
            raise SvdValueError(f"{len(failed)} of {len(tasks)} runs failed: {failed}; mend that, and start again")
    results = dict[str, TrainResults]()
    for row in chosen:
        if progress:
            say(f"{row.name}: in {own[row]}")
        results[row.name] = train_mnist(
            **shared, **points[row], seeds=seeds, run_dir=own[row],
            resume=any(begun(own[row] / f"seed-{seed}") for seed in seeds), progress=progress,
        )  # fmt: skip
        Reproduction(results, quick).save(folder)
    return Reproduction(results, quick)


def _chosen(names: list[str], quick: bool) -> list[PaperRow]:
    """The rows of these names; all that can run if there is none."""
    if unknown := [name for name in names if name not in ROWS]:
        raise SvdValueError(f"rows: got {unknown}, expected some of {list(ROWS)}")
    here = [row for row in ROWS.values() if can_run(row) and not (quick and row.arch != "lenet-300-100")]
    if missing := [name for name in names if ROWS[name] not in here]:
        raise SvdValueError(
            f"rows: got {missing}, which cannot run{' on the digits' if quick else ''}; expected some of "
            f"{[row.name for row in here]}"
        )
    return [row for row in here if row.name in names] if names else here
