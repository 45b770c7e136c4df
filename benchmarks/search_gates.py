"""Numbers of the methods with gates, chosen on held-out images: the weight of the KL, and removal while training.

    python benchmarks/search_gates.py --jobs 2
    python benchmarks/search_gates.py --methods bc-gnj bc-ghs --kl-weights 2 4 --remove 5
    python benchmarks/search_gates.py --arch lenet-5 --methods bc-gnj sbp --seeds 0 1 2

Each method is trained with its recipe on 55,000 images of MNIST and measured on the 5,000 held out; the test images
take no part. With removal, weights past that log alpha, and all that closed units feed or read, leave for good at the
end of every epoch from the recipe's `remove_from` on, or from `--remove-from`. Runs are kept in `--folder`, so the
same command goes on where it was stopped. Candidates are added to the table `results/search-gates-ARCH.md`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from machine import added, command_line, head

from svd_numpy import Gate, Sequential
from svd_numpy.experiments.methods import METHODS, get_method
from svd_numpy.experiments.recipes import Recipe, get_recipe
from svd_numpy.experiments.series import mean_sd
from svd_numpy.experiments.sweep.doing import do_all
from svd_numpy.experiments.sweep.task import Task
from svd_numpy.files.atomic import write_atomic
from svd_numpy.sparse.storage.accounts import by_layers, layer_sizes

OUT = Path(__file__).parent / "results"
_HELD_OUT = 5000 / 60_000
_EARLIER = {  # how rows that are older than the recipes of today are marked
    "for each example": "factors drawn anew for every example, as before 2026-11-29; since then, once for a batch",
    "briefly fine-tuned": "10 epochs at a learning rate of 1e-4, as before 2026-11-29; since then, 20 at 1e-3",
}
_HEAD = (
    "candidate",
    "closed above",
    "seeds",
    "error %",
    "NLL",
    "non-zeros",
    "sub-matrices",
    "live units",
    "seconds",
    "ms, last step",
)


def candidate(plan: Recipe, method: str, kl_weight: float, above: float, first: int | None) -> str:
    """Name of a candidate: the method, and its numbers where they are not those of the paper or the family."""
    closed = plan.gates.options.get("threshold") if plan.gates else None
    words = [
        method,
        "" if kl_weight == 1 else f"kl{kl_weight:g}",
        "" if closed is None else f"above{closed:g}",
        "" if math.isinf(above) else f"remove{above:g}",
        "" if math.isinf(above) or first is None else f"from{first}",
    ]
    return "-".join(word for word in words if word)


def tasks_of(options: argparse.Namespace, shared: dict[str, Any]) -> dict[str, list[Task]]:
    """The runs of every candidate, by its name."""
    tasks = {}
    for method, kl_weight, above in product(options.methods, options.kl_weights, options.remove):
        plan = get_method(method).adapt(get_recipe(options.arch, "default"))
        name = candidate(plan, method, kl_weight, above, options.remove_from)
        point = {
            "method": method, "kl_weight": kl_weight / plan.config.kl_schedule[-1][1], "remove_above": above,
        }  # fmt: skip
        if options.remove_from is not None:
            point["remove_from"] = options.remove_from
        tasks[name] = [
            Task("mnist", str(options.folder / f"{options.arch}-{name}-seed{seed}"), {**point, "seed": seed}, shared)
            for seed in options.seeds
        ]
    return tasks


def measure(task: Task) -> dict[str, Any]:
    """The figures of a finished run."""
    folder = Path(task.folder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last, trained = records[-1], [record for record in records if record["stage"] == "variational"][-1]
    model = Sequential.load(folder / "model.safetensors", "numpy")
    layers = layer_sizes(model)
    blocks = by_layers([replace(layer, bits=32) for layer in layers])["few bits, live sub-matrices"].ratio
    return {
        "seed": task.point["seed"], "error": last["valid_error"], "nll": last["valid_nll"],
        "nonzeros": last["compression"], "blocks": blocks,
        "live": [layer.units for layer in layers],
        "closed_above": next(layer.threshold for layer in model.layers if isinstance(layer, Gate)),
        "seconds": last["seconds"], "ms": trained["ms_per_step"],
    }  # fmt: skip


def table(arch: str, commands: list[str], found: dict[str, list[dict[str, Any]]]) -> str:
    """The page: a line for each candidate, mean and standard deviation over its seeds."""
    lines = [
        *head(f"Methods with gates, on held-out images: {arch}", commands),
        "* 55,000 training images; error and NLL of the 5,000 held out (standard error about 0.2 points)",
        "* closed above: score of a gate past which its unit is closed",
        "* non-zeros, sub-matrices: all weights / weights left, and / those of dense matrices of live units",
        "* klW: the KL times W, whatever the recipe has; removeB: removal past log alpha B, from the epoch below on",
        "* fromE: removal from epoch E on",
        *(f"* {mark}: {meaning}" for mark, meaning in _EARLIER.items() if any(mark in name for name in found)),
        "* seconds: of a busy machine; last step: of the last epoch before the fine-tuning",
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---" * len(_HEAD) + "|",
    ]
    for name, runs in found.items():
        live = "-".join(f"{sum(units) / len(units):.0f}" for units in zip(*(run["live"] for run in runs), strict=True))
        cells = [
            name, f"{runs[0]['closed_above']:g}", str(len(runs)), mean_sd([100 * run["error"] for run in runs], 2),
            mean_sd([run["nll"] for run in runs], 4), mean_sd([run["nonzeros"] for run in runs], 1),
            mean_sd([run["blocks"] for run in runs], 1), live, mean_sd([run["seconds"] for run in runs], 0),
            mean_sd([run["ms"] for run in runs], 2),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    firsts = {name: get_method(name).adapt(get_recipe(arch, "default")).config.remove_from for name in METHODS}
    removed = [name for name in found if "-remove" in name and "-from" not in name]
    used = ", ".join(f"{name} {first}" for name, first in firsts.items() if any(f"{name}-" in one for one in removed))
    return "\n".join([*lines, "", *([f"Removal from epoch: {used}.", ""] if used else [])])


def main(words: Sequence[str] | None = None) -> None:
    """Do the runs that are missing, then write the table of all that have finished."""
    gated = [name for name, method in METHODS.items() if method.gated]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=("lenet-300-100", "lenet-500-300", "lenet-5"), default="lenet-300-100")
    parser.add_argument("--methods", nargs="+", choices=gated, default=gated)
    parser.add_argument("--kl-weights", nargs="+", type=float, default=[1.0])
    parser.add_argument("--remove", nargs="+", type=float, default=[math.inf, 5.0], help="log alpha; inf: none")
    parser.add_argument("--remove-from", type=int, help="epoch; that of the recipe if not given")
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
    candidates = tasks_of(options, shared)
    failed = do_all([task for tasks in candidates.values() for task in tasks], options.jobs, None, progress=True)
    path = OUT / f"search-gates-{options.arch}.json"
    finished = {name: [measure(task) for task in tasks if task.finished] for name, tasks in candidates.items()}
    measured = {name: runs for name, runs in finished.items() if runs}
    commands, found = added(path, "candidates", measured, command_line())
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps({"commands": commands, "candidates": found}, indent=1).encode())
    write_atomic(path.with_suffix(".md"), table(options.arch, commands, found).encode())
    if failed:
        raise SystemExit("\n".join(f"{folder}: {said}" for folder, said in failed.items()))


if __name__ == "__main__":
    main()
