"""Recurrent Sparse VD on text: the tables of letters (LSTM 128, Tiny Shakespeare) and of words (sentence polarity).

    python benchmarks/text_tables.py characters --seeds 0 1 2 --jobs 2
    python benchmarks/text_tables.py polarity --seeds 0 1 2 --jobs 2

Each network of the table is trained with the recipe of `svd_numpy/experiments/text.py` and nothing else. Runs are kept
in `--folder`, each in a folder of its own: the same command repeats no finished run, and goes on with those that were
stopped. The tables are `results/text-characters.md` and `results/text-polarity.md`; `--table` only writes them anew.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, describe, one_line

import svd_numpy as svd
from svd_numpy.experiments.series import mean_sd
from svd_numpy.experiments.sweep.doing import do_all
from svd_numpy.experiments.sweep.task import Task
from svd_numpy.experiments.words import weigh_words
from svd_numpy.files.atomic import write_atomic
from svd_numpy.plots import loss_curves
from svd_numpy.plots.picture import save_figure

OUT = Path(__file__).parent / "results"
_DENSE = "dense"
_CELLS = ("inputs", "units", "gates")
_WEIGHTY = 0.25  # a word that moves the log odds by less says nothing alone


@dataclass(frozen=True)
class Table:
    """One of the tables: what is trained, and each network's options."""

    experiment: str
    dataset: str
    title: str
    networks: dict[str, dict[str, Any]]


TABLES = {
    "characters": Table(
        "text", "tinyshakespeare", "Letters: LSTM with 128 units on Tiny Shakespeare",
        {
            _DENSE: {"kind": "dense"},
            "Bernoulli dropout": {"kind": "dropout"},
            "Sparse VD": {},
            "Sparse VD, groups": {"groups": _CELLS},
        },
    ),
    "polarity": Table(
        "sentiment", "rt-polarity", "Words: embedding 64, LSTM with 64 units, on sentence polarity",
        {
            _DENSE: {"kind": "dense"},
            "Bernoulli dropout": {"kind": "dropout"},
            "Sparse VD": {},
            "Sparse VD, words": {"groups": ("words",)},
            "Sparse VD, groups": {"groups": ("words", *_CELLS)},
        },
    ),
}  # fmt: skip


def tasks_of(
    table: Table, networks: Sequence[str], seeds: Sequence[int], folder: Path, shared: dict[str, Any]
) -> dict[str, list[Task]]:
    """The runs of every network, by its name."""
    return {
        name: [
            Task(
                table.experiment,
                str(folder / f"{table.experiment}-{name.lower().replace(',', '').replace(' ', '-')}-seed{seed}"),
                {**table.networks[name], "seed": seed}, shared,
            )
            for seed in seeds
        ]
        for name in networks
    }  # fmt: skip


def measure(task: Task) -> dict[str, Any]:
    """The figures of a finished run, and the words that its network has kept, with what each says."""
    folder = Path(task.folder)
    found = json.loads((folder / "result.json").read_text("utf-8"))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = next(record for record in records if record["epoch"] == found["best_epoch"])
    keys = (
        "seed", "kl_weight", "epochs", "seconds", "best_epoch", "best_valid_nll", "best_test_nll", "best_test_error",
        "valid_nll", "test_nll", "test_error", "compression", "weights", "live",
    )  # fmt: skip
    figures = {key: found[key] for key in keys} | {"best_compression": best["compression"]}
    figures["curves"] = {key: [record[key] for record in records] for key in ("epoch", "nll", "valid_nll")}
    if task.experiment == "sentiment" and found["kind"] == "variational":
        words = weigh_words(svd.Sequential.load(folder / "model.safetensors", "numpy"))
        figures["words"] = {word: round(gain, 3) for word, gain in words.items()}
    return figures


def naive_bayes(dataset: str) -> float:
    """Test error of multinomial naive Bayes with add-one smoothing on the same words, in percent."""
    data = svd.load(dataset)
    words = np.arange(len(data.vocabulary)) != data.padding
    counts = np.stack(
        [np.bincount(data.x_train[data.y_train == label].ravel(), minlength=len(words)) + 1 for label in (0, 1)]
    )
    shares = counts[:, words] / counts[:, words].sum(axis=1, keepdims=True)
    gains = np.zeros(len(words))
    gains[words] = np.log(shares[1] / shares[0])
    prior = math.log(data.y_train.mean() / (1 - data.y_train.mean()))
    return 100 * float(((gains[data.x_test].sum(axis=1) + prior > 0) != data.y_test).mean())


def _over(runs: Sequence[dict[str, Any]], key: str, digits: int, factor: float = 1.0) -> str:
    return mean_sd([factor * run[key] for run in runs], digits)


def _left(runs: Sequence[dict[str, Any]], of: str) -> str:
    """Mean number left of everything in the runs' `live` whose name begins with these letters."""
    names = [name for name in runs[0]["live"] if name.startswith(of)]
    return " + ".join(
        f"{statistics.mean(run['live'][name][0] for run in runs):.0f} of {runs[0]['live'][name][1]}" for name in names
    )


def _compact(run: dict[str, Any]) -> float:
    kept, total = (sum(pair[which] for pair in run["weights"].values()) for which in (0, 1))
    return total / max(kept, 1)


def _matrices(runs: Sequence[dict[str, Any]]) -> str:
    """Compression of each matrix, from the mean number of weights that are kept."""
    cells = []
    for name, (_, total) in runs[0]["weights"].items():
        kept = statistics.mean(run["weights"][name][0] for run in runs)
        cells.append(f"{name} {total / kept:.1f}" if kept else f"{name}: none left")
    return "; ".join(cells)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_SIZES = ("compression", "without dead units", "by matrix")


def _sizes(runs: Sequence[dict[str, Any]]) -> list[str]:
    compact = mean_sd([_compact(run) for run in runs], 1)
    return [_over(runs, "compression", 1), compact, _matrices(runs)]


def of_characters(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of the table of letters."""
    bit = 1 / math.log(2)
    head = [
        "network", "seeds", "bits, best epoch", "bits, last epoch", "nats to dense, best", "nats to dense, last",
        "best epoch", "test bits, best", "test bits, last", *_SIZES, "units", "gates", "letters", "seconds",
    ]  # fmt: skip
    lines = [_row(head), "|---" * len(head) + "|"]
    dense = [run["best_valid_nll"] for run in found.get(_DENSE, ())]
    for name, runs in found.items():
        gaps = ["", ""]
        if dense:
            zero = statistics.mean(dense)
            gaps = [mean_sd([run[key] - zero for run in runs], 4) for key in ("best_valid_nll", "valid_nll")]
        cells = [
            name, str(len(runs)), _over(runs, "best_valid_nll", 3, bit), _over(runs, "valid_nll", 3, bit), *gaps,
            _over(runs, "best_epoch", 0), _over(runs, "best_test_nll", 3, bit), _over(runs, "test_nll", 3, bit),
            *_sizes(runs), _left(runs, "units"), _left(runs, "gates"), _left(runs, "tokens"), _over(runs, "seconds", 0),
        ]  # fmt: skip
        lines.append(_row(cells))
    return lines


def of_polarity(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of the table of words."""
    head = [
        "network", "seeds", "test error %, best epoch", "test error %, last epoch", "best epoch", *_SIZES, "words",
        "features", "units", "gates", "seconds",
    ]  # fmt: skip
    lines = [_row(head), "|---" * len(head) + "|"]
    for name, runs in found.items():
        cells = [
            name, str(len(runs)), _over(runs, "best_test_error", 2, 100), _over(runs, "test_error", 2, 100),
            _over(runs, "best_epoch", 0), *_sizes(runs), _left(runs, "tokens"), _left(runs, "features"),
            _left(runs, "units"), _left(runs, "gates"), _over(runs, "seconds", 0),
        ]  # fmt: skip
        lines.append(_row(cells))
    return lines


def lists_of_words(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The words that the first run of each sparse network has kept, by what they say."""
    lines = list[str]()
    for name, runs in found.items():
        if "words" not in runs[0]:
            continue
        gains = runs[0]["words"]
        kinds = {
            "praise": sorted((word for word in gains if gains[word] >= _WEIGHTY), key=lambda word: -gains[word]),
            "blame": sorted((word for word in gains if gains[word] <= -_WEIGHTY), key=gains.__getitem__),
            "say little alone": [word for word in gains if abs(gains[word]) < _WEIGHTY],
        }
        lines += ["", f"## The {len(gains)} words left: {name}, seed {runs[0]['seed']}"]
        for kind, words in kinds.items():
            lines += ["", f"**{len(words)} {kind}:** {' '.join(f'`{word}`' for word in words) or 'none'}"]
    return lines


def page(name: str, found: dict[str, list[dict[str, Any]]], shared: dict[str, Any], jobs: int) -> str:
    """The whole page."""
    table, letters = TABLES[name], name == "characters"
    notes = [
        "bits per letter and nats of the validation part; to dense: above the mean of the dense networks' best epochs",
        "best epoch: the one with the lowest validation NLL; all sizes are those after the last epoch",
    ]
    if not letters:
        notes = [
            f"naive Bayes (add-one smoothing, same words): {naive_bayes(shared['dataset']):.1f} % of the test "
            "sentences wrong",
            "best epoch: the one with the lowest validation NLL; all sizes are those after the last epoch",
            "what a word says: how far it moves the log odds of praise when it is the whole sentence; below "
            f"{_WEIGHTY} it says little",
        ]
    lines = [
        f"# {table.title}",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}",
        *(f"* {note}" for note in notes),
        "* compression: all weights / weights left, embedding included; without dead units: also those that feed or "
        "read nothing but dead units are gone, as `compress` does it; by matrix: the latter, matrix by matrix",
        f"* seconds: {jobs} run(s) side by side on a shared machine",
        "",
        *(of_characters(found) if letters else of_polarity(found)),
        "",
        f"![Training and validation loss by epoch, means over the seeds](text-{name}.png)",
        *([] if letters else lists_of_words(found)),
        "",
    ]
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, Any]]], unit: str, path: Path) -> None:
    """Draw training and validation NLL by epoch, means over the seeds."""
    histories = dict[str, list[dict[str, float]]]()
    for name, runs in found.items():
        mean = {key: np.mean([run["curves"][key] for run in runs], axis=0).tolist() for key in runs[0]["curves"]}
        histories[name] = [dict(zip(mean, epoch, strict=True)) for epoch in zip(*mean.values(), strict=True)]
    save_figure(loss_curves(histories, unit), path)


def main(words: Sequence[str] | None = None) -> None:
    """Do the runs that are missing, then write the table of all that have finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=tuple(TABLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="these rows only, such as 'Sparse VD'")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--folder", type=Path, default=Path("runs/text-tables"))
    parser.add_argument("--table", dest="only_table", action="store_true", help="only write the table, of what is done")
    parser.add_argument("--dataset", help="another one is for trials")
    parser.add_argument("--epochs", type=int, help="fewer are for trials")
    parser.add_argument("--units", type=int, help="fewer are for trials")
    options = parser.parse_args(words)
    table = TABLES[options.table]
    if unknown := set(options.only or ()) - set(table.networks):
        parser.error(f"--only: got {sorted(unknown)}, expected some of {list(table.networks)}")
    shared: dict[str, Any] = {"dataset": options.dataset or table.dataset, "epochs": options.epochs}
    shared |= {} if options.units is None else {"units": options.units}
    every = tasks_of(table, [*table.networks], options.seeds, options.folder, shared)
    wanted = [task for name in options.only or table.networks for task in every[name]]
    failed = {} if options.only_table else do_all(wanted, options.jobs, None, progress=True)
    finished = {name: [measure(task) for task in tasks if task.finished] for name, tasks in every.items()}
    found = {name: runs for name, runs in finished.items() if runs}
    if found:
        path = OUT / f"text-{options.table}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps({"machine": describe(), "runs": found}, indent=1).encode())
        draw(found, "letter" if table.experiment == "text" else "sentence", path.with_suffix(".png"))
        write_atomic(path.with_suffix(".md"), page(options.table, found, shared, options.jobs).encode())
    if failed:
        raise SystemExit("\n".join(f"{folder}: {said}" for folder, said in failed.items()))


if __name__ == "__main__":
    main()
