"""Milliseconds per training step against the share of weights that live, beside PyTorch and SciPy.

A network is trained for some epochs, once; then all but a share of its weights are removed, and steps are timed, all
candidates in turn. ``python benchmarks/living.py --help``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import isa
import numpy as np
from harness import HERE, Candidate, Timing, time_candidates
from living_steps import SHARES, trained_model
from machine import one_line
from ours import untrained_model
from step import facts_of, paired_ratio, write
from workload import TASKS, load_workload

from svd_numpy.data import load
from svd_numpy.experiments.run_files import load_log_alphas, need
from svd_numpy.files.npz import write_npz
from svd_numpy.network.living import LivingCopy, count_living
from svd_numpy.network.living import forms as forms_of
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.loop import fit

EPOCHS = {"lenet-300-100": 30, "lenet-5": 12, "vgg-like": 1, "vgg-like-quarter": 4}
OURS_WHOLE, SPARSE_VD = "svd_numpy, nothing removed", ("torch Sparse VD eager", "torch Sparse VD compile")
DENSE, MASKS = "torch dense", "torch dense with masks"
COLUMNS = ("living %", "weights", "on lists", "ms", "nothing removed / this", "torch Sparse VD / this",
           "torch dense / this", "torch masks / this", "SciPy CSR / this")  # fmt: skip


def peers(arch: str) -> list[Candidate]:
    """Candidates whose time does not depend on the share."""
    plain = arch == "lenet-300-100"
    module, floats = ("torch_peers", False) if plain else ("torch_conv_peers", True)
    compiled = "torch_peers" if plain else "torch_conv_compiled"
    return [
        Candidate(OURS_WHOLE, "ours", "build_ours"),
        Candidate(SPARSE_VD[0], module, "build_eager", floats=floats),
        Candidate(SPARSE_VD[1], compiled, "build_compiled", floats=floats),
        Candidate(DENSE, module, "build_dense", floats=floats),
        Candidate(MASKS, "torch_masks", "build_masked", floats=floats),
    ]


def train(arch: str, epochs: int, path: Path) -> None:
    """Train the network whose masks are used, unless its file is there."""
    if path.exists():
        return
    workload = load_workload(arch, False)
    model = untrained_model(workload)
    config = TrainConfig(epochs=epochs, batch_size=100, kl_schedule=((epochs / 8, 0.0), (epochs / 2, 1.0)))
    fit(model, load(TASKS[arch].dataset), config)
    write_npz(path, model.arrays())


def from_run(arch: str, run: Path, path: Path) -> None:
    """Take the log alphas from the end of a run in the place of a training: those of its last variational epoch."""
    log_alphas, _ = load_log_alphas(need(run / "log_alpha.npz"))
    model = untrained_model(load_workload(arch, False))
    for name, values in log_alphas.items():
        theta, log_sigma2 = (model.parameters[f"{name}.{part}"] for part in ("theta", "log_sigma2"))
        log_sigma2[:] = -6.0
        theta[:] = np.sign(theta) * np.exp(0.5 * (log_sigma2 - values.reshape(theta.shape)))
    write_npz(path, model.arrays())


def rows_of(arch: str, batch: int, threads: int, timings: dict[str, Timing], shares: Sequence[float]) -> list[Any]:
    """One row for each share, with its ratios to the others."""
    workload = load_workload(arch, False)
    timed = {name: timing for name, timing in timings.items() if timing.blocks_ms}
    best = min((timed[n] for n in SPARSE_VD if n in timed), key=lambda timing: timing.median_ms, default=None)
    rows = []
    for share in shares:
        this = timed[f"living {share:g}"]
        model = trained_model(workload, share)
        forms = forms_of(LivingCopy(model).model)
        ratios = {
            "whole": timed.get(OURS_WHOLE), "sparse_vd": best, "dense": timed.get(DENSE), "masks": timed.get(MASKS),
            "scipy": timed.get(f"scipy {share:g}"),
        }  # fmt: skip
        rows.append(
            {
                "arch": arch, "batch": batch, "threads": threads, "share": share, "living": count_living(model),
                "lists": sum(form == "lists" for form in forms.values()), "layers": len(forms),
                "ms": this.median_ms, "data": this.data,
                **{name: paired_ratio(other, this) for name, other in ratios.items()},
            }
        )  # fmt: skip
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    ratios = [row[name] for name in ("whole", "sparse_vd", "dense", "masks", "scipy")]
    cells = [f"{100 * row['share']:g}", f"{row['living']:,}", f"{row['lists']} of {row['layers']}", f"{row['ms']:.3f}"]
    return f"| {' | '.join([*cells, *('-' if r is None else f'{r:.2f}' for r in ratios)])} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all shares; write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=list(TASKS), default="lenet-300-100")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, help="examples in a step (the first of the network's batches)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shares", type=float, nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--epochs", type=int, help="epochs of the training whose masks are used")
    parser.add_argument("--run", type=Path, help="folder of a finished run, whose masks are used in the place of that")
    isa.add_option(parser)
    options = parser.parse_args(arguments)
    isa.hold(options.isa)
    arch, batch = options.arch, options.batch or TASKS[options.arch].batches[0]
    state = HERE.parent / "runs" / f"living-{arch}.npz"
    os.environ["LIVING_STATE"] = str(state)
    if options.run is None:
        train(arch, options.epochs or EPOCHS[arch], state)
        masks = f"a training of {options.epochs or EPOCHS[arch]} epochs"
    else:
        from_run(arch, options.run, state)
        masks = "a run of the recipe `default`"
    candidates = peers(arch) + [
        Candidate(f"living {s:g}", "living_steps", f"build_living_{s:g}") for s in options.shares
    ]
    if arch == "lenet-300-100":
        candidates += [Candidate(f"scipy {s:g}", "living_steps", f"build_scipy_{s:g}") for s in options.shares if s < 1]
    rows, raw, text = list[Any](), list[Any](), list[str]()
    for threads in options.threads:
        with tempfile.TemporaryDirectory() as scratch:
            found = time_candidates(candidates, arch, batch, threads, options.rounds, scratch)
        timings = {timing.name: timing for timing in found}
        new = rows_of(arch, batch, threads, timings, options.shares)
        rows, raw = rows + new, raw + [{"threads": threads, **asdict(timing)} for timing in found]
        alone = [f"{t.name} {t.median_ms:.3f}" if t.blocks_ms else f"{t.name}: {t.unavailable}" for t in found[:5]]
        text += [
            f"## {threads} thread{'s' * (threads > 1)}, batch {batch}",
            "",
            f"Milliseconds: {'; '.join(alone)}.",
            "",
        ]
        text += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *map(line, new), ""]
        print("\n".join(text[-len(new) - 7 :]), flush=True)
    facts = facts_of("living.py", arguments, rows, options)
    head = [
        f"# Milliseconds per training step by living weights, {TASKS[arch].title}", "",
        f"* Machine: {one_line(facts['machine'])}", f"* Command: `{facts['command']}`, {facts['date']}",
        *isa.lines(), f"* Data: {facts['data']}",
        f"* Masks: {masks}; the weights with the lowest log alpha live",
        f"* Method: {facts['rounds']} blocks of {facts['block_seconds']} s each, candidates in turn; ratios are "
        "medians over the rounds, above 1 means that the living step is the faster. torch Sparse VD: the better of "
        "eager and compiled.", "",
    ]  # fmt: skip
    write(HERE / "results", f"living-{arch}{isa.suffix()}", "\n".join([*head, *text]), [*rows, *raw], facts)


if __name__ == "__main__":
    main(sys.argv[1:])
