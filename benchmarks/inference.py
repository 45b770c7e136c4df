"""Microseconds per prediction of a pruned network: compact here, dense in PyTorch, in NumPy and in SciPy.

The networks are those of finished runs (--model ARCH=FILE), else they are trained on the spot with the recipe
`default` and kept in runs/. ``python benchmarks/inference.py --help``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import Candidate, Timing, time_candidates
from inference_peers import NETWORK
from machine import allowed_cores, one_line
from step import facts_of, paired_ratio, write
from workload import TASKS

BATCHES = {"lenet-300-100": (1, 100, 10_000), "lenet-5": (1, 100, 1000)}
TORCH = ("torch dense eager", "torch dense compile")
CANDIDATES = {
    "ours": Candidate("svd_numpy compact", "inference_peers", "build_ours"),
    "pixels": Candidate("svd_numpy compact, uint8 images", "inference_peers", "build_ours_pixels"),
    "reference": Candidate("svd_numpy, not compacted", "inference_peers", "build_reference"),
    "eager": Candidate(TORCH[0], "torch_inference", "build_eager"),
    "compile": Candidate(TORCH[1], "torch_inference", "build_compiled"),
    "scipy": Candidate("SciPy CSR", "inference_peers", "build_scipy"),
    "shrunk": Candidate("NumPy, live units only", "inference_peers", "build_shrunk"),
}
DENSE_ONLY = ("scipy", "shrunk")  # candidates that are written for dense networks
COLUMNS = (
    *("network", "batch", "threads", "candidate", "median us", "min us", "best torch / this", "cold start s"),
    *("blocks repeated, disturbed", "mean output"),
)
AGREEMENT = 1e-4  # of the mean output, relative


def trained(arch: str, folder: Path) -> Path:
    """Return the file of a network trained with the recipe `default`; train it where there is none yet."""
    path = folder / f"inference-{arch}" / "model.safetensors"
    if not path.exists():
        import svd_numpy as svd

        print(f"training {arch} into {path.parent}", flush=True)
        svd.train_mnist(
            arch=arch, run_dir=path.parent, resume=(path.parent / "metrics.jsonl").exists(), dataset="mnist"
        )
    return path


def compact_table(path: Path) -> str:
    """What is left of a network."""
    import svd_numpy as svd

    return str(svd.compress(svd.Sequential.load(path)))


def rows_of(timings: Sequence[Timing], arch: str, batch: int, threads: int) -> list[dict[str, Any]]:
    """Return one JSON-able row for each candidate, beside the faster of PyTorch's two."""
    ready = [timing for timing in timings if timing.blocks_ms]
    values = [timing.first_loss for timing in ready]
    if values and max(values) - min(values) > AGREEMENT * max(values):
        raise RuntimeError(
            f"candidates disagree: mean outputs {dict(zip((t.name for t in ready), values, strict=True))}"
        )
    best = min((t for t in ready if t.name in TORCH), key=lambda timing: timing.median_ms, default=None)
    rows = []
    for timing in timings:
        row = {"arch": arch, "batch": batch, "threads": threads, **asdict(timing)}
        if timing.blocks_ms:
            row["median_us"], row["min_us"] = 1e3 * timing.median_ms, 1e3 * timing.min_ms
            row["best_torch_over_this"] = paired_ratio(best, timing)
        rows.append(row)
    return rows


def markdown_row(row: dict[str, Any]) -> str:
    """Return the row as one line of the table."""
    head = f"| {TASKS[row['arch']].title} | {row['batch']} | {row['threads']} | {row['name']} |"
    if row["unavailable"]:
        return f"{head} not timed: {row['unavailable']} |{' |' * 5}"
    ratio = row["best_torch_over_this"]
    return (
        f"{head} {row['median_us']:.1f} | {row['min_us']:.1f} | {'-' if ratio is None else f'{ratio:.2f}'}"
        f" | {row['cold_seconds']:.1f} | {row['repeated_blocks']}, {row['disturbed_blocks']}"
        f" | {row['first_loss']:.5f} |"
    )


def header() -> str:
    """Return the head of the table."""
    return f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def report(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return the Markdown page: what was run, where, the networks and the table."""
    networks = [f"{TASKS[arch].title}:\n\n```text\n{table}\n```\n" for arch, table in facts["networks"].items()]
    return "\n".join(
        [
            "# Microseconds per prediction of a pruned network",
            "",
            f"* Machine: {one_line(facts['machine'])}",
            f"* Command: `{facts['command']}`, {facts['date']}",
            f"* Images: {facts['data']}; float32 unless said otherwise, the same batch again and again",
            f"* Method: {facts['rounds']} blocks of {facts['block_seconds']} s each, candidates in turn; ratios are"
            " medians over the rounds, above 1 means that the row's candidate is the faster; see benchmarks/README.md",
            "",
            *networks,
            header(),
            *map(markdown_row, rows),
            "",
        ]
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line, checked before anything is started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", choices=list(BATCHES), default=list(BATCHES), help="which networks")
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="ARCH=FILE", help="model.safetensors of finished runs"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where networks are trained, if they must be")
    parser.add_argument("--batches", type=int, nargs="+", help=f"batch sizes ({BATCHES})")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="thread counts")
    parser.add_argument("--rounds", type=int, default=7, help="timed blocks of each candidate, at least 5")
    parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES), help="whom")
    out = Path(__file__).with_name("results")
    parser.add_argument("--out", type=Path, default=out, help="folder of inference.md and inference.json")
    options = parser.parse_args(arguments)
    options.model = dict(entry.partition("=")[::2] for entry in options.model)
    if wrong := [
        f"{arch}={file}" for arch, file in options.model.items() if arch not in BATCHES or not Path(file).is_file()
    ]:
        parser.error(
            f"--model {' '.join(wrong)}: expected ARCH=FILE with ARCH of {', '.join(BATCHES)} and a file that is there"
        )
    cores = len(allowed_cores())
    if not all(1 <= threads <= cores for threads in options.threads):
        parser.error(f"--threads {options.threads}: this process may use {cores} cores; give 1 to {cores}")
    if options.rounds < 5:
        parser.error(f"--rounds {options.rounds}: a median of fewer than 5 blocks says little; give 5 or more")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; print the table and write it as Markdown and JSON."""
    options = parse_arguments(arguments)
    files = {arch: Path(options.model.get(arch) or trained(arch, options.runs)) for arch in options.archs}
    rows: list[dict[str, Any]] = []
    print(header())
    for arch, file in files.items():
        os.environ[NETWORK] = str(file.resolve())
        keys = [key for key in options.candidates if arch == "lenet-300-100" or key not in DENSE_ONLY]
        candidates = [CANDIDATES[key] for key in keys]
        for threads in options.threads:
            for batch in options.batches or BATCHES[arch]:
                with tempfile.TemporaryDirectory() as scratch:
                    timings = time_candidates(candidates, arch, batch, threads, options.rounds, scratch)
                new_rows = rows_of(timings, arch, batch, threads)
                rows += new_rows
                print(*map(markdown_row, new_rows), sep="\n", flush=True)
    networks = {arch: compact_table(file) for arch, file in files.items()}
    facts = {**facts_of("inference.py", arguments, rows, options), "networks": networks}
    write(options.out, "inference", report(rows, facts), rows, facts)


if __name__ == "__main__":
    main()
