"""Milliseconds per training step of LeNet-300-100: Sparse VD here, Sparse VD and dense in PyTorch.

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

from harness import BLOCK_SECONDS, Candidate, Timing, time_candidates
from machine import allowed_cores, describe, one_line

OURS = "svd_numpy"
SPARSE_PEERS = (
    "torch Sparse VD eager",
    "torch Sparse VD eager, by hand",
    "torch Sparse VD compile",
    "torch Sparse VD compile, by hand",
)
DENSE_PEER = "torch dense eager"
CANDIDATES = {
    "ours": Candidate(OURS, "ours", "build_ours"),
    "eager": Candidate(SPARSE_PEERS[0], "torch_peers", "build_eager"),
    "hand": Candidate(SPARSE_PEERS[1], "torch_peers", "build_by_hand"),
    "compile": Candidate(SPARSE_PEERS[2], "torch_peers", "build_compiled"),
    "compile-hand": Candidate(SPARSE_PEERS[3], "torch_peers", "build_compiled_by_hand"),
    "dense": Candidate(DENSE_PEER, "torch_peers", "build_dense"),
}
HEADER = (
    "| batch | threads | candidate | median ms | min ms | best torch Sparse VD / this | torch dense / this"
    " | cold start s | blocks repeated, disturbed | loss first -> last |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def paired_ratio(peer: Timing | None, this: Timing) -> float | None:
    """Return the median over the rounds of peer / this: above 1, this one is the faster.

    The two blocks of a round are neighbours in time, so a slow phase of the machine cancels.
    """
    if peer is None or not peer.blocks_ms or not this.blocks_ms:
        return None
    return statistics.median(a / b for a, b in zip(peer.blocks_ms, this.blocks_ms, strict=True))


def rows_of(timings: Sequence[Timing], batch: int, threads: int) -> list[dict[str, Any]]:
    """Return one JSON-able row for each candidate, with its ratios to the two yardsticks."""
    timed = {timing.name: timing for timing in timings if timing.blocks_ms}
    sparse = [timed[name] for name in SPARSE_PEERS if name in timed]
    best = min(sparse, key=lambda timing: timing.median_ms, default=None)
    rows = []
    for timing in timings:
        row = {"batch": batch, "threads": threads, **asdict(timing)}
        if timing.blocks_ms:
            row["median_ms"], row["min_ms"] = timing.median_ms, timing.min_ms
            row["best_sparse_over_this"] = paired_ratio(best, timing)
            row["dense_over_this"] = paired_ratio(timed.get(DENSE_PEER), timing)
        rows.append(row)
    return rows


def markdown_row(row: dict[str, Any]) -> str:
    """Return the row as one line of the table."""
    head = f"| {row['batch']} | {row['threads']} | {row['name']} |"
    if row["unavailable"]:
        return f"{head} not timed: {row['unavailable']} | | | | | | |"

    def ratio(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    return (
        f"{head} {row['median_ms']:.2f} | {row['min_ms']:.2f} | {ratio(row['best_sparse_over_this'])}"
        f" | {ratio(row['dense_over_this'])} | {row['cold_seconds']:.1f}"
        f" | {row['repeated_blocks']}, {row['disturbed_blocks']}"
        f" | {row['first_loss']:.3f} -> {row['last_loss']:.3f} |"
    )


def report(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return the Markdown page: what was run, where, and the table."""
    return "\n".join(
        [
            "# Milliseconds per training step, LeNet-300-100",
            "",
            f"* Machine: {one_line(facts['machine'])}",
            f"* Command: `{facts['command']}`, {facts['date']}",
            f"* Data: {facts['data']}",
            f"* Method: {facts['rounds']} blocks of {facts['block_seconds']} s each, candidates in turn;"
            " ratios are medians over the rounds, above 1 means that the row's candidate is the faster."
            " See `benchmarks/README.md`.",
            "",
            HEADER,
            *map(markdown_row, rows),
            "",
        ]
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line, checked before anything is started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[100, 1000], help="batch sizes")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="thread counts")
    parser.add_argument("--rounds", type=int, default=7, help="timed blocks of each candidate, at least 5")
    parser.add_argument(
        "--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES), help="whom to time"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_name("results"),
        help="folder of step.md and step.json",
    )
    options = parser.parse_args(arguments)
    cores = len(allowed_cores())
    if not all(1 <= threads <= cores for threads in options.threads):
        parser.error(f"--threads {options.threads}: this process may use {cores} cores; give 1 to {cores}")
    if not all(1 <= batch <= 60_000 for batch in options.batches):
        parser.error(f"--batches {options.batches}: a batch has 1 to 60000 of the training images")
    if options.rounds < 5:
        parser.error(f"--rounds {options.rounds}: a median of fewer than 5 blocks says little; give 5 or more")
    return options


def main() -> None:
    """Run the benchmark; print the table and write it as Markdown and JSON."""
    options = parse_arguments()
    rows: list[dict[str, Any]] = []
    print(HEADER)
    for threads in options.threads:
        for batch in options.batches:
            candidates = [CANDIDATES[key] for key in options.candidates]
            with tempfile.TemporaryDirectory() as scratch:
                timings = time_candidates(candidates, batch, threads, options.rounds, scratch)
            new_rows = rows_of(timings, batch, threads)
            rows += new_rows
            print(*map(markdown_row, new_rows), sep="\n", flush=True)

    facts = {
        "machine": describe(),
        "command": "python benchmarks/step.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "data": next((row["data"] for row in rows if row["data"]), "none: no candidate could be run"),
        "rounds": options.rounds,
        "block_seconds": BLOCK_SECONDS,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "step.md").write_text(report(rows, facts), encoding="utf-8")
    (options.out / "step.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out / 'step.md'} and step.json")


if __name__ == "__main__":
    main()
