"""Random labels: which networks learn the images by heart, and what Sparse VD does instead.

    python benchmarks/random_labels.py --epochs 100 --jobs 2

The labels of the training images are replaced by random ones (Zhang et al. 2017; Molchanov et al. 2017, §5), so that
there is nothing to learn but the images themselves. The table gives the accuracy on these training images of the
network as it predicts: without dropout, without noise, pruned. Runs are resumable folders under `runs/random-labels`;
finished ones in the table's JSON file are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from machine import command_line, describe, one_line

from svd_numpy import checkpoint, evaluate
from svd_numpy.experiments.cifar import train_cifar
from svd_numpy.experiments.mnist import train_mnist

CASES = (
    ("mnist", "lenet-300-100", "dense"),
    ("mnist", "lenet-300-100", "dropout"),
    ("mnist", "lenet-300-100", "variational"),
    ("cifar10", "vgg-like", "dropout"),
    ("cifar10", "vgg-like", "variational"),
)
NAMES = {"dense": "no regularisation", "dropout": "Bernoulli dropout", "variational": "Sparse VD"}
ROOT = Path("runs/random-labels")
OUT = Path(__file__).parent / "results" / "random-labels"


def run_one(dataset: str, arch: str, kind: str, options: argparse.Namespace) -> None:
    """Do (or finish) one run and write its figures."""
    run_dir = ROOT / f"{dataset}-{arch}-{kind}"
    shared: dict[str, Any] = {
        "random_labels": True,
        "kind": kind,
        "dataset": dataset,
        "run_dir": run_dir,
        "resume": checkpoint.latest(run_dir / "checkpoints") is not None,
        "progress": False,
        "eval_every": 0,
    }
    if arch == "vgg-like":
        # From random weights: what dropout has learned by heart would only have to be unlearned.
        first = 0 if kind == "variational" else None
        result = train_cifar(k=options.k, epochs=options.cifar_epochs, pretrain_epochs=first, **shared)
    else:
        result = train_mnist(arch, epochs=options.epochs, **shared)
    train = evaluate(result.model, result.data.x_train, result.data.y_train)
    figures = result.to_dict() | {
        "train_accuracy": 1 - train["error"],
        "train_nll": train["nll"],
        "kept": sum(result.report.kept.values()),
        "weights": sum(result.report.total.values()),
    }
    (run_dir / "random-labels.json").write_text(json.dumps(figures, indent=1))


def load_runs() -> dict[str, dict[str, Any]]:
    """Finished runs, by case."""
    path = OUT.with_suffix(".json")
    runs: dict[str, dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else {}
    for case in CASES:
        found = ROOT / "-".join(case) / "random-labels.json"
        if found.exists():
            runs.setdefault(" ".join(case), json.loads(found.read_text()))
    return runs


def write_table() -> None:
    """Write results/random-labels.md and .json."""
    facts, runs, lines = describe(), load_runs(), []
    for case in CASES:
        if run := runs.get(" ".join(case)):
            width = f", width {run['width']:g}" if run["width"] != 1 else ""
            share = 100 * (1 - run["kept"] / run["weights"]) if run["weights"] else 0
            kept = f"{share:.4f} | {run['kept']:,} of {run['weights']:,}" if run["weights"] else "0 | all"
            accuracy = f"{100 * run['train_accuracy']:.1f} | {100 * (1 - run['test_error']):.1f}"
            lines.append(
                f"| {case[0]} | {case[1]}{width} | {NAMES[case[2]]} | {run['epochs']} | {accuracy} | {kept} "
                f"| {run['seconds']:.0f} |"
            )
    text = [
        "# Random labels: by heart, or not at all",
        "",
        f"* Machine: {one_line(facts)}",
        f"* Command: {command_line()}",
        "* All training images, with random labels; the test labels are the true ones. Seed 0. 10 % is chance.",
        "* Training accuracy: of the network as it predicts, without dropout or noise, pruned at threshold 3.",
        "",
        "| data | network | regularisation | epochs | accuracy %: training | test | sparsity % | kept | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
        *lines,
        "",
    ]
    OUT.with_suffix(".md").write_text("\n".join(text))
    OUT.with_suffix(".json").write_text(json.dumps({"machine": facts, "runs": runs}, indent=1))
    print("\n".join(text))


def main() -> None:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--epochs", type=int, default=100, help="on MNIST")
    parser.add_argument("--cifar-epochs", type=int, default=30)
    parser.add_argument("--k", type=float, default=0.25, help="width of vgg-like")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each on one thread")
    parser.add_argument("--data", nargs="+", default=["mnist", "cifar10"], help="these data sets only")
    parser.add_argument("--table", action="store_true", help="only write the table of the finished runs")
    parser.add_argument("--one", nargs=3, metavar=("DATASET", "ARCH", "KIND"), help="one run only")
    options = parser.parse_args()
    if options.one:
        run_one(*options.one, options)
        return
    if not options.table:
        done, environment = load_runs(), {**os.environ, "NUMBA_NUM_THREADS": "1"}
        todo = [case for case in CASES if " ".join(case) not in done and case[0] in options.data]

        def start(case: tuple[str, str, str]) -> None:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", *case]
            subprocess.run(command, check=True, env=environment)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(start, todo))
    write_table()


if __name__ == "__main__":
    main()
