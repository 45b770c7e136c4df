"""This checkout against another one: has anything become slower? ``python benchmarks/compare.py OTHER --help``.

Steps and predictions of both are timed in turn, in one run, each in a process of its own with its own package.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import isa
from harness import HERE, Candidate, time_candidates
from machine import one_line
from step import facts_of, write
from workload import TASKS

CASES = (  # what, network, builder, batch
    *(("training step", arch, ("ours", "build_ours"), batch) for arch in TASKS for batch in TASKS[arch].batches),
    *(
        (what, "lenet-300-100", ("compare_inference", builder), batch)
        for what, builder in (("prediction, compact", "build_compact"), ("prediction, pruned", "build_pruned"))
        for batch in (1, 100)
    ),
)
COLUMNS = ("what", "network", "batch", "threads", "other ms", "this ms", "this / other", "min / min")


def commit(checkout: Path) -> str:
    """Return the abbreviated commit of a checkout."""
    asked = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15, help="timed blocks of each")
    parser.add_argument("--archs", nargs="+", choices=list(TASKS), default=list(TASKS))
    isa.add_option(parser)
    options = parser.parse_args(arguments)
    isa.hold(options.isa)
    head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
    rows, lines = list[dict[str, Any]](), [head]
    print(head)
    for threads in options.threads:
        for what, arch, (module, builder), batch in CASES:
            if arch not in options.archs:
                continue
            pair = [Candidate(name, module, builder, checkout=folder) for name, folder in (
                ("other", str(options.other.resolve())), ("this", str(HERE.parent)))]  # fmt: skip
            with tempfile.TemporaryDirectory() as scratch:
                other, this = time_candidates(pair, arch, batch, threads, options.rounds, scratch)
            if unavailable := other.unavailable or this.unavailable:
                raise SystemExit(f"{what}, {arch}: {unavailable}")
            ratio = statistics.median(b / a for a, b in zip(other.blocks_ms, this.blocks_ms, strict=True))
            case = {"what": what, "arch": arch, "batch": batch, "threads": threads}
            rows += [{**case, **asdict(timing)} for timing in (other, this)]
            lines.append(
                f"| {what} | {TASKS[arch].title} | {batch} | {threads} | {other.median_ms:.3f} | {this.median_ms:.3f} "
                f"| {ratio:.3f} | {this.min_ms / other.min_ms:.3f} |"
            )
            print(lines[-1], flush=True)
    facts = {**facts_of("compare.py", ["OTHER"], rows, options), "other": commit(options.other), "this": commit(HERE)}
    text = "\n".join(
        [
            f"# This checkout ({facts['this']}) against an earlier one ({facts['other']})",
            "",
            f"* Machine: {one_line(facts['machine'])}",
            f"* Command: `{facts['command']}`, {facts['date']}",
            *isa.lines(),
            f"* Method: {facts['rounds']} blocks of {facts['block_seconds']} s each, in turn. Times are medians; "
            "ratios are medians over the rounds, below 1 if this checkout is the faster.",
            "",
            *lines,
            "",
        ]
    )
    write(HERE / "results", f"compare{isa.suffix()}", text, rows, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
