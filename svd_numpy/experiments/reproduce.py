"""`reproduce`: train what papers have published, and show their figures beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdValueError, as_path, check_count, check_flag, check_number
from svd_numpy.experiments.architectures import ARCHITECTURES
from svd_numpy.experiments.counts import Counts, count
from svd_numpy.experiments.hours import estimate
from svd_numpy.experiments.methods import METHODS
from svd_numpy.experiments.published import BLOCKS, ROWS, PaperRow
from svd_numpy.experiments.series import TrainResults, begun, mean_sd
from svd_numpy.experiments.sweep.doing import do_all
from svd_numpy.experiments.sweep.engines import check_scheduler
from svd_numpy.experiments.sweep.task import Task, function_of
from svd_numpy.files.atomic import replacing, write_atomic
from svd_numpy.plots.picture import try_to_draw
from svd_numpy.train.console import say

FILES = ("reproduce.png", "reproduce.md")
_PANELS = {
    "lenet-300-100": "LeNet, dense",
    "lenet-500-300": "LeNet, dense",
    "lenet-5": "LeNet-5",
    "vgg-like": "VGG-like",
}


def can_run(row: PaperRow) -> bool:
    """Whether this package has the method and the network of a row."""
    return row.method in METHODS and row.arch in ARCHITECTURES


@dataclass(frozen=True, eq=False)
class Reproduction:
    """Our results beside the published ones; `print` shows them as a Markdown table.

    Attributes
    ----------
    results : dict of name of a row -> TrainResults
    counts : dict of name of a row -> list of Counts
        What is counted of each result.
    quick : bool
        Whether they were trained on the digits, which compares methods, but not with the papers.
    left_out : dict of name of a row -> str
        Why a row was not trained.
    """

    results: dict[str, TrainResults]
    counts: dict[str, list[Counts]]
    quick: bool
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> list[PaperRow]:
        """The rows, trained or left out, in the order of the papers' tables."""
        return [row for name, row in ROWS.items() if name in self.counts or name in self.left_out]

    def __str__(self) -> str:
        lines = ["| " + " | ".join(_HEAD) + " |", "|---" * len(_HEAD) + "|"]
        for row in self.rows:
            theirs = ["not published"] if row.error is None else ["published", *_published(row)]
            lines.append(_line([row.name, *theirs]))
            ours = self.counts.get(row.name)
            what = "ours" if ours is None or len(ours) == 1 else f"ours, {len(ours)} seeds"
            lines.append(_line(["", what, *([self.left_out[row.name]] if ours is None else _ours(ours))]))
        notes = [_NOTE]
        if self.quick:
            notes.append("Ours were trained on the small digits, not on MNIST: compare them with one another only.")
        return "\n\n".join(["\n".join(lines), *notes])

    def plot(self) -> Any:
        """Draw error against compression, ours and theirs; returns a Figure."""
        from svd_numpy.plots.published import Place, beside_published

        places = {row.name: Place(_PANELS[row.arch], row.method, row.measure) for row in self.rows}
        ours = {
            name: [(one.error, one.compression(ROWS[name])) for one in counts] for name, counts in self.counts.items()
        }
        known = [(row.name, row.error, row.compression) for row in self.rows if not self.quick]
        theirs = {name: (error, ratio) for name, error, ratio in known if error is not None and ratio is not None}
        return beside_published(places, ours, theirs, title="The papers' rows")

    def save(self, folder: str | Path) -> None:
        """Write reproduce.md and reproduce.png into `folder`."""
        with replacing(as_path("folder", folder), FILES) as beside:
            write_atomic(beside / "reproduce.md", f"{self}\n".encode())
            try_to_draw(self.plot, beside / "reproduce.png")


_HEAD = (
    "row", "", "error %", "non-zeros", "sub-matrices", "few bits", "bits per layer", "multiplications", "live units",
    "seconds",
)  # fmt: skip
_NOTE = (
    "Ratios are whole network / what is left. *non-zeros*: weights. *sub-matrices*: matrices of live inputs times "
    "live outputs. *few bits*: 32 bits for every weight / the bits of what is left; like the paper, we count live "
    "matrices where it does, and otherwise non-zeros with an index as wide as a value. Bits are those of the posterior "
    "before the fine-tuning; ordinary weights have none. *multiplications*: of live matrices. *live units*: filters "
    "of convolutions, inputs of dense layers."
)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join([*cells, *[''] * (len(_HEAD) - len(cells))])} |"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.4g}x"


def _published(row: PaperRow) -> list[str]:
    """Cells of what was published."""
    ratio, few, macs = (_times(value) for value in (row.compression, row.few_bits, row.macs))
    ratios = ["", ratio] if row.measure == BLOCKS else [ratio, ""]
    live = row.left if row.measure == BLOCKS else ""  # else it is the sparsity of each layer
    return [_percent(row.error), *ratios, few, "-".join(map(str, row.bits)), macs, live, ""]


def _ours(counts: list[Counts]) -> list[str]:
    """Cells of our runs; numbers of each layer are means."""

    def ratio(values: Iterable[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{mean_sd(known, 1)}x" if known else ""

    def layers(values: Iterable[tuple[int, ...]]) -> str:
        return "-".join(f"{statistics.mean(layer):.0f}" for layer in zip(*values, strict=True))

    return [
        mean_sd([100 * one.error for one in counts], 2), ratio(one.nonzeros for one in counts),
        ratio(one.blocks for one in counts), ratio(one.few_bits for one in counts),
        layers(one.bits for one in counts if one.bits), ratio(one.macs for one in counts),
        layers(one.live for one in counts), mean_sd([one.seconds for one in counts], 0),
    ]  # fmt: skip


def rows_table() -> str:
    """All rows as a Markdown table."""
    lines = ["| row | error % | compression | of | left | source | here |", "|---|---|---|---|---|---|---|"]
    for row in ROWS.values():
        cells = [row.name, _percent(row.error), _times(row.compression), row.measure, row.left, row.source]
        lines.append(f"| {' | '.join([*cells, 'yes' if can_run(row) else 'no'])} |")
    return "\n".join(lines)


def reproduce(
    rows: Iterable[str] = (),
    *,
    seeds: Iterable[int] = (0,),
    quick: bool = False,
    folder: str | Path = "reproduced",
    epochs: int | None = None,
    hours: float = 12.0,
    backend: str = "auto",
    data_dir: str | Path | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> Reproduction:
    """Train the rows of the papers' tables, and baselines beside them, and compare.

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
    hours : float
        Rows of which a run would take longer here are left out; the table says how long, by steps that are measured.
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
    hours = check_number("hours", hours, low=0, high=1e6)
    shared: dict[str, Any] = {"epochs": epochs, "backend": backend, "data_dir": data_dir}
    own = {row: folder / f"{row.name.replace(' ', '-')}{'-quick' if quick else ''}" for row in chosen}
    data = {"mnist": "digits" if quick else "mnist", "cifar": "cifar10"}
    points: dict[PaperRow, dict[str, Any]] = {
        row: {
            "dataset": data[row.experiment], "recipe": "small" if quick else "default", "arch": row.arch,
            "method": row.method, "sparsity": row.sparsity,
        }
        for row in chosen
    }  # fmt: skip
    done = Reproduction({}, {}, quick)
    for row in () if quick else chosen:
        finished = all((own[row] / f"seed-{seed}" / "result.json").is_file() for seed in seeds)
        if not finished and (cost := estimate(row, epochs, backend)).hours > hours:
            done.left_out[row.name] = (
                f"not run: about {cost.hours:.0f} hours for each seed here, {1e3 * cost.step:.0f} ms a step, and "
                f"hours={hours:g}"
            )
    chosen = [row for row in chosen if row.name not in done.left_out]
    if jobs > 1 or scheduler is not None:
        tasks = [
            Task(row.experiment, str(own[row] / f"seed-{seed}"), {**points[row], "seed": seed}, shared)
            for row in chosen for seed in seeds
        ]  # fmt: skip
        if failed := do_all(tasks, jobs, scheduler, progress):
            raise SvdValueError(f"{len(failed)} of {len(tasks)} runs failed: {failed}; mend that, and start again")
    for row in chosen:
        if progress:
            say(f"{row.name}: in {own[row]}")
        done.results[row.name] = function_of(row.experiment)(
            **shared, **points[row], seeds=seeds, run_dir=own[row],
            resume=any(begun(own[row] / f"seed-{seed}") for seed in seeds), progress=progress,
        )  # fmt: skip
        done.counts[row.name] = [count(one, row) for one in done.results[row.name]]
        done.save(folder)
    if not chosen:
        done.save(folder)
    return done


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
