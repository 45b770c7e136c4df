"""Never a NaN: LeNet-300-100 trained for long at three learning rates and two weights of the KL term.

    python campaigns/finite.py                # six cases of 50,000 steps; MNIST, or the digits without it
    python campaigns/finite.py --steps 200    # a trial

Every hundred steps all weights and both moments of Adam are looked at, and the loss of every step. The table
goes to `benchmarks/results/finite.md`, the figures to `finite.json` beside it. A case that is finished there,
with the same number of steps on the same data, is not run again; an interrupted one starts afresh.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tally import RESULTS, machine

import svd_numpy as svd
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.files.atomic import write_atomic
from svd_numpy.network.sparsity import measure_sparsity
from svd_numpy.train.trainer import Trainer

CASES = tuple((lr, kl_weight) for lr in (1e-4, 1e-3, 1e-2) for kl_weight in (1.0, 10.0))
SEED = 0
BATCH_SIZE = 100
CHECK_EVERY = 100


def case_name(lr: float, kl_weight: float) -> str:
    """Name a case as `--cases` takes it."""
    return f"lr={lr:g},kl={kl_weight:g}"


def run_case(data: svd.Dataset, lr: float, kl_weight: float, steps: int) -> dict[str, Any]:
    """Train one case; return what was seen."""
    model = build(data, get_recipe("lenet-300-100", "default"), SEED, "auto")
    epochs = -(-steps * BATCH_SIZE // len(data.x_train)) + 1
    settings = svd.TrainConfig(epochs, BATCH_SIZE, lr, kl_schedule=((0.0, kl_weight),), seed=SEED)
    trainer = Trainer(model, data, settings)
    progress = trainer.progress
    worst, checks, largest_loss, stopped = 0.0, 0, 0.0, ""
    started = time.perf_counter()
    for step in range(1, steps + 1):
        nll, examples = progress.nll_sum, progress.examples
        try:
            trainer.step()
        except ValueError as error:  # the loss of this step is not finite
            stopped = str(error)
            break
        largest_loss = max(largest_loss, (progress.nll_sum - nll) / (progress.examples - examples))
        if step % CHECK_EVERY == 0 or step == steps:
            worst = max(worst, model.arena.share_non_finite())
            checks += 1
    sound = not stopped and worst == 0
    score = svd.evaluate(model, data.x_test, data.y_test) if sound else {"error": None, "nll": None}
    sparsity = measure_sparsity(model)
    return {
        "lr": lr,
        "kl_weight": kl_weight,
        "steps": steps,
        "seed": SEED,
        "dataset": data.name,
        "backend": model.backend.name,
        "checks": checks,
        "non_finite": worst,
        "largest_nll": largest_loss,
        "kl": model.kl() if sound else None,
        "test_error": score["error"],
        "test_nll": score["nll"],
        "sparsity": sparsity.overall,
        "compression": sparsity.compression,
        "stopped": stopped,
        "seconds": time.perf_counter() - started,
    }


def table(results: dict[str, Any]) -> str:
    """Write the report."""
    cases = results["cases"].values()
    first = next(iter(cases))
    bad = sum(bool(case["stopped"]) or case["non_finite"] > 0 for case in cases)
    verdict = "none" if not bad else f"{bad} of {len(cases)} cases, see below"
    lines = [
        "# Never a NaN",
        "",
        f"LeNet-300-100 on {first['dataset']}, batch {BATCH_SIZE}, seed {SEED}, backend {first['backend']};",
        "learning rate and KL weight are constant. Weights and moments are looked at every",
        f"{CHECK_EVERY} steps, the loss at every step.",
        f"Cases with anything that is not finite: **{verdict}**.",
        "",
        "| lr | KL weight | steps | not finite | largest batch NLL | test error % | pruned % | minutes |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in cases:
        error = "-" if case["test_error"] is None else f"{100 * case['test_error']:.2f}"
        lines.append(
            f"| {case['lr']:g} | {case['kl_weight']:g} | {case['steps']:,} | {case['non_finite']:.3g} "
            f"| {case['largest_nll']:.3g} | {error} | {100 * case['sparsity']:.2f} "
            f"| {case['seconds'] / 60:.1f} |"
        )
    stopped = [case for case in cases if case["stopped"]]
    lines += [f"\n{case_name(case['lr'], case['kl_weight'])}: {case['stopped']}" for case in stopped]
    return "\n".join([*lines, "", f"`{results['command']}`, {results['date']}; {results['machine']}", ""])


def finished(path: Path, steps: int, dataset: str) -> dict[str, Any]:
    """Return the cases in an earlier result that need not be run again."""
    if not path.exists():
        return {}
    cases = json.loads(path.read_text())["cases"]
    return {name: case for name, case in cases.items() if (case["steps"], case["dataset"]) == (steps, dataset)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that are not finished yet; return 1 if anything was not finite."""
    names = [case_name(*case) for case in CASES]
    parser = argparse.ArgumentParser(description="Train at extreme settings and look for NaN.")
    parser.add_argument("--steps", type=int, default=50_000, help="per case (default 50,000)")
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="which ones (default all)")
    parser.add_argument("--dataset", default="auto", help="as in svd_numpy.load")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of finite.md and finite.json")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps: got {options.steps}, expected at least 1")
    data = svd.load(options.dataset)
    if data.warning:
        print(f"NOTE: {data.warning}")
    path = options.out / "finite.json"
    done = finished(path, options.steps, data.name)
    for name, case in zip(names, CASES, strict=True):
        if name in done or name not in options.cases:
            continue
        done[name] = run_case(data, *case, options.steps)
        print(f"{name}: not finite {done[name]['non_finite']:g} {done[name]['stopped']}", flush=True)
        results = {
            "command": " ".join(["python campaigns/finite.py", *(sys.argv[1:] if arguments is None else arguments)]),
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "cases": {name: done[name] for name in names if name in done},
        }
        write_atomic(path, json.dumps(results, indent=1).encode())
        write_atomic(options.out / "finite.md", table(results).encode())
    return int(any(case["stopped"] or case["non_finite"] for case in done.values()))


if __name__ == "__main__":
    sys.exit(main())
