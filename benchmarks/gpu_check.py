"""Check and time the CUDA backend on the device at hand: `make gpu-check`.

Every section stands alone: what fails or cannot be done is named in the table, with the reason, and the next one
follows. The files are written anew after each section, so that a run that is cut short has left what it found.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from svd_numpy.kernels.cuda import detect  # noqa: E402  (its folder is named just above)

TOLERANCE = 1e-5  # norm of the difference to float64, relative to its norm


class Report:
    """What was found so far: a heading and lines for each section, and the raw numbers."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.ends = path, time.monotonic() + 60 * minutes
        self.raw: dict[str, Any] = {"command": " ".join(sys.argv), "date": time.strftime("%Y-%m-%d %H:%M")}
        self.lines = [
            "# The CUDA backend on a device",
            "",
            f"Written by `benchmarks/gpu_check.py`, {self.raw['date']}.",
        ]

    def section(self, name: str, do: Callable[[Report], Any]) -> None:
        """Do one section, or say why it was not done."""
        self.lines += ["", f"## {name}", ""]
        print(f"--- {name}", flush=True)
        started, seen = time.monotonic(), len(self.lines)
        if started > self.ends:
            self.lines.append("Skipped: the time was up (`--minutes`).")
        else:
            try:
                self.raw[name] = do(self)
            except Exception as error:  # one section must not take the others with it
                self.lines.append(f"Not done: {type(error).__name__}: {str(error)[:500]}")
                self.raw[name] = {"failed": traceback.format_exc()}
        print("\n".join(self.lines[seen:]), f"\n({time.monotonic() - started:.0f} s)", flush=True)
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(json.dumps(self.raw, indent=1) + "\n", encoding="utf-8")
        self.path.with_suffix(".md").write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def import_torch() -> Any:
    """PyTorch, where it is there and sees the device."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32, as ours
    return torch


def seconds_of(work: Callable[[], object], wait: Callable[[], object], budget: float = 1.0) -> float:
    """Median seconds of a call, over blocks that are long enough to time; `wait` lets the device finish."""
    work()
    wait()
    started = time.perf_counter()
    work()
    wait()
    calls = max(1, int(0.05 / max(1e-6, time.perf_counter() - started)))
    blocks, ends = [], time.perf_counter() + budget
    while len(blocks) < 3 or time.perf_counter() < ends:
        started = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        blocks.append((time.perf_counter() - started) / calls)
    return statistics.median(blocks)


def facts(report: Report) -> dict[str, str]:
    from svd_numpy.kernels.cuda.device import description

    found = {"device": description()}
    for name in ("torch", "cupy"):
        try:
            found[name] = str(__import__(name).__version__)
        except Exception as error:
            found[name] = f"absent ({type(error).__name__})"
    report.lines += [f"{name}: {value}  " for name, value in found.items()]
    return found


def validate(report: Report) -> list[dict[str, Any]]:
    """Run every case: against float64, and twice for equal bits."""
    from gpu_cases import cases

    from svd_numpy.kernels.cuda.backend import CudaBackend
    from svd_numpy.kernels.reference import ReferenceBackend

    rows = []
    report.lines += ["| case | error, relative to float64 | same bits twice |", "|---|--:|---|"]
    for name, case in cases(ARGUMENTS.trial):
        try:
            runs = [case(CudaBackend()) for _ in range(2)]
            exact = case(ReferenceBackend(np.float64))
            same = all(a.tobytes() == b.tobytes() for a, b in zip(*runs, strict=True))
            error = max(
                float(np.linalg.norm((a - b).ravel()) / max(np.linalg.norm(b.ravel()), 1e-30))
                for a, b in zip(runs[0], exact, strict=True)
            )
            sound = same and error <= TOLERANCE  # a NaN is not
            rows.append({"case": name, "error": error, "same_bits": same, "ok": sound})
            verdict = "" if sound else " **WRONG**"
            report.lines.append(f"| {name} | {error:.1e}{verdict} | {'yes' if same else 'NO'} |")
        except Exception as error:
            rows.append({"case": name, "failed": traceback.format_exc(), "ok": False})
            report.lines.append(f"| {name} | **FAILED**: {type(error).__name__}: {str(error)[:200]} | |")
    wrong = sum(not row["ok"] for row in rows)
    report.lines += ["", f"{len(rows)} cases, {wrong} wrong (allowed: {TOLERANCE:g})."]
    return rows


def products(report: Report) -> dict[str, Any]:
    """The fused products at one large size, with every tile; and cuBLAS, for the same work."""
    from svd_numpy.kernels.cuda import product, tables
    from svd_numpy.kernels.cuda.device import F, U, cuda

    size, found = 64 if ARGUMENTS.trial else 4096, {}
    rng = np.random.default_rng(0)
    a, b, c, d = (cuda.to_device(rng.standard_normal(size * size).astype(np.float32)) for _ in range(4))
    s = cuda.to_device(rng.uniform(-8, 0, size * size).astype(np.float32))
    y, r = (cuda.device_array(size * size, np.float32) for _ in range(2))
    clock, words = cuda.to_device(np.zeros(2, np.uint32)), tuple(U(v) for v in range(5))
    operands = {"forward": (a, a, b, s), "inputs": (a, c, b, s), "weights": (a, a, c, d)}
    report.lines += [f"{size}³, counting 4 M N K operations.", "", "| what | ms | TFLOP/s |", "|---|--:|--:|"]

    def enter(name: str, seconds: float) -> None:
        found[name] = {"ms": 1e3 * seconds, "tflops": 4 * size**3 / seconds / 1e12}
        report.lines.append(f"| {name} | {1e3 * seconds:.3f} | {found[name]['tflops']:.1f} |")

    for role, (a1, a2, b1, b2) in operands.items():
        at = getattr(tables, role)(size, size, size, None)
        row, column, starts = (cuda.to_device(table) for table in (at.row, at.column, at.b))
        for name, tile in product.TILES.items():
            grid = math.ceil(size / tile.bm), math.ceil(size / tile.bn), 1
            args = (a1, a2, row, column, b1, b2, starts, U(at.b_step), F(0), U(size), U(size), U(size), U(size), y, r)
            args += (b, U(1), U(0), words, clock)
            kernel = product.PRODUCTS[role, True, False, name]
            enter(
                f"{role}, {name} tile {tuple(tile)}",
                seconds_of(lambda k=kernel, g=grid, t=tile, v=args: k.launch(g, t.threads, v), cuda.synchronize),
            )
    torch = import_torch()
    x, theta, sigma2, out = (torch.randn(size, size, device="cuda") for _ in range(4))

    def two_products() -> None:
        torch.mm(x, theta, out=out)
        torch.mm(x * x, sigma2, out=out)

    for name, tf32 in (("two cuBLAS SGEMMs and the squaring", False), ("the same in TF32", True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        enter(name, seconds_of(two_products, torch.cuda.synchronize))
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def ladder(report: Report) -> dict[str, Any]:
    """Time the rungs of `cuda_ladder.py`; the last is in the section on products."""
    import cuda_ladder

    from svd_numpy.kernels.cuda.device import cuda

    size, found = 16 if ARGUMENTS.trial else 2048, {}
    small = (13, 21, 9)
    report.lines += [f"{size}³.", "", "| rung | error | ms | TFLOP/s |", "|---|--:|--:|--:|"]
    for name in cuda_ladder.RUNGS:
        rng = np.random.default_rng(0)
        m, n, k = small
        x, b1, b2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n), (k, n)))
        arrays = [cuda.to_device(v.ravel()) for v in (x, b1, b2)]
        outs = [cuda.to_device(np.full(m * n, np.nan, np.float32)) for _ in range(2)]
        cuda_ladder.run(name, small, (*arrays, *outs))
        x, b1, b2 = (v.astype(np.float64) for v in (x, b1, b2))
        error = max(
            float(np.linalg.norm(out.copy_to_host() - exact.ravel()) / np.linalg.norm(exact))
            for out, exact in zip(outs, (x @ b1, (x * x) @ b2), strict=True)
        )
        large = [cuda.to_device(rng.standard_normal(size * size).astype(np.float32)) for _ in range(5)]
        seconds = seconds_of(
            lambda rung=name, v=tuple(large): cuda_ladder.run(rung, (size,) * 3, v), cuda.synchronize, 0.5
        )
        found[name] = {"error": error, "ms": 1e3 * seconds, "tflops": 4 * size**3 / seconds / 1e12}
        report.lines.append(f"| {name} | {error:.1e} | {1e3 * seconds:.3f} | {found[name]['tflops']:.2f} |")
    return found


def trainer_of(arch: str, batch: int) -> Any:
    """Make a trainer on the workload's images, theta started as in the peers."""
    from dataclasses import replace

    from workload import INITIAL_LOG_SIGMA2, TASKS, load_workload

    from svd_numpy.data import Dataset
    from svd_numpy.experiments import architectures
    from svd_numpy.experiments.recipes import get_recipe
    from svd_numpy.train import TrainConfig, Trainer

    work = load_workload(arch, floats=False)
    shape = TASKS[arch].image_shape
    data = Dataset("workload", work.images, work.labels, work.images[:100], work.labels[:100], shape, 10, "")
    recipe = replace(get_recipe("lenet-5", "paper"), arch=arch, theta_std=None, log_sigma2=INITIAL_LOG_SIGMA2)
    model = architectures.build(data, recipe, 0, "cuda")
    return Trainer(model, data, TrainConfig(epochs=10**6, batch_size=batch))


def steps(report: Report) -> dict[str, Any]:
    """Microseconds of a step, ours as it is and recorded, and PyTorch's."""
    from svd_numpy.ahead import Ahead
    from svd_numpy.kernels.cuda.device import cuda

    found: dict[str, Any] = {}
    report.lines += ["| network, batch | who | µs a step |", "|---|---|--:|"]

    def enter(arch: str, who: str, measure: Callable[[], float]) -> None:
        try:
            micros: float | str = 1e6 * measure()
            text = f"{micros:.0f}"
        except Exception as error:
            micros = traceback.format_exc()
            text = f"not done: {type(error).__name__}: {str(error)[:150]}"
        found[f"{arch}, {who}"] = micros
        report.lines.append(f"| {arch}, 100 | {who} | {text} |")
        print(report.lines[-1], flush=True)

    for arch in ("lenet-300-100",) if ARGUMENTS.trial else ("lenet-300-100", "lenet-5", "vgg-like"):

        def ours(arch: str = arch) -> float:
            return seconds_of(trainer_of(arch, 100).step, cuda.synchronize)

        def recorded(arch: str = arch) -> float:
            ahead = Ahead(trainer_of(arch, 100))
            ahead.advance()
            if ahead.recordings[False] is None:
                raise RuntimeError("the step could not be recorded (see the warning)")
            while ahead.trainer.progress.step < 200:
                ahead.advance()
            start, started = ahead.trainer.progress.step, time.perf_counter()
            while time.perf_counter() < started + 2:
                ahead.advance()  # returns when the device is done
            return (time.perf_counter() - started) / (ahead.trainer.progress.step - start)

        enter(arch, "svd_numpy, step by step", ours)
        enter(arch, "svd_numpy, recorded", recorded)
        for way in ("eager", "by hand", "compile", "graph"):
            if way == "by hand" and arch != "lenet-300-100":
                continue

            def peer(arch: str = arch, way: str = way) -> float:
                torch = import_torch()
                import gpu_torch

                return seconds_of(gpu_torch.make_step(arch, 100, way), torch.cuda.synchronize)

            enter(arch, f"PyTorch, {way}", peer)
    return found


def training(report: Report) -> dict[str, Any]:
    """LeNet-300-100 for the paper's 200 epochs, end to end."""
    from svd_numpy import train_mnist

    epochs = 1 if ARGUMENTS.trial else 200
    started = time.perf_counter()
    result = train_mnist(recipe="paper", epochs=epochs, backend="cuda", eval_every=0, progress=False)
    seconds, last = time.perf_counter() - started, result.history[-1]
    found = {
        "epochs": epochs,
        "seconds": seconds,
        "seconds_after_the_first_epoch": last["seconds"] - result.history[0]["seconds"],
        "data": result.data.name,
        **{name: last[name] for name in ("nll", "test_error", "compression", "sparsity")},
    }
    report.lines.append(
        f"{epochs} epochs on {found['data']}: {seconds:.1f} s with compiling and loading, "
        f"{found['seconds_after_the_first_epoch']:.1f} s after the first epoch; test error "
        f"{100 * found['test_error']:.2f} %, compression {found['compression']:.1f}."
    )
    return found


def replicas(report: Report) -> dict[str, str]:
    reason = "several runs in one set of launches are not implemented"
    report.lines.append(f"Skipped: {reason}.")
    return {"skipped": reason}


SECTIONS: dict[str, Callable[[Report], Any]] = {
    "Device": facts,
    "Every operation": validate,
    "Steps": steps,
    "Training": training,
    "Products": products,
    "Ladder": ladder,
    "Replicas": replicas,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu", help="path of the files, without their endings")
    parser.add_argument("--minutes", type=float, default=8.0, help="no section begins later")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument(
        "--trial", action="store_true", help="tiny sizes: does the script work? (the simulator will do)"
    )
    return parser.parse_args()


def main() -> int:
    if reason := detect.why_not():
        print(f"nothing to check: {reason}", file=sys.stderr)
        return 1
    report = Report(ARGUMENTS.out, ARGUMENTS.minutes)
    for name in ARGUMENTS.only:
        report.section(name, SECTIONS[name])
    checked = report.raw.get("Every operation", [])
    return 0 if isinstance(checked, list) and all(row["ok"] for row in checked) else 1


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()
    raise SystemExit(main())
