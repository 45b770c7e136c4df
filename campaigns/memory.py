"""Memory stays flat: hundreds of trainings and thousands of predictions in one process, watched after each tenth.

    python campaigns/memory.py                 # 200 trainings, 10,000 predictions, 300 of the rest
    python campaigns/memory.py --share 0.02    # a trial

The table goes to `benchmarks/results/memory.md`, the figures to `memory.json` beside it. It reads /proc, and so needs
Linux.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tally import RESULTS, machine

import svd_numpy as svd
from svd_numpy.files.atomic import write_atomic

ALLOWED = 8 * 2**20  # bytes: what the C library keeps for later differs from time to time
TENTHS = 10


def taken() -> tuple[int, int]:
    """Return the bytes of memory and the file handles that this process has."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def measure(work: Callable[[], Any], times: int) -> dict[str, Any]:
    """Do something again and again; return memory and handles after each tenth. The first tenth is for warming up."""
    found = []
    for _ in range(TENTHS):
        for _ in range(max(1, times // TENTHS)):
            work()
        found.append(taken())
    memory, handles = zip(*found, strict=True)
    growth = max(memory) - memory[0]
    flat = growth <= ALLOWED and max(handles) == handles[0]
    return {"times": TENTHS * max(1, times // TENTHS), "memory": memory, "handles": handles, "flat": flat}


def tasks(folder: Path, backend: str) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Return what is done, and how often, by name."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 100)).astype(np.float32), rng.integers(0, 5, 600)
    data = svd.Dataset("own", x, y, x[:100], y[:100], None, 5, "")

    def network() -> svd.Sequential:
        layers = svd.VariationalDense(100, 50), svd.ReLU(), svd.VariationalDense(50, 5)
        return svd.Sequential(*layers, backend=backend)

    model = network()
    small = svd.compress(model, backend=backend)
    config = svd.TrainConfig(epochs=3, batch_size=50)

    def fit(run_dir: Path | None = None) -> None:
        svd.fit(network(), data, config, run_dir=run_dir, progress=False)

    def fit_with_folder() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as run:
            fit(Path(run) / "run")

    def save_and_load() -> None:
        model.save(folder / "model.safetensors")
        svd.Sequential.load(folder / "model.safetensors", backend)
        small.save(folder / "small.safetensors")
        svd.SparseModel.load(folder / "small.safetensors", backend)

    return {
        "fit": (200, fit),
        "fit with a run folder": (200, fit_with_folder),
        "predict": (10_000, lambda: model.predict(x[:100])),
        "sample": (300, lambda: model.sample(x[:100], 3)),
        "predict, compact network": (10_000, lambda: small.predict(x[:100])),
        "compress": (300, lambda: svd.compress(model, backend=backend)),
        "save and load": (300, save_and_load),
        "copy": (300, model.copy),
    }


def table(content: dict[str, Any]) -> str:
    """Return the report."""
    lines = [
        "# Memory stays flat\n",
        f"One process, backend {content['backend']}; memory and open files after each tenth of the work. A row is flat",
        f"if no later figure exceeds the first by more than {ALLOWED >> 20} MiB, or by one file.\n",
        "| what | times | MiB after a tenth | most afterwards | growth, kB each | open files | flat |",
        "|--|--:|--:|--:|--:|--:|--|",
    ]
    for name, row in content["rows"].items():
        first, most = row["memory"][0], max(row["memory"])
        each = (row["memory"][-1] - first) / 1024 / (row["times"] * (TENTHS - 1) / TENTHS)
        lines.append(
            f"| {name} | {row['times']:,} | {first / 2**20:.1f} | {most / 2**20:.1f} | {each:.2f} "
            f"| {max(row['handles'])} | {'yes' if row['flat'] else '**no**'} |"
        )
    return "\n".join([*lines, "", f"`{content['command']}`, {content['date']}; {content['machine']}", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Do everything and write the report; return 1 if anything grows."""
    parser = argparse.ArgumentParser(description="Watch memory over many trainings and predictions.")
    parser.add_argument("--share", type=float, default=1.0, help="how much of the work to do (default 1)")
    parser.add_argument("--backend", default="auto", help="auto, numba or numpy")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of memory.json and memory.md")
    options = parser.parse_args(arguments)
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (times, work) in tasks(Path(scratch), options.backend).items():
            rows[name] = measure(work, int(times * options.share))
            print(f"{name}: {rows[name]['memory'][0] >> 20} to {max(rows[name]['memory']) >> 20} MiB", flush=True)
        backend = svd.Sequential(svd.Dense(1, 1), backend=options.backend).backend.name
    content = {
        "command": " ".join(["python campaigns/memory.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "date": f"{datetime.date.today()}",
        "machine": machine(),
        "backend": backend,
        "rows": rows,
    }
    write_atomic(options.out / "memory.json", json.dumps(content, indent=1).encode())
    write_atomic(options.out / "memory.md", table(content).encode())
    return int(not all(row["flat"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
