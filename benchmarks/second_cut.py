"""A second cut: finished LeNet-5 runs, pruned further in the order of their log alpha, and fine-tuned again.

    python benchmarks/second_cut.py runs/results/lenet-5-mnist-default-seed? --compression 350

Nothing in time. A run of recipe `default` was cut and fine-tuned once; its `log_alpha.npz` still orders the weights by
what the noise made of them. Each network loses those with the largest log alpha until it is as small as asked for, and
the rest is fine-tuned as before, its images shifted by up to a pixel. The test set is measured once, after the last
epoch. Goes on where it was stopped, in `runs/second-cut`; writes `results/second-cut.md` and `.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, describe, one_line

from svd_numpy import Sequential, TrainConfig, fit, load, measure_sparsity
from svd_numpy.experiments.run_files import load_log_alphas
from svd_numpy.experiments.series import mean_sd
from svd_numpy.files import checkpoint

ROOT, OUT = Path("runs/second-cut"), Path(__file__).parent / "results" / "second-cut"


def cut(model: Sequential, log_alphas: dict[str, Any], compression: float) -> None:
    """Set theta to 0 where log alpha is largest, until all weights / weights kept = compression."""
    order = np.concatenate([log_alphas[layer.name].ravel() for layer in model.variational_layers])
    theta = np.concatenate([layer.theta.ravel() for layer in model.variational_layers])
    order[theta == 0] = np.inf
    threshold = np.sort(order)[int(order.size / compression) - 1]
    for layer in model.variational_layers:
        layer.theta[log_alphas[layer.name].reshape(layer.theta.shape) > threshold] = 0


def run_one(run: Path, compression: float, epochs: int) -> dict[str, Any]:
    """Cut and fine-tune one network; returns its figures before and after."""
    before = json.loads((run / "result.json").read_text())
    data, model = load("mnist"), Sequential.load(run / "model.safetensors")
    cut(model, load_log_alphas(run / "log_alpha.npz")[0], compression)
    folder = ROOT / f"{run.name}-{compression:g}"
    config = TrainConfig(epochs=0, finetune_epochs=epochs, shift=1, seed=before["seed"])
    resume = checkpoint.latest(folder / "checkpoints") is not None
    last = fit(model, data, config, run_dir=folder, resume=resume)[-1]
    report = measure_sparsity(model)
    return {
        "run": run.name,
        "before": {key: before[key] for key in ("test_error", "test_nll", "compression")},
        **{key: last[key] for key in ("test_error", "test_nll", "compression", "seconds")},
        "live": [live for live, _ in report.live.values()],
        "layer_sparsity": report.by_layer,
    }


def main() -> None:
    """Do all runs and write the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--compression", type=float, default=350)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    rows = [run_one(run, options.compression, options.epochs) for run in options.runs]
    lines = [
        f"| {row['run']} | {100 * row['before']['test_error']:.2f} | {row['before']['compression']:.1f} "
        f"| {100 * row['test_error']:.2f} | {row['test_nll']:.4f} | {row['compression']:.1f} "
        f"| {' - '.join(f'{100 * share:.1f}' for share in row['layer_sparsity'].values())} "
        f"| {' - '.join(map(str, row['live']))} |"
        for row in rows
    ]
    error, before = ([100 * of["test_error"] for of in each] for each in (rows, [row["before"] for row in rows]))
    mean = [mean_sd(before, 2), mean_sd([row["before"]["compression"] for row in rows], 1), mean_sd(error, 2)]
    mean += [mean_sd([row["test_nll"] for row in rows], 4), mean_sd([row["compression"] for row in rows], 1)]
    text = [
        "# LeNet-5, cut a second time",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}",
        "* Runs of recipe `default` (`lenet-5.md`), pruned further in the order of their log alpha, then "
        f"{options.epochs} epochs of fine-tuning.",
        "* All 60,000 training and 10,000 test images; the test set was measured once, after the last epoch.",
        "",
        "| run | before: test error % | compression | after: test error % | test NLL | compression "
        "| sparsity per layer % | live units |",
        "|---|---|---|---|---|---|---|---|",
        *lines,
        f"| mean | {' | '.join(mean)} | | |",
        "",
    ]
    OUT.with_suffix(".md").write_text("\n".join(text))
    OUT.with_suffix(".json").write_text(json.dumps({"machine": describe(), "runs": rows}, indent=1))
    print("\n".join(text))


if __name__ == "__main__":
    main()
