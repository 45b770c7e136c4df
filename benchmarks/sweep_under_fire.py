"""Sweeps whose workers, scheduler or terminal are taken away while they train: what is lost, in bits.

    python benchmarks/sweep_under_fire.py

Four times the same sweep of the embedded digits, on two processes: undisturbed; on Dask, with one worker killed every
20 seconds; on Dask, with the scheduler killed every 40 seconds and started again five seconds later; in processes of
joblib, with Ctrl-C every 20 seconds and the same call again. Each network is compared with that of the undisturbed
sweep by the SHA-256 of its file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from machine import command_line, describe, one_line

import svd_numpy as svd
from svd_numpy.files.atomic import write_atomic

OUT = Path(__file__).parent / "results" / "sweep-under-fire"
PAUSE = 5.0  # seconds without a scheduler


def sweep(folder: Path, options: argparse.Namespace, **where: Any) -> svd.SweepResult:
    """Do the sweep, or what is left of it."""
    weights = [round(0.2 + 0.2 * number, 1) for number in range(options.points)]
    return svd.sweep(
        run_dir=folder, dataset="digits", recipe="small", epochs=options.epochs, backend="numba", kl_weight=weights,
        seeds=options.seeds, progress=False, **where,
    )  # fmt: skip


def hashes(folder: Path) -> dict[str, str]:
    """Hash of each finished network."""
    return {
        path.parent.name: hashlib.sha256((path.parent / "model.safetensors").read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/result.json"))
    }


def training(folder: Path) -> list[int]:
    """Processes with an open file in this folder: those that do runs of the sweep."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(link.resolve().is_relative_to(folder) for link in (process / "fd").iterdir()):
                found.append(int(process.name))
    return sorted(set(found) - {os.getpid()})


@contextlib.contextmanager
def every(seconds: float, act: Callable[[], bool]) -> Iterator[list[float]]:
    """Act every so many seconds in another thread; give the list of the moments at which it did something."""
    ended, moments, start = threading.Event(), list[float](), time.monotonic()

    def work() -> None:
        while not ended.wait(seconds):
            if act():
                moments.append(round(time.monotonic() - start, 1))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield moments
    finally:
        ended.set()
        thread.join()


def workers_killed(folder: Path, options: argparse.Namespace) -> list[float]:
    """Kill one of Dask's workers every so often."""

    def kill() -> bool:
        for process in training(folder)[:1]:
            os.kill(process, signal.SIGKILL)
            return True
        return False

    with every(options.kill_every, kill) as moments:
        sweep(folder, options, jobs=2, scheduler="local")
    return moments


def scheduler_killed(folder: Path, options: argparse.Namespace) -> list[float]:
    """Kill the scheduler every so often, and start another one at the same address, with workers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{one.getsockname()[1]}"
    own: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        def dask(*words: str) -> None:
            environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            own.append(
                subprocess.Popen([sys.executable, "-m", "dask", *words], env=environment, stderr=subprocess.DEVNULL)
            )

        port = address.rpartition(":")[2]
        dask("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        for _ in range(2):
            dask("worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "60")

    def kill() -> bool:
        own[0].kill()
        own[0].wait()
        time.sleep(PAUSE)
        del own[0]
        stale = own[:]
        own.clear()
        start()
        own.extend(stale)
        return True

    start()
    try:
        with every(2 * options.kill_every, kill) as moments:
            sweep(folder, options, scheduler=address)
    finally:
        for process in own:
            process.terminate()
        for process in own:
            process.wait()
    return moments


def stopped(folder: Path, options: argparse.Namespace) -> list[float]:
    """Press Ctrl-C every so often, once another run has ended, and start again."""
    command = [sys.executable, __file__, "--sweep", str(folder)]
    for name in ("epochs", "points", "seeds"):
        command += [f"--{name}", str(getattr(options, name))]
    moments, start = list[float](), time.monotonic()
    while True:
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            ended, due = len(hashes(folder)), time.monotonic() + options.kill_every
            while process.poll() is None and (time.monotonic() < due or len(hashes(folder)) == ended):
                time.sleep(0.2)
            if process.poll() is not None:
                return moments
            moments.append(round(time.monotonic() - start, 1))
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


SCENES = {
    "workers killed (Dask)": workers_killed,
    "scheduler killed (Dask)": scheduler_killed,
    "Ctrl-C (joblib)": stopped,
}


def table(rows: dict[str, dict[str, Any]], runs: int) -> str:
    """The page."""
    lines = [
        "# Sweeps under fire",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}",
        f"* {runs} runs of the embedded digits on two processes; the networks are compared by their SHA-256",
        "",
        "| what happens | times | runs that ended | with the bits of the undisturbed sweep | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = len(row["moments"]), row["ended"], row["same"], f"{row['seconds']:.0f}"
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Do all scenes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100, help="of each run; 100 take some 4 seconds")
    parser.add_argument("--points", type=int, default=10, help="values of the KL weight")
    parser.add_argument("--seeds", type=int, default=4, help="of each point")
    parser.add_argument("--out", type=Path, default=OUT, help="the results, without a suffix")
    parser.add_argument("--kill-every", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--only", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--sweep", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sweep:
        sweep(options.sweep, options, jobs=2)
        return
    rows = dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        sweep(Path(scratch) / "undisturbed", options, jobs=2)
        expected = hashes(Path(scratch) / "undisturbed")
        rows["nothing"] = {"moments": [], "ended": len(expected), "same": len(expected)}
        rows["nothing"]["seconds"] = time.monotonic() - start
        for number, name in enumerate(options.only):
            folder, start = Path(scratch).resolve() / f"{number}", time.monotonic()
            moments = SCENES[name](folder, options)
            found = hashes(folder)
            same = sum(found[run] == digest for run, digest in expected.items() if run in found)
            rows[name] = {
                "moments": moments, "ended": len(found), "same": same, "seconds": time.monotonic() - start,
            }  # fmt: skip
            print(name, rows[name], flush=True)
    write_atomic(options.out.with_suffix(".json"), json.dumps({"machine": describe(), "rows": rows}, indent=1).encode())
    write_atomic(options.out.with_suffix(".md"), table(rows, len(expected)).encode())
    print(table(rows, len(expected)))
    if any(row["same"] != len(expected) for row in rows.values()):
        sys.exit("some networks are missing, or have other bits")


if __name__ == "__main__":
    main()
