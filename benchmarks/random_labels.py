"""Random labels: which networks learn the images by heart, and what Sparse VD does instead.

    python benchmarks/random_labels.py --jobs 2

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from machine import command_line, describe, one_line

from svd_numpy import evaluate
from svd_numpy.data import load
from svd_numpy.experiments.options import Options
from svd_numpy.experiments.recipes import get_recipe, stretch
from svd_numpy.experiments.run import begin, random_labels, run
from svd_numpy.files import checkpoint

NAMES = {"dense": "no regularisation", "dropout": "Bernoulli dropout", "variational": "Sparse VD"}
ROOT = Path("runs/random-labels")
OUT = Path(__file__).parent / "results" / "random-labels"


@dataclass(frozen=True)
class Case:
    """One run: recipe "default", but for the epochs and the learning rate."""

    dataset: str
    arch: str
    width: float
    kind: str
    epochs: int
    lr: float = 1e-3

    @property
    def name(self) -> str:
        """Name of its folder and of its entry in the table's JSON file."""
        return f"{self.dataset}-{self.arch}-width{self.width:g}-{self.kind}"


# At a learning rate of 1e-3 dropout of 1/2 is still at chance after 100 epochs (the wide net after 20, in a trial): its
# noise is louder than what one image says. At 2e-4 a wide net hears it.
_ALL = (
    Case("mnist", "lenet-300-100", 1, "dense", 100),
    Case("mnist", "lenet-300-100", 1, "dropout", 100),
    Case("mnist", "lenet-300-100", 1, "variational", 100),
    Case("mnist", "lenet-300-100", 4, "dropout", 140, 2e-4),
    Case("mnist", "lenet-300-100", 4, "variational", 40),
    Case("cifar10", "vgg-like", 0.125, "dropout", 40),
    Case("cifar10", "vgg-like", 0.125, "variational", 20),
)
CASES = {case.name: case for case in _ALL}


def run_one(case: Case) -> None:
    """Do (or finish) one run, from random weights, and write its figures."""
    run_dir = ROOT / case.name
    resume = checkpoint.latest(run_dir / "checkpoints") is not None
    options = Options(
        dataset=case.dataset, arch=case.arch, width=case.width, kind=case.kind, run_dir=run_dir, resume=resume,
        progress=False, eval_every=0,
    )  # fmt: skip
    plan = get_recipe(case.arch, "default")
    recipe = plan.config if case.kind == "variational" or plan.pretrain is None else plan.pretrain
    config = replace(stretch(recipe, case.epochs), lr=case.lr, shift=0, mirror=False, eval_every=0)
    if case.kind != "variational":
        config = replace(config, finetune_epochs=0)
    data = random_labels(load(case.dataset), 0)
    result = run(begin(options, data), config, options)
    train = evaluate(result.model, data.x_train, data.y_train)
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
    for name in CASES:
        found = ROOT / name / "random-labels.json"
        if found.exists():
            runs.setdefault(name, json.loads(found.read_text()))
    return runs


def write_table() -> None:
    """Write results/random-labels.md and .json."""
    facts, runs, lines = describe(), load_runs(), []
    for name, case in CASES.items():
        if found := runs.get(name):
            width = f", width {case.width:g}" if case.width != 1 else ""
            share = 100 * (1 - found["kept"] / found["weights"]) if found["weights"] else 0
            kept = f"{share:.4f} | {found['kept']:,} of {found['weights']:,}" if found["weights"] else "0 | all"
            accuracy = f"{100 * found['train_accuracy']:.1f} | {100 * (1 - found['test_error']):.1f}"
            lines.append(
                f"| {case.dataset} | {case.arch}{width} | {NAMES[case.kind]} | {found['epochs']} | {case.lr:g} "
                f"| {accuracy} | {kept} | {found['seconds']:.0f} |"
            )
    text = [
        "# Random labels: by heart, or not at all",
        "",
        f"* Machine: {one_line(facts)}",
        f"* Command: {command_line()}",
        "* All training images, with random labels; the test labels are the true ones. Seed 0. 10 % is chance.",
        "* Training accuracy: of the network as it predicts, without dropout or noise, pruned at threshold 3.",
        "* Finished runs are kept: seconds are those of the day each was made, on a shared machine.",
        "",
        "| data | network | regularisation | epochs | lr | accuracy %: training | test | sparsity % | kept | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
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
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each on one thread")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--table", action="store_true", help="only write the table of the finished runs")
    parser.add_argument("--one", choices=list(CASES), metavar="CASE", help="one run only, without the table")
    options = parser.parse_args()
    if options.one:
        run_one(CASES[options.one])
        return
    if not options.table:
        done, environment = load_runs(), {**os.environ, "NUMBA_NUM_THREADS": "1"}

        def start(name: str) -> None:
            subprocess.run([sys.executable, __file__, "--one", name], check=True, env=environment)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(start, (name for name in options.cases if name not in done)))
    write_table()


if __name__ == "__main__":
    main()
