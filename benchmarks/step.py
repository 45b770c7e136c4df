"""Milliseconds per training step: Sparse VD here, Sparse VD and dense in PyTorch; of convolutional nets memory, too.

A step is: gather the batch, forward, backward, KL, Adam. ``python benchmarks/step.py --help``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import isa
from harness import BLOCK_SECONDS, Candidate, Timing, time_candidates
from machine import allowed_cores, describe, one_line, shown
from workload import TASKS

OURS = "svd_numpy"
SPARSE_PEERS = (
    "torch Sparse VD eager",
    "torch Sparse VD eager, by hand",
    "torch Sparse VD compile",
    "torch Sparse VD compile, by hand",
    "torch Sparse VD eager, channels_last",
)
DENSE_PEER = "torch dense eager"
DEFAULT_ARCH = "lenet-300-100"
CANDIDATES = {
    "ours": Candidate(OURS, "ours", "build_ours"),
    "eager": Candidate(SPARSE_PEERS[0], "torch_peers", "build_eager"),
    "hand": Candidate(SPARSE_PEERS[1], "torch_peers", "build_by_hand"),
    "compile": Candidate(SPARSE_PEERS[2], "torch_peers", "build_compiled"),
    "compile-hand": Candidate(SPARSE_PEERS[3], "torch_peers", "build_compiled_by_hand"),
    "dense": Candidate(DENSE_PEER, "torch_peers", "build_dense"),
}
CONV_CANDIDATES = {
    "ours": CANDIDATES["ours"],
    "eager": Candidate(SPARSE_PEERS[0], "torch_conv_peers", "build_eager", floats=True),
    "channels-last": Candidate(SPARSE_PEERS[4], "torch_conv_peers", "build_channels_last", floats=True),
    "compile": Candidate(SPARSE_PEERS[2], "torch_conv_compiled", "build_compiled", floats=True),
    "dense": Candidate(DENSE_PEER, "torch_conv_peers", "build_dense", floats=True),
}
COLUMNS = (
    *("batch", "threads", "candidate", "median ms", "min ms", "best torch Sparse VD / this", "torch dense / this"),
    *("cold start s", "blocks repeated, disturbed", "loss first -> last"),
)
MEMORY_COLUMN = "peak memory MiB"


def candidates_of(arch: str) -> dict[str, Candidate]:
    """Return whom there is to time on a network."""
    return CANDIDATES if arch == DEFAULT_ARCH else CONV_CANDIDATES


def header(arch: str) -> str:
    """Return the head of the table; only convolutional nets have the column of memory, the last one."""
    columns = COLUMNS if arch == DEFAULT_ARCH else (*COLUMNS, MEMORY_COLUMN)
    return f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"


def paired_ratio(peer: Timing | None, this: Timing) -> float | None:
    """Return the median over the rounds of peer / this: above 1, this one is the faster.

    The two blocks of a round are neighbours in time, so a slow phase of the machine cancels.
    """
    if peer is None or not peer.blocks_ms or not this.blocks_ms:
        return None
    return statistics.median(a / b for a, b in zip(peer.blocks_ms, this.blocks_ms, strict=True))


def rows_of(timings: Sequence[Timing], arch: str, batch: int, threads: int) -> list[dict[str, Any]]:
    """Return one JSON-able row for each candidate, with its ratios to the two yardsticks."""
    timed = {timing.name: timing for timing in timings if timing.blocks_ms}
    sparse = [timed[name] for name in SPARSE_PEERS if name in timed]
    best = min(sparse, key=lambda timing: timing.median_ms, default=None)
    rows = []
    for timing in timings:
        row = {"arch": arch, "batch": batch, "threads": threads, **asdict(timing)}
        if timing.blocks_ms:
            row["median_ms"], row["min_ms"] = timing.median_ms, timing.min_ms
            row["best_sparse_over_this"] = paired_ratio(best, timing)
            row["dense_over_this"] = paired_ratio(timed.get(DENSE_PEER), timing)
        rows.append(row)
    return rows


def markdown_row(row: dict[str, Any]) -> str:
    """Return the row as one line of the table."""
    head = f"| {row['batch']} | {row['threads']} | {row['name']} |"
    has_memory = row["arch"] != DEFAULT_ARCH
    if row["unavailable"]:
        return f"{head} not timed: {row['unavailable']}{' |' * (8 if has_memory else 7)}"

    def number(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return (
        f"{head} {row['median_ms']:.2f} | {row['min_ms']:.2f} | {number(row['best_sparse_over_this'])}"
        f" | {number(row['dense_over_this'])} | {row['cold_seconds']:.1f}"
        f" | {row['repeated_blocks']}, {row['disturbed_blocks']}"
        f" | {row['first_loss']:.3f} -> {row['last_loss']:.3f} |"
        + (f" {number(row['memory_mib'], 0)} |" if has_memory else "")
    )


def report(arch: str, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return the Markdown page: what was run, where, and the table."""
    return "\n".join(
        [
            f"# Milliseconds per training step, {TASKS[arch].title}",
            "",
            f"* Machine: {one_line(facts['machine'])}",
            f"* Command: `{facts['command']}`, {facts['date']}",
            *isa.lines(),
            f"* Data: {facts['data']}",
            f"* Method: {facts['rounds']} blocks of {facts['block_seconds']} s each, 2 steps at least, candidates in"
            " turn; ratios are medians over the rounds, above 1 means that the row's candidate is the faster."
            " See `benchmarks/README.md`.",
            "",
            header(arch),
            *map(markdown_row, rows),
            "",
        ]
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line, checked before anything is started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=list(TASKS), default=DEFAULT_ARCH, help="which network")
    batches = "; ".join(f"{arch}: {' '.join(map(str, task.batches))}" for arch, task in TASKS.items())
    parser.add_argument("--batches", type=int, nargs="+", help=f"batch sizes ({batches})")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="thread counts")
    parser.add_argument("--rounds", type=int, default=7, help="timed blocks of each candidate, at least 5")
    parser.add_argument(
        "--candidates", nargs="+", choices=[*CANDIDATES, "channels-last"], help="whom to time (all there are)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_name("results"),
        help="folder of step.md and step.json, or conv-ARCH.md and conv-ARCH.json",
    )
    isa.add_option(parser)
    options = parser.parse_args(arguments)
    task, known = TASKS[options.arch], list(candidates_of(options.arch))
    options.batches = options.batches or list(task.batches)
    options.candidates = options.candidates or known
    if unknown := [key for key in options.candidates if key not in known]:
        parser.error(
            f"--candidates {' '.join(unknown)}: not written for {options.arch}; choose from {', '.join(known)}"
        )
    cores = len(allowed_cores())
    if not all(1 <= threads <= cores for threads in options.threads):
        parser.error(f"--threads {options.threads}: this process may use {cores} cores; give 1 to {cores}")
    if not all(1 <= batch <= task.train_examples for batch in options.batches):
        parser.error(f"--batches {options.batches}: a batch has 1 to {task.train_examples} of the training images")
    if options.rounds < 5:
        parser.error(f"--rounds {options.rounds}: a median of fewer than 5 blocks says little; give 5 or more")
    return options


def facts_of(
    script: str, arguments: Sequence[str] | None, rows: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """What must be known of the timings to read them."""
    return {
        "machine": describe(),
        "command": f"python benchmarks/{script} " + " ".join(shown(sys.argv[1:] if arguments is None else arguments)),
        "date": datetime.date.today().isoformat(),
        "data": next((row["data"] for row in rows if row["data"]), "none: no candidate could be run"),
        "isa": isa.held(),
        "rounds": options.rounds,
        "block_seconds": BLOCK_SECONDS,
    }


def write(out: Path, name: str, text: str, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Write a report as Markdown, and its rows and facts as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out / name}.md and {name}.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; print the table and write it as Markdown and JSON."""
    options = parse_arguments(arguments)
    isa.hold(options.isa)
    arch = options.arch
    candidates = [candidates_of(arch)[key] for key in options.candidates]
    rows: list[dict[str, Any]] = []
    print(header(arch))
    for threads in options.threads:
        for batch in options.batches:
            with tempfile.TemporaryDirectory() as scratch:
                timings = time_candidates(candidates, arch, batch, threads, options.rounds, scratch)
            new_rows = rows_of(timings, arch, batch, threads)
            rows += new_rows
            print(*map(markdown_row, new_rows), sep="\n", flush=True)

    facts = facts_of("step.py", arguments, rows, options)
    name = "step" if arch == DEFAULT_ARCH else f"conv-{arch}"
    write(options.out, name + isa.suffix(), report(arch, rows, facts), rows, facts)


if __name__ == "__main__":
    main()
