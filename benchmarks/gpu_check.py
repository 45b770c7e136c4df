"""Check and time the CUDA backend on the device at hand: `make gpu-check`.

Every section (`gpu_sections.py`) is a process of its own with a time limit: an illegal address spoils all later work of
its process, and a kernel that never ends would end the check. What fails, is cut short or cannot be done is named in
the table, with the reason, and the next section follows. The files are written anew after each section. The first
table compares what was found with what is wanted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from svd_numpy.kernels.cuda import detect  # noqa: E402  (its folder is named just above)

# Sections in their order, what the project rests on first, and the seconds that each may take.
LIMITS = {
    "Device": 60,
    "Every operation": 180,
    "Recorded steps": 90,
    "LeNet-300-100": 150,
    "200 epochs": 100,
    "Sixteen runs": 120,
    "Products": 75,
    "Ladder": 60,
    "LeNet-5": 120,
    "VGG-like": 150,
    "Launches": 90,
}
Raw = dict[str, Any]


def share(one: Any, other: Any) -> float | None:
    """How many times the other is in the one; None where either is missing or was not measured."""
    numbers = all(isinstance(value, float | int) for value in (one, other))
    return one / other if numbers and other else None


def best_product(raw: Raw) -> float | None:
    """TFLOP/s of the fused forward product, with its better tile."""
    found = [row["tflops"] for name, row in raw.get("Products", {}).get("rows", {}).items() if "forward" in name]
    return max(found, default=None)


def cases(raw: Raw) -> str | None:
    """How many cases were right, where all were tried."""
    found = raw.get("Every operation", {})
    rows = found.get("rows", [])
    return f"{sum(row['ok'] for row in rows)} of {len(rows)}" if found.get("done") and rows else None


def targets(raw: Raw) -> list[tuple[str, str, str]]:
    """What is wanted; what was found; whether that will do."""
    steps, peak = raw.get("LeNet-300-100", {}).get("micros", {}), raw.get("Device", {}).get("peak_tflops")
    ours, eager, graph = (steps.get(who) for who in ("svd_numpy, recorded", "PyTorch, eager", "PyTorch, graph"))
    epochs, runs, recorded = (raw.get(name, {}) for name in ("200 epochs", "Sixteen runs", "Recorded steps"))
    whole = epochs.get("seconds") if epochs.get("data") == "mnist" and epochs.get("epochs") == 200 else None
    right = cases(raw)

    def row(wanted: str, value: float | None, text: str, good: Callable[[float], bool]) -> tuple[str, str, str]:
        return (wanted, "not measured", "") if value is None else (wanted, text.format(value), verdict(good(value)))

    def verdict(met: bool) -> str:
        return "met" if met else "**missed**"

    missing = ("not measured", "")
    return [
        ("every operation within 1e-5 of float64, and the same bits twice",
         *((f"{right} cases", verdict(len(set(right.split(" of "))) == 1)) if right else missing)),
        ("recorded steps have the bits of ordinary ones, while all changes that may change",
         *((("yes" if recorded["same_bits"] else "no"), verdict(recorded["same_bits"] and recorded["recorded"]))
           if "same_bits" in recorded else missing)),
        row("LeNet-300-100, batch 100: at most 100 µs a step", share(ours, 1), "{:.0f} µs", lambda v: v <= 100),
        row("at least 5 times as fast as PyTorch, eager", share(eager, ours), "{:.1f} times", lambda v: v >= 5),
        row("ahead of PyTorch in a CUDA graph", share(graph, ours), "{:.2f} times", lambda v: v > 1),
        row("200 epochs on MNIST within 15 s, compiling left out", share(whole, 1), "{:.1f} s", lambda v: v <= 15),
        row("4096³: at least 55 % of the float32 peak", share(best_product(raw), peak), "{:.0%}", lambda v: v >= 0.55),
        row("16 runs side by side: at most 3 times the step of one", runs.get("ratio"), "{:.2f} times",
            lambda v: v <= 3),
        ("a run among others has the bits of the run alone",
         *((("yes" if runs["same_bits"] else "no"), verdict(runs["same_bits"])) if "same_bits" in runs else missing)),
    ]  # fmt: skip


class Report:
    """What was found so far: the lines of each section, and the raw numbers."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.ends = path, time.monotonic() + 60 * minutes
        self.raw: Raw = {"command": " ".join(sys.argv), "date": time.strftime("%Y-%m-%d %H:%M")}
        self.sections: dict[str, list[str]] = {}

    def section(self, name: str, run: Callable[[str, float], Raw]) -> None:
        """Let `run` do one section within so many seconds, and keep what came of it."""
        print(f"--- {name}", flush=True)
        left, started = self.ends - time.monotonic(), time.monotonic()
        if left < 5:
            found: Raw = {"lines": ["Skipped: the time was up (`--minutes`)."], "raw": {}}
        else:
            found = run(name, min(LIMITS[name], left))
        self.sections[name] = [*found["lines"], "", f"({time.monotonic() - started:.0f} s)"]
        self.raw[name] = found["raw"]
        self.write()
        print("\n".join(self.sections[name]), flush=True)

    def text(self) -> str:
        """All of it as Markdown."""
        lines = ["# The CUDA backend on a device", "", f"Written by `benchmarks/gpu_check.py`, {self.raw['date']}.", ""]
        if "--trial" in self.raw["command"]:
            lines += ["A trial of the script with tiny sizes: its figures mean nothing.", ""]
        lines += ["| wanted | found | |", "|---|--:|---|"]
        lines += [f"| {' | '.join(row)} |" for row in targets(self.raw)]
        for name, section in self.sections.items():
            lines += ["", f"## {name}", "", *section]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Write both files."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(json.dumps(self.raw, indent=1) + "\n", encoding="utf-8")
        self.path.with_suffix(".md").write_text(self.text(), encoding="utf-8")


def run_apart(name: str, seconds: float, trial: bool = False, script: str = "gpu_sections.py") -> Raw:
    """Do a section in a process of its own; what it wrote until its end, or until its time was up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        command = [sys.executable, str(ROOT / "benchmarks" / script), name, str(path), *(["--trial"] if trial else [])]
        environment = {**os.environ, "SVD_NUMPY_OFFLINE": "1"}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            end = f"its process ended with status {code}" if (code := process.wait(seconds)) else ""
        except subprocess.TimeoutExpired:
            end = f"it was cut short after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the compilers that PyTorch may have started
            process.wait()
        found: Raw = json.loads(path.read_text()) if path.exists() else {"lines": [], "raw": {}}
        if end:
            found["lines"] += ["", f"**Not finished:** {end}."]
            found["raw"]["end"] = end
        return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu", help="path of the files, without their endings")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all sections together")
    parser.add_argument("--only", nargs="*", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument(
        "--trial", action="store_true", help="tiny sizes: does the script work? (the simulator will do)"
    )
    return parser.parse_args()


def main() -> int:
    if reason := detect.why_not():
        print(f"nothing to check: {reason}", file=sys.stderr)
        return 1
    arguments = parse_arguments()
    report = Report(arguments.out, arguments.minutes)
    for name in arguments.only:
        report.section(name, lambda name, seconds: run_apart(name, seconds, arguments.trial))
    print(report.text().split("\n## ")[0])
    missed = [row for row in targets(report.raw) if row[2] and row[2] != "met"]
    ended = [name for name in arguments.only if "end" in report.raw[name] or "failed" in report.raw[name]]
    return 1 if ended or (missed and not arguments.trial) else 0


if __name__ == "__main__":
    raise SystemExit(main())
