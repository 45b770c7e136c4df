"""The sections of `gpu_check.py`, each run as `python gpu_sections.py NAME FILE [--trial]` in a process of its own.

What is found is written to FILE line by line, so that a section that is cut short has left what it had.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from gpu_section import Section, distance, in_short  # noqa: E402  (its folder is named just above)
from gpu_timings import ladder, launches, products, replicas, steps, training  # noqa: E402

TOLERANCE = 1e-5  # norm of the difference to float64, relative to its norm
LANES = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}  # float32 units of a multiprocessor; 128 in those since


def highest_clock() -> float:
    """Highest clock of the multiprocessors in MHz."""
    from svd_numpy.kernels.cuda.device import cuda

    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return cuda.get_current_device().CLOCK_RATE / 1000


def facts(section: Section) -> None:
    """What the device is, and what it could do at best."""
    from svd_numpy.kernels.cuda.device import SIMULATED, cuda, description

    section.raw["device"] = description()
    section.line(f"{section.raw['device']}  ")
    for name in ("torch", "cupy"):
        try:
            section.raw[name] = str(__import__(name).__version__)
        except Exception as error:
            section.raw[name] = f"absent ({type(error).__name__})"
        section.line(f"{name}: {section.raw[name]}  ")
    if not SIMULATED:
        here = cuda.get_current_device()
        lanes, clock = LANES.get(tuple(here.compute_capability), 128), highest_clock()
        count = here.MULTIPROCESSOR_COUNT
        section.raw["peak_tflops"] = count * lanes * 2 * clock / 1e6
        section.line(
            f"float32 at most {section.raw['peak_tflops']:.1f} TFLOP/s: {count} multiprocessors x {lanes} "
            f"multiply-adds x {clock / 1000:.2f} GHz"
        )


def validate(section: Section) -> None:
    """Run every case: against float64, and twice for equal bits."""
    from gpu_cases import cases

    from svd_numpy.kernels.cuda.backend import CudaBackend
    from svd_numpy.kernels.reference import ReferenceBackend

    rows = section.raw["rows"] = []
    section.line("| case | error, relative to float64 | same bits twice |", "|---|--:|---|")
    for name, case in cases(section.trial):
        try:
            runs = [case(CudaBackend()) for _ in range(2)]
            exact = case(ReferenceBackend(np.float64))
            same = all(a.tobytes() == b.tobytes() for a, b in zip(*runs, strict=True))
            error = distance(runs[0], exact)
            sound = bool(same and error <= TOLERANCE)  # a NaN is not
            rows.append({"case": name, "error": error, "same_bits": same, "ok": sound})
            section.line(f"| {name} | {error:.1e}{'' if sound else ' **WRONG**'} | {'yes' if same else 'NO'} |")
        except Exception as error:
            rows.append({"case": name, "failed": traceback.format_exc(), "ok": False})
            section.line(f"| {name} | **FAILED**: {in_short(error, 200)} | |")
    section.raw["done"] = True
    section.line("", f"{len(rows)} cases, {sum(not row['ok'] for row in rows)} wrong (allowed: {TOLERANCE:g}).")


def recordings(section: Section) -> None:
    """Recorded steps against ordinary ones, bit by bit, while all changes that may change in a run."""
    from unittest import mock

    import svd_numpy as svd
    from svd_numpy.data import Dataset
    from svd_numpy.tabular.networks import estimate_noise
    from svd_numpy.train.cuda_runner import CudaRunner

    rows, inputs, hidden, batch = (8, 2, 2, 3) if section.trial else (970, 30, 70, 100)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    y = (x @ rng.standard_normal((inputs, 1)) + 0.3 * rng.standard_normal((rows, 1))).astype(np.float32)
    data = Dataset("line", x, y, x[:3], y[:3], None, 0, "made here")
    config = svd.TrainConfig(
        epochs=3, finetune_epochs=2, batch_size=batch, lr=0.01, train_mask=True, kl_schedule=((0.0, 0.0), (3.0, 1.0))
    )

    def trained() -> list[Any]:
        layers = (
            svd.VariationalDense(inputs, hidden), svd.BatchNorm(hidden), svd.ReLU(), svd.Dropout(0.2),
            svd.VariationalDense(hidden, 1),
        )  # fmt: skip
        model = svd.Sequential(*layers, backend="cuda", likelihood="gaussian")
        records = svd.fit(model, data, config, callbacks=[estimate_noise], progress=False)
        found = [(record["nll"], record["kl"], record["train_error"]) for record in records]
        return [*found, *(array.tobytes() for array in model.arrays().values()), model.likelihood]

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        recorded = trained()
    for one in said:
        section.line(f"Warning: {one.message}", "")
    with mock.patch.object(CudaRunner, "_record", lambda self, step: None):
        ordinary = trained()
    section.raw["recorded"], section.raw["same_bits"] = not said, recorded == ordinary
    same = "the same bits" if section.raw["same_bits"] else "**OTHER BITS**"
    section.line(
        f"Five epochs of a regression whose noise is estimated, recorded: {same} as step by step; std at the end "
        f"{recorded[-1].std:.4g} and {ordinary[-1].std:.4g}."
    )


SECTIONS: dict[str, Callable[[Section], None]] = {
    "Device": facts,
    "Every operation": validate,
    "Recorded steps": recordings,
    "LeNet-300-100": lambda section: steps(section, "LeNet-300-100"),
    "200 epochs": training,
    "Sixteen runs": replicas,
    "Products": products,
    "Ladder": ladder,
    "LeNet-5": lambda section: steps(section, "LeNet-5"),
    "VGG-like": lambda section: steps(section, "VGG-like"),
    "Launches": launches,
}


def main() -> None:
    name, path = sys.argv[1:3]
    section = Section(Path(path), "--trial" in sys.argv[3:])
    try:
        SECTIONS[name](section)
    except Exception as error:  # what was found before stays
        traceback.print_exc()
        section.raw["failed"] = traceback.format_exc()
        section.line("", f"**Not done:** {in_short(error, 500)}")


if __name__ == "__main__":
    main()
