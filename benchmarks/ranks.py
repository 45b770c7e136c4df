"""Training on several MPI ranks: equal bits, and what a second rank is worth beside a second thread.

    python benchmarks/ranks.py
    python benchmarks/ranks.py --parts speed --rounds 9

*Bits*: each network is trained for two epochs on 1, 2 and 4 ranks; the table has the SHA-256 of its arrays. *Speed*:
milliseconds per step on two cores, at batch 100, of four settings in turn, each started anew in every round.
Communication is measured inside the run and includes waiting for the other rank. Writes `results/ranks.md` and
`ranks.json`; a part that is not asked for keeps its figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import allowed_cores, command_line, describe, one_line

from svd_numpy.data import Dataset, load
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.files.atomic import write_atomic
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.loop import fit
from svd_numpy.train.ranks import ALONE, MpiRanks, Ranks, join_ranks
from svd_numpy.train.runner import make_runner
from svd_numpy.train.trainer import Trainer

OUT = Path(__file__).parent / "results"
BATCH = 100
BITS = {"lenet-300-100": (1.0, 5_000), "lenet-5": (1.0, 1_000), "vgg-like": (0.125, 500)}  # width, training images
SPEED = {"vgg-like": 0.5, "lenet-5": 1.0, "lenet-300-100": 1.0}  # width
SETTINGS = {  # shards, ranks, threads of each
    "plain, 1 process x 2 threads": (1, 1, 2),
    "2 shards, 1 rank x 2 threads": (2, 1, 2),
    "2 shards, 2 ranks x 1 thread": (2, 2, 1),
    "4 shards, 2 ranks x 1 thread": (4, 2, 1),
}
RANKS = (1, 2, 4)


def prepare(arch: str, width: float, images: int | None) -> tuple[Sequential, Dataset]:
    """Load the images of an architecture, all or the first ones, and build its network."""
    data = load("cifar10" if arch == "vgg-like" else "mnist")
    if images is not None:
        data = replace(
            data, x_train=data.x_train[:images], y_train=data.y_train[:images], x_test=data.x_test[:1000],
            y_test=data.y_test[:1000],
        )  # fmt: skip
    return build(data, get_recipe(arch, "default"), 0, "numba", width=width), data


# ------------------------------------------------------------ what every rank does


class _Timed(MpiRanks):
    """Ranks that add up the seconds of their communication."""

    seconds = 0.0

    def gather(self, own: Array) -> Array:
        began = time.perf_counter()
        found = super().gather(own)
        self.seconds += time.perf_counter() - began
        return found

    def add_up(self, array: Array) -> None:
        began = time.perf_counter()
        super().add_up(array)
        self.seconds += time.perf_counter() - began


def bits(arch: str, ranks: Ranks) -> dict[str, Any]:
    """Train for two epochs; return the hash of all arrays."""
    model, data = prepare(arch, *BITS[arch])
    config = TrainConfig(epochs=2, batch_size=BATCH, shards=4, remove_above=3.0 if arch == "lenet-300-100" else None)
    history = fit(model, data, config, progress=False, ranks=ranks)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in model.arrays().values())).hexdigest()
    return {"sha256": digest, "nll": history[-1]["nll"], "test_error": history[-1]["test_error"]}


def steps(arch: str, shards: int, seconds: float, ranks: Ranks) -> dict[str, Any]:
    """Do training steps for so many seconds; return milliseconds per step, and those of its communication."""
    model, data = prepare(arch, SPEED[arch], None)
    trainer = Trainer(model, data, TrainConfig(epochs=1000, batch_size=BATCH, shards=shards))
    runner = make_runner([trainer], ranks)

    def some(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            runner.advance(1)
            ranks.highest(0)  # as the training loop asks after every step
        return time.perf_counter() - began

    some(3)
    count = max(3, round(seconds / ranks.tell(some(3) / 3)))
    if isinstance(ranks, _Timed):
        ranks.seconds = 0.0
    elapsed = some(count)
    return {"ms": 1e3 * elapsed / count, "communication_ms": 1e3 * getattr(ranks, "seconds", 0.0) / count}


def work(arguments: list[str]) -> None:
    """Do one job on this rank; rank 0 prints what it found."""
    what, arch, shards, seconds = arguments
    ranks: Ranks = ALONE
    if os.environ.get("RANKS_MPI"):
        joined = join_ranks()
        assert isinstance(joined, MpiRanks)
        ranks = _Timed(joined._comm)
    found = bits(arch, ranks) if what == "bits" else steps(arch, int(shards), float(seconds), ranks)
    if ranks.rank == 0:
        print(json.dumps(found), flush=True)


# ------------------------------------------------------------ what starts them


def on_ranks(ranks: int, *words: str) -> list[str]:
    """Return the command that runs a script with its arguments on so many ranks."""
    here = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    return [here, "-n", str(ranks), sys.executable, "-m", "mpi4py", *words]


def ask(ranks: int, threads: int, *words: str) -> dict[str, Any]:
    """Do a job on so many ranks, or without MPI on one."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("RANKS_MPI", None)
    environment["MPIR_CVAR_POLLS_BEFORE_YIELD"] = "0" if ranks * threads > len(allowed_cores()) else "1000"  # of MPICH
    command = [sys.executable, __file__, "work", *words]
    if ranks > 1:
        environment["RANKS_MPI"] = "1"
        command = on_ranks(ranks, *command[1:])
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_bits(archs: list[str]) -> dict[str, Any]:
    """Hashes of every network by number of ranks."""
    found: dict[str, Any] = {}
    for arch in archs:
        found[arch] = {}
        for ranks in RANKS:
            found[arch][str(ranks)] = ask(ranks, 1, "bits", arch, "4", "0")
            print(arch, ranks, found[arch][str(ranks)], flush=True)
    return found


def measure_speed(archs: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """All figures of every network by setting; settings take turns."""
    found: dict[str, Any] = {}
    for arch in archs:
        found[arch] = {name: [] for name in SETTINGS}
        for turn in range(rounds):
            for name, (shards, ranks, threads) in SETTINGS.items():
                found[arch][name].append(ask(ranks, threads, "steps", arch, str(shards), str(seconds)))
            print(arch, f"round {turn + 1} of {rounds}", {n: round(f[-1]["ms"], 2) for n, f in found[arch].items()})
    return found


def table(results: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    lines = ["# Training on several MPI ranks", "", f"* Machine: {one_line(results['machine'])}"]
    lines += [f"* Command: {results['command']}", ""]
    if "bits" in results:
        lines += ["## The same bits", "", "Two epochs at batch 100 in 4 shards, one thread a rank.", ""]
        lines += ["| network | ranks | SHA-256 of all arrays | NLL | test error % |", "|--|--:|--|--:|--:|"]
        for arch, by_ranks in results["bits"].items():
            width, images = BITS[arch]
            title = f"{arch}, {images:,} images" + (f", width {width:g}" if width != 1 else "")
            for ranks, one in by_ranks.items():
                error = 100 * one["test_error"]
                lines.append(f"| {title} | {ranks} | `{one['sha256'][:16]}` | {one['nll']:.6f} | {error:.2f} |")
        equal = all(len({one["sha256"] for one in some.values()}) == 1 for some in results["bits"].values())
        lines += ["", "All equal." if equal else "**Not all equal.**", ""]
    if "speed" in results:
        lines += ["## A second rank against a second thread", ""]
        lines += [
            "Milliseconds per step, medians over the rounds; ratios are those within a round.",
            "",
        ]
        lines += ["| network | setting | ms | of it communication | plain / this |", "|--|--|--:|--:|--:|"]
        for arch, by_setting in results["speed"].items():
            plain = [one["ms"] for one in next(iter(by_setting.values()))]
            title = arch + (f", width {SPEED[arch]:g}" if SPEED[arch] != 1 else "")
            for name, found in by_setting.items():
                ms = statistics.median(one["ms"] for one in found)
                talk = statistics.median(one["communication_ms"] for one in found)
                ratio = statistics.median(base / one["ms"] for base, one in zip(plain, found, strict=True))
                lines.append(f"| {title} | {name} | {ms:.2f} | {talk:.2f} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("bits", "speed"), default=["bits", "speed"])
    parser.add_argument("--archs", nargs="+", choices=tuple(SPEED), default=list(SPEED))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one block of steps")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    path = options.out / "ranks.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    results |= {"machine": describe(), "command": command_line()}
    if "bits" in options.parts:
        results["bits"] = {**results.get("bits", {}), **measure_bits(options.archs)}
    if "speed" in options.parts:
        results["speed"] = {
            **results.get("speed", {}),
            **measure_speed(options.archs, options.rounds, options.seconds),
        }
    write_atomic(path, json.dumps(results, indent=1).encode())
    write_atomic(options.out / "ranks.md", table(results).encode())
    print(table(results))


if __name__ == "__main__":
    work(sys.argv[2:]) if sys.argv[1:2] == ["work"] else main()
