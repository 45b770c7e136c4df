"""The whole job, not the step: seconds until an error and a compression are reached, beside ``torch.compile``.

    python benchmarks/whole_job.py --arch lenet-300-100 --threads 2
    python benchmarks/whole_job.py --arch lenet-5 --threads 2 --torch-epochs 2

Both sides follow the recipe "default", one after the other, each in a process of its own with as many threads. What
PyTorch cannot do is left out there: it zeroes removed weights where this package removes them. `--torch-epochs` stops
PyTorch early; the rest of its time is then that of its last epochs, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import command_line, describe, one_line

from svd_numpy.data import load
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.files.atomic import write_atomic

OUT = Path(__file__).parent / "results"
TARGETS = {  # test error and compression; the last is what the recipe ends with, within a standard deviation
    "lenet-300-100": ((0.0192, 40.0), (0.0192, 68.0), (0.0150, 100.0)),
    "lenet-5": ((0.0100, 100.0), (0.0080, 200.0), (0.0075, 260.0)),
}
Records = list[dict[str, Any]]


def run_ours(arch: str, seed: int, keep: Path | None) -> Records:
    """The recipe in this package, evaluated after each epoch; evaluations are in the seconds."""
    from svd_numpy.experiments.mnist import train_mnist

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run" if keep is None else keep
        result = train_mnist(arch=arch, seed=seed, eval_every=1, run_dir=folder, progress=False)
        return [
            {"epoch": r["epoch"], "seconds": r["seconds"], "error": r["test_error"], "compression": r["compression"]}
            for r in result.history
        ]


def run_torch(arch: str, seed: int, threads: int, epochs: int) -> Records:
    """The recipe in PyTorch."""
    from dataclasses import replace

    from torch_job import train

    records: Records = []
    for record in train(arch, load("mnist"), replace(get_recipe(arch, "default").config, seed=seed), threads, epochs):
        records.append(record)
        print(record, file=sys.stderr, flush=True)
    return records


def in_child(side: str, options: argparse.Namespace) -> Records:
    """Run one side in a process of its own, with its own number of threads."""
    threads = str(options.threads)
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    command = [sys.executable, __file__, "--side", side, "--arch", options.arch, "--threads", threads,
               "--seed", str(options.seed), "--torch-epochs", str(options.torch_epochs),
               *([] if options.keep is None else ["--keep", str(options.keep)])]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, **dict.fromkeys(names, threads)}, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{side} ended with {done.returncode}")
    records: Records = json.loads(done.stdout.splitlines()[-1])
    return records


def reached(records: Records, error: float, compression: float, total: int) -> str:
    """Seconds until both were reached, or how far the records go."""
    for record in records:
        if record["error"] <= error and record["compression"] >= compression:
            return f"{record['seconds']:.0f}"
    return "never" if len(records) == total else f"not in the first {len(records)} epochs"


def whole(records: Records, total: int) -> tuple[str, str]:
    """Seconds of the whole recipe, and how they were had."""
    if len(records) == total:
        return f"{records[-1]['seconds']:.0f}", "measured"
    per_epoch = (records[-1]["seconds"] - records[0]["seconds"]) / (len(records) - 1)
    return f"{records[-1]['seconds'] + per_epoch * (total - len(records)):.0f}", f"from {len(records)} epochs"


def table(facts: dict[str, Any], sides: dict[str, Records]) -> str:
    """The page."""
    config = get_recipe(facts["arch"], "default").config
    total, targets = config.epochs + config.finetune_epochs, TARGETS[facts["arch"]]
    head = ["", "whole recipe, s", "error %", "compression", *(f"{100 * e:.2f} % at {c:g}x, s" for e, c in targets)]
    lines = [
        f"# The whole job: {facts['arch']}, recipe `default`, MNIST",
        "",
        f"* Machine: {one_line(facts['machine'])}; torch {facts['torch']}",
        f"* Command: {facts['command']}",
        f"* {facts['threads']} thread(s), seed {facts['seed']}, one side after the other on an otherwise idle machine. "
        "Seconds hold compiling; this package's hold its evaluations as well.",
        "* Before the fine-tuning, error and compression are those of the network cut at log alpha 3.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for side, records in sides.items():
        seconds, how = whole(records, total)
        last = records[-1] if len(records) == total else None
        cells = [
            side,
            f"{seconds} ({how})",
            *((f"{100 * last['error']:.2f}", f"{last['compression']:.1f}") if last else ("-", "-")),
        ]
        lines.append(f"| {' | '.join([*cells, *(reached(records, e, c, total) for e, c in targets)])} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Run both sides and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=list(TARGETS), default="lenet-300-100")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--torch-epochs", type=int, default=1000, help="PyTorch stops after so many epochs")
    parser.add_argument("--keep", type=Path, help="where to keep this package's run")
    parser.add_argument("--side", choices=("ours", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        records = run_ours(options.arch, options.seed, options.keep) if options.side == "ours" else run_torch(
            options.arch, options.seed, options.threads, options.torch_epochs
        )  # fmt: skip
        print(json.dumps(records))
        return
    sides = {"svd_numpy": in_child("ours", options), "torch.compile": in_child("torch", options)}
    import torch

    facts = {"arch": options.arch, "threads": options.threads, "seed": options.seed, "machine": describe(),
             "torch": torch.__version__, "command": command_line()}  # fmt: skip
    path = OUT / f"whole-job-{options.arch}.json"
    write_atomic(path, json.dumps({**facts, "sides": sides}).encode())
    write_atomic(path.with_suffix(".md"), table(facts, sides).encode())


if __name__ == "__main__":
    main()
