"""What removal while training changes: error, NLL, compression and time, with and without it, at several bounds.

    python benchmarks/removal.py --seeds 3 --jobs 2 --threads 1
    python benchmarks/removal.py --arch lenet-5 --seeds 1 --variants off 5

Each row is the recipe "default" of the architecture, trained on 55,000 images and measured on the 5,000 held out; the
test images take no part. "Removed survivors" are weights that live at the end of the run without removal, and that the
run with removal has removed. Finished runs are kept in `results/removal-ARCH.json` and not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, describe, one_line

from svd_numpy.data import load
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.series import mean_sd
from svd_numpy.files.atomic import write_atomic
from svd_numpy.plots import living_weights
from svd_numpy.train.loop import fit

OUT = Path(__file__).parent / "results"
VARIANTS: dict[str, tuple[float | None, int]] = {  # log alpha above which weights are removed, and from which epoch
    "off": (None, 0), "3": (3.0, 3), "3 from 20": (3.0, 20), "5": (5.0, 3),
    "5 from 10": (5.0, 10), "8": (8.0, 3),
}  # fmt: skip
DRAWN = ("5", 0)  # variant and seed of the run that is drawn
_COLUMNS = ("removed above", "seed", "error %", "NLL", "compression", "removed survivors", "seconds", "ms, last step")
_SUMMARY = ("removed above", "seeds", "error %", "NLL", "compression", "removed survivors %", "seconds")


def run(arch: str, variant: str, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train once; return the row, with the mask of what is left, and the records."""
    above, first = VARIANTS[variant]
    plan = get_recipe(arch, "default")
    config = replace(plan.config, seed=seed, remove_above=above, remove_from=first)
    data = load("mnist").split(5000, seed=0)
    model = build(data, plan, seed, "auto")
    history = fit(model, data, config)
    last, variational = history[-1], history[config.epochs - 1]
    left = np.concatenate([alive.ravel() for alive in model.alive(config.finetune_threshold).values()])
    row = {
        "variant": variant, "seed": seed, "error": last["valid_error"], "nll": last["valid_nll"],
        "compression": last["compression"], "seconds": last["seconds"], "ms": variational["ms_per_step"],
        "left": np.flatnonzero(left & np.concatenate([m.ravel() for m in masks(model)])).tolist(),
    }  # fmt: skip
    return row, history


def masks(model: Any) -> list[Any]:
    """Which weights have not been removed, by layer."""
    return [model.arena.mask_views[f"{layer.name}.theta"].astype(bool) for layer in model.variational_layers]


def table(arch: str, rows: Sequence[dict[str, Any]], threads: int, jobs: int) -> str:
    """The page: means over the seeds, then one line for each run."""
    order = list(VARIANTS)
    rows = sorted(rows, key=lambda row: (order.index(row["variant"]), row["seed"]))
    lines = [
        f"# Removal while training: {arch}, recipe `default`",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}",
        "* 55,000 training images; error and NLL of the 5,000 held out (standard error about 0.2 points). Mean ±",
        "  standard deviation over the seeds",
        f"* Seconds: {threads} thread(s), {jobs} run(s) side by side; the mean",
        "* removed survivors: of the weights left at the end of the run without removal, those that this run lacks.",
        "  From the first removal on, the two runs draw other noise: most of these are another choice among equals",
        "",
        *_head(_SUMMARY),
    ]
    kept = {row["seed"]: set(row["left"]) for row in rows if row["variant"] == "off"}
    for variant in order:
        runs = [row for row in rows if row["variant"] == variant]
        if not runs:
            continue
        lost = [100 * _lost(row, kept) / len(kept[row["seed"]]) for row in runs if row["seed"] in kept]
        cells = (
            variant,
            str(len(runs)),
            mean_sd([100 * row["error"] for row in runs], 2),
            mean_sd([row["nll"] for row in runs], 4),
            mean_sd([row["compression"] for row in runs], 1),
            "-" if variant == "off" or not lost else mean_sd(lost, 0),  # what it is compared with may not be done
            f"{np.mean([row['seconds'] for row in runs]):.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    if any((row["variant"], row["seed"]) == DRAWN for row in rows):
        lines += ["", f"![Living weights and milliseconds per step, {DRAWN[0]}](removal-{arch}.png)"]
    lines += ["", "## Every run", "", *_head(_COLUMNS)]
    for row in rows:
        known = row["variant"] != "off" and row["seed"] in kept
        survivors = f"{_lost(row, kept)} of {len(kept[row['seed']])}" if known else "-"
        lines.append(
            f"| {row['variant']} | {row['seed']} | {100 * row['error']:.2f} | {row['nll']:.4f} "
            f"| {row['compression']:.1f} | {survivors} | {row['seconds']:.0f} | {row['ms']:.2f} |"
        )
    return "\n".join([*lines, ""])


def _head(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _lost(row: dict[str, Any], kept: dict[int, set[int]]) -> int:
    """How many of the weights left without removal this run lacks."""
    return len(kept[row["seed"]] - set(row["left"]))


def main() -> None:
    """Run what is missing, and write the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=("lenet-300-100", "lenet-5"), default="lenet-300-100")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ...")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=2, help="of each run")
    options = parser.parse_args()
    os.environ["NUMBA_NUM_THREADS"] = str(options.threads)  # read by the processes that are started below
    path = OUT / f"removal-{options.arch}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    done = {(row["variant"], row["seed"]) for row in rows}
    todo = [(v, s) for s in range(options.seeds) for v in options.variants if (v, s) not in done]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for future in as_completed([pool.submit(run, options.arch, *task) for task in todo]):
            row, history = future.result()
            rows.append(row)
            write_atomic(path, json.dumps(rows).encode())
            write_atomic(path.with_suffix(".md"), table(options.arch, rows, options.threads, options.jobs).encode())
            if (row["variant"], row["seed"]) == DRAWN:
                living_weights(history, title=f"{options.arch}, recipe default").savefig(
                    OUT / f"removal-{options.arch}.png"
                )


if __name__ == "__main__":
    main()
