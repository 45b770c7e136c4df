"""A second cut: finished runs, pruned further in the order of their log alpha, and fine-tuned again.

    python benchmarks/second_cut.py runs/results/lenet-5-mnist-default-seed? --compression 350 --still

Nothing in time. The networks were cut and fine-tuned once; a run's `log_alpha.npz` still orders the weights by
what the noise made of them. Each network loses those with the largest log alpha until it is as small as asked for, and
the rest is fine-tuned as before, its images shifted by up to a pixel, or, with `--still`, as they are. The test set is
measured once, after the last epoch. Goes on where it was stopped, in `runs/second-cut`; adds to
`results/second-cut.md` and `.json`.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
from machine import add_rows, head

from svd_numpy import Sequential, TrainConfig, fit, load, measure_sparsity
from svd_numpy.experiments.run_files import load_log_alphas, recorded_dataset
from svd_numpy.experiments.series import mean_sd
from svd_numpy.files import checkpoint

ROOT, OUT = Path("runs/second-cut"), Path(__file__).parent / "results" / "second-cut"
_SETTING = ("target", "images", "epochs")  # what the groups of the table differ in
_HEAD = (
    *("compression", "images", "epochs"), "run", "before: test error %", "compression", "after: test error %",
    "test NLL", "sparsity per layer %", "live units",
)  # fmt: skip


def threshold_for(log_alphas: Any, compression: float) -> float:
    """The log alpha above which weights must go, so that all weights / weights kept is at least the compression."""
    return float(np.sort(log_alphas)[int(log_alphas.size / compression) - 1])


def cut(model: Sequential, log_alphas: dict[str, Any], compression: float) -> None:
    """Set theta to 0 where log alpha is largest, until all weights / weights kept = compression."""
    order = np.concatenate([log_alphas[layer.name].ravel() for layer in model.variational_layers])
    theta = np.concatenate([layer.theta.ravel() for layer in model.variational_layers])
    order[theta == 0] = np.inf
    threshold = threshold_for(order, compression)
    for layer in model.variational_layers:
        layer.theta[log_alphas[layer.name].reshape(layer.theta.shape) > threshold] = 0


def run_one(run: Path, compression: float, epochs: int, moves: bool) -> dict[str, Any]:
    """Cut and fine-tune one network; returns its figures before and after."""
    before = json.loads((run / "result.json").read_text())
    data, model = load(recorded_dataset(run)), Sequential.load(run / "model.safetensors")
    cut(model, load_log_alphas(run / "log_alpha.npz")[0], compression)
    images = "moved" if moves else "still"
    folder = ROOT / f"{run.name}-{compression:g}-{images}-{epochs}"
    # A bound of the removal that no weight passes: all it does here is that steps compute on what is left.
    config = TrainConfig(
        epochs=0, finetune_epochs=epochs, shift=1, finetune_moves=moves, seed=before["seed"], remove_above=50
    )
    resume = checkpoint.latest(folder / "checkpoints") is not None
    last = fit(model, data, config, run_dir=folder, resume=resume)[-1]
    report = measure_sparsity(model)
    return {
        "run": run.name, "target": compression, "images": images, "epochs": epochs,
        "before": {key: before[key] for key in ("test_error", "test_nll", "compression")},
        **{key: last[key] for key in ("test_error", "test_nll", "compression", "seconds")},
        "live": [live for live, _ in report.live.values()],
        "layer_sparsity": report.by_layer,
    }  # fmt: skip


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of one setting: its runs, and their mean."""
    start = [f"{rows[0]['target']:g}x", rows[0]["images"], str(rows[0]["epochs"])]
    lines = [
        [
            *start, row["run"], f"{100 * row['before']['test_error']:.2f}", f"{row['before']['compression']:.1f}",
            f"{100 * row['test_error']:.2f}", f"{row['test_nll']:.4f}",
            " - ".join(f"{100 * share:.1f}" for share in row["layer_sparsity"].values()),
            " - ".join(map(str, row["live"])),
        ]
        for row in rows
    ]  # fmt: skip
    error, before = ([100 * of["test_error"] for of in each] for each in (rows, [row["before"] for row in rows]))
    mean = [mean_sd(before, 2), mean_sd([row["before"]["compression"] for row in rows], 1), mean_sd(error, 2)]
    lines.append([*start, "mean", *mean, mean_sd([row["test_nll"] for row in rows], 4), "", ""])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def page(commands: list[str], rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        *head("Finished runs, cut a second time", commands),
        "* Runs of `lenet-5.md` (those of 2026-11-21 removed nothing while training) and `lenet-300-100.md`, pruned "
        "further in the order of their log alpha, then fine-tuned.",
        "* *moved*: images of the fine-tuning shifted by up to a pixel; *still*: as they are.",
        "* All 60,000 training and 10,000 test images; the test set was measured once, after the last epoch.",
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---" * len(_HEAD) + "|",
    ]
    for _, group in groupby(rows, key=lambda row: [row[name] for name in _SETTING]):
        lines += lines_of(list(group))
    return "\n".join([*lines, ""])


def main() -> None:
    """Do all runs and write the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--compression", nargs="+", type=float, default=[350])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--still", action="store_true", help="fine-tune on images as they are")
    options = parser.parse_args()
    new = dict[str, Any]()
    for compression, run in product(options.compression, options.runs):
        row = run_one(run, compression, options.epochs, not options.still)
        new[" ".join(str(row[name]) for name in (*_SETTING, "run"))] = row
    print(add_rows(OUT, new, page, order=lambda row: [*(row[name] for name in _SETTING), row["run"]]))


if __name__ == "__main__":
    main()
