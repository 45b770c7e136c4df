"""The results table: every recipe over several seeds, the paper's row, and a dense network trained as long.

    python benchmarks/results.py --seeds 5 --jobs 2

Each run is a folder of its own under `runs/results`; finished runs are read back, interrupted ones go on
where they stopped. The test set is measured once, after the last epoch. `--table` only writes the table of
what is finished.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from machine import describe, one_line

from svd_numpy import checkpoint
from svd_numpy.experiments.mnist import train_mnist
from svd_numpy.experiments.recipes import PUBLISHED

ARCH = "lenet-300-100"
CASES = (
    ("mnist", "paper"),
    ("mnist", "default"),
    ("mnist", "dense"),
    ("fashion-mnist", "default"),
    ("fashion-mnist", "dense"),
)
ROOT = Path("runs/results")
OUT = Path(__file__).parent / "results"


def run_one(dataset: str, recipe: str, seed: int) -> None:
    """Do (or finish, or only recognise) one run."""
    run_dir = ROOT / f"{dataset}-{recipe}-seed{seed}"
    if (run_dir / "result.json").exists():
        return
    started = run_dir.exists() and checkpoint.latest(run_dir / "checkpoints") is not None
    dense = recipe == "dense"  # as long and with the same learning rates as "default", without its fine-tuning
    train_mnist(
        ARCH,
        "default" if dense else recipe,
        kind="dense" if dense else "variational",
        seed=seed,
        dataset=dataset,
        run_dir=run_dir,
        resume=started,
        progress=False,
        eval_every=0,
    )


def run_all(seeds: int, jobs: int, threads: int) -> None:
    """Run every case and seed, each in a process of its own."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}

    def start(case: tuple[str, str, int]) -> None:
        command = [sys.executable, __file__, "--one", *map(str, case)]
        subprocess.run(command, check=True, env=environment)
        print("done:", *case, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, [(*case, seed) for case in CASES for seed in range(seeds)]))


def mean_sd(values: list[float], digits: int) -> str:
    """Mean and, of several, sample standard deviation, as text."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def row(dataset: str, recipe: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table."""
    sparsity = [[100 * share for share in run["layer_sparsity"].values()] for run in runs]
    layers = " - ".join(f"{statistics.mean(layer):.1f}" for layer in zip(*sparsity, strict=True)) or "0"
    cells = [
        dataset,
        recipe,
        str(len(runs)),
        mean_sd([100 * run["test_error"] for run in runs], 2),
        mean_sd([run["test_nll"] for run in runs], 3),
        layers,
        mean_sd([run["compression"] for run in runs], 1) if recipe != "dense" else "1",
        f"{min(run['seconds'] for run in runs):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def write_table(threads: int, jobs: int) -> None:
    """Write results/lenet-300-100.md and .json from the finished runs."""
    facts, kept, lines = describe(), {}, []
    for dataset, recipe in CASES:
        folders = sorted(ROOT.glob(f"{dataset}-{recipe}-seed*/result.json"))
        runs = [json.loads(path.read_text()) for path in folders]
        if runs:
            kept[f"{dataset} {recipe}"] = runs
            lines.append(row(dataset, recipe, runs))
        if (dataset, recipe) == CASES[0]:
            paper = PUBLISHED[ARCH]
            shares = " - ".join(f"{100 * share:.1f}" for share in paper.layer_sparsity)
            cells = f"{100 * paper.error:.2f} | | {shares} | {paper.compression:.0f} | |"
            lines.append(f"| mnist | *published: {paper.source}* | | {cells}")
    text = [
        "# LeNet-300-100: error and sparsity",
        "",
        f"* Machine: {one_line(facts)}",
        f"* Command: `python benchmarks/results.py --seeds 5 --jobs {jobs} --threads {threads}`, "
        f"{datetime.date.today().isoformat()}",
        "* All 60,000 training and 10,000 test images; the test set was measured once, after the last epoch.",
        "* Recipes: `svd_numpy/experiments/recipes.py`. Threshold 3. Mean ± standard deviation over the seeds.",
        "* Compression: all weights / weights kept, without biases or index bytes. NLL in nats per image.",
        f"* Seconds: training on {threads} thread(s), {jobs} run(s) side by side.",
        "",
        "| data | recipe | seeds | test error % | test NLL | sparsity per layer % | compression | seconds, fastest |",
        "|---|---|---|---|---|---|---|---|",
        *lines,
        "",
    ]
    OUT.mkdir(exist_ok=True)
    (OUT / "lenet-300-100.md").write_text("\n".join(text))
    (OUT / "lenet-300-100.json").write_text(json.dumps({"machine": facts, "runs": kept}, indent=1))
    print("\n".join(text))


def main() -> None:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--table", action="store_true", help="only write the table of the finished runs")
    parser.add_argument("--one", nargs=3, metavar=("DATASET", "RECIPE", "SEED"), help="one run only")
    options = parser.parse_args()
    if options.one:
        run_one(options.one[0], options.one[1], int(options.one[2]))
        return
    if not options.table:
        run_all(options.seeds, options.jobs, options.threads)
    write_table(options.threads, options.jobs)


if __name__ == "__main__":
    main()
