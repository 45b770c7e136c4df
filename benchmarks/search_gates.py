"""Removal while training, for the methods with gates: one candidate with it and one without, on held-out images.

    python benchmarks/search_gates.py --jobs 2
    python benchmarks/search_gates.py --arch lenet-5 --methods bc-gnj sbp --seeds 0 1 2

Each method is trained with its recipe on 55,000 images of MNIST and measured on the 5,000 held out; the test images
take no part. With removal, weights past log alpha 5, and all that closed units feed or read, leave for good at the end
of every epoch from the recipe's `remove_from` on. Runs are kept in `--folder`, so the same command goes on where it was
stopped; the table is `results/search-gates-ARCH.md`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import command_line, describe, one_line

from svd_numpy import Sequential
from svd_numpy.experiments.methods import METHODS, get_method
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.series import mean_sd
from svd_numpy.experiments.sweep.doing import do_all
from svd_numpy.experiments.sweep.task import Task
from svd_numpy.files.atomic import write_atomic
from svd_numpy.sparse.storage.accounts import by_layers, layer_sizes

OUT = Path(__file__).parent / "results"
REMOVE = {"": math.inf, "-remove5": 5.0}  # end of a candidate's name -> remove_above
_HELD_OUT = 5000 / 60_000
_HEAD = ("candidate", "seeds", "error %", "NLL", "non-zeros", "sub-matrices", "live units", "seconds", "ms, last step")


def tasks_of(
    methods: Sequence[str], seeds: Sequence[int], folder: Path, shared: dict[str, Any]
) -> dict[str, list[Task]]:
    """The runs of every candidate, by its name."""
    return {
        f"{method}{end}": [
            Task(
                "mnist", str(folder / f"{shared['arch']}-{method}{end}-seed{seed}"),
                {"method": method, "remove_above": above, "seed": seed}, shared,
            )
            for seed in seeds
        ]
        for method in methods for end, above in REMOVE.items()
    }  # fmt: skip


def measure(task: Task) -> dict[str, Any]:
    """The figures of a finished run."""
    folder = Path(task.folder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last, trained = records[-1], [record for record in records if record["stage"] == "variational"][-1]
    layers = layer_sizes(Sequential.load(folder / "model.safetensors", "numpy"))
    blocks = by_layers([replace(layer, bits=32) for layer in layers])["few bits, live sub-matrices"].ratio
    return {
        "seed": task.point["seed"], "error": last["valid_error"], "nll": last["valid_nll"],
        "nonzeros": last["compression"], "blocks": blocks,
        "live": [layer.units for layer in layers],
        "seconds": last["seconds"], "ms": trained["ms_per_step"],
    }  # fmt: skip


def table(arch: str, found: dict[str, list[dict[str, Any]]], jobs: int) -> str:
    """The page: a line for each candidate, mean and standard deviation over its seeds."""
    lines = [
        f"# Removal while training, methods with gates: {arch}",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}",
        "* 55,000 training images; error and NLL of the 5,000 held out (standard error about 0.2 points)",
        "* non-zeros, sub-matrices: all weights / weights left, and / those of dense matrices of live units",
        f"* seconds: {jobs} run(s) side by side; last step: of the last epoch before the fine-tuning",
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---" * len(_HEAD) + "|",
    ]
    for name, runs in found.items():
        live = "-".join(f"{sum(units) / len(units):.0f}" for units in zip(*(run["live"] for run in runs), strict=True))
        cells = [
            name, str(len(runs)), mean_sd([100 * run["error"] for run in runs], 2),
            mean_sd([run["nll"] for run in runs], 4), mean_sd([run["nonzeros"] for run in runs], 1),
            mean_sd([run["blocks"] for run in runs], 1), live, mean_sd([run["seconds"] for run in runs], 0),
            mean_sd([run["ms"] for run in runs], 2),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    firsts = {name: get_method(name).adapt(get_recipe(arch, "default")).config.remove_from for name in METHODS}
    used = ", ".join(f"{name} {first}" for name, first in firsts.items() if f"{name}-remove5" in found)
    return "\n".join([*lines, "", f"Removal from epoch: {used}.", ""])


def main(words: Sequence[str] | None = None) -> None:
    """Do the runs that are missing, then write the table of all that have finished."""
    gated = [name for name, method in METHODS.items() if method.gated]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=("lenet-300-100", "lenet-500-300", "lenet-5"), default="lenet-300-100")
    parser.add_argument("--methods", nargs="+", choices=gated, default=gated)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--folder", type=Path, default=Path("runs/search-gates"))
    parser.add_argument("--dataset", default="mnist", help="another one is for trials")
    parser.add_argument("--epochs", type=int, help="fewer are for trials")
    options = parser.parse_args(words)
    shared = {
        "dataset": options.dataset,
        "arch": options.arch,
        "epochs": options.epochs,
        "held_out": _HELD_OUT,
        "eval_every": 10,
    }
    candidates = tasks_of(options.methods, options.seeds, options.folder, shared)
    failed = do_all([task for tasks in candidates.values() for task in tasks], options.jobs, None, progress=True)
    finished = {name: [measure(task) for task in tasks if task.finished] for name, tasks in candidates.items()}
    found = {name: runs for name, runs in finished.items() if runs}
    path = OUT / f"search-gates-{options.arch}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(found, indent=1).encode())
    write_atomic(path.with_suffix(".md"), table(options.arch, found, options.jobs).encode())
    if failed:
        raise SystemExit("\n".join(f"{folder}: {said}" for folder, said in failed.items()))


if __name__ == "__main__":
    main()
