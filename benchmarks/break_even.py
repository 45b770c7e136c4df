"""Where sparsity does not pay: one dense layer of random weights, in both forms and in NumPy, by density.

Writes results/break_even.md, .json and .png, and what `svd_numpy.sparse.cost` should say on this machine. One thread;
run it on a quiet machine.  ``python benchmarks/break_even.py --help``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # svd_numpy of this checkout

import numpy as np
from machine import describe, one_line
from numpy.typing import NDArray

from svd_numpy.network.objective import Categorical
from svd_numpy.sparse import DenseOp, SparseModel, TakeOp, Weights
from svd_numpy.sparse.ops import Form

SHAPES = ((64, 64), (300, 100), (784, 300), (1000, 1000))
BATCHES = (1, 16, 64, 640)
DENSITIES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
BLAS = "NumPy (BLAS)"
Array = NDArray[Any]


def random_matrix(shape: tuple[int, int], density: float) -> Array:
    """Weights of which a random part is kept."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) * (rng.random(shape) < density)).astype(np.float32)


def layer(matrix: Array, form: Form) -> SparseModel:
    """A network of one layer, its weights in the given form."""
    inputs, outputs = matrix.shape
    index = np.arange(inputs, dtype=np.int32)
    take = TakeOp("input", (inputs,), (inputs,), index, None)
    op = DenseOp("dense", matrix.shape, index, Weights.from_matrix(matrix, form), np.zeros(outputs, np.float32), True)
    return SparseModel([take, op], Categorical())


def in_numpy(matrix: Array) -> Callable[[Array], Array]:
    """The same layer, zeros and all, as anybody would write it."""

    def predict(x: Array) -> Array:
        y = x @ matrix
        return np.maximum(y, 0, out=y)

    return predict


def fastest(predicts: dict[str, Callable[[Array], Array]], x: Array, seconds: float) -> dict[str, float]:
    """Microseconds of the fastest call of each, in turn for `seconds` each."""
    best = dict.fromkeys(predicts, float("inf"))
    for predict in predicts.values():
        predict(x)
    end = time.perf_counter() + seconds * len(predicts)
    while time.perf_counter() < end:
        for name, predict in predicts.items():
            start = time.perf_counter_ns()
            predict(x)
            best[name] = min(best[name], (time.perf_counter_ns() - start) / 1e3)
    return best


def measure(shape: tuple[int, int], batch: int, seconds: float) -> dict[str, Any]:
    """Time one shape and batch at all densities."""
    x = np.random.default_rng(1).random((batch, shape[0]), dtype=np.float32)
    predicts: dict[str, Callable[[Array], Array]] = {
        "empty": layer(random_matrix(shape, 0.0), "sparse").predict,
        "dense": layer(random_matrix(shape, 1.0), "dense").predict,
        BLAS: in_numpy(random_matrix(shape, 1.0)),
    }
    predicts |= {f"{density}": layer(random_matrix(shape, density), "sparse").predict for density in DENSITIES}
    times = fastest(predicts, x, seconds)
    sparse = [times[f"{density}"] for density in DENSITIES]
    row = {"shape": list(shape), "batch": batch, "dense": times["dense"], "blas": times[BLAS], "empty": times["empty"]}
    return row | {
        "sparse": sparse,
        "even": crossing(sparse, times["dense"]),
        "even_blas": crossing(sparse, times[BLAS]),
    }


def crossing(sparse: Sequence[float], other: float) -> float | None:
    """The density at which the sparse form takes as long as another one; None where it is faster at all densities."""
    if sparse[-1] <= other:
        return None
    return float(np.interp(other, np.maximum.accumulate(sparse), DENSITIES))


def dense_share(rows: Sequence[dict[str, Any]]) -> float:
    """Time of a weight in the dense form / of a kept one in the sparse form, in batches: the median."""
    whole = [row for row in rows if row["batch"] >= 64]
    return statistics.median((row["dense"] - row["empty"]) / (row["sparse"][-1] - row["empty"]) for row in whole)


def markdown(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return the page."""
    columns = [
        "layer",
        "batch",
        BLAS,
        "dense form",
        *(f"{density:.0%}" for density in DENSITIES),
        "even",
        "even, NumPy",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        times = [row["blas"], row["dense"], *row["sparse"]]
        evens = ["never" if even is None else f"{even:.0%}" for even in (row["even"], row["even_blas"])]
        cells = [f"{row['shape'][0]} x {row['shape'][1]}", str(row["batch"]), *(f"{t:.1f}" for t in times), *evens]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            "# Where sparsity does not pay",
            "",
            f"* Machine: {one_line(facts['machine'])}; one thread",
            f"* Command: `{facts['command']}`, {facts['date']}",
            "* Microseconds of the fastest call for one dense layer with ReLU: by BLAS, in the dense form, and in the"
            " sparse form with so many of the weights kept. *Even* is the density from which on the sparse form is the"
            " slower one.",
            f"* `DENSE_SHARE` here: {facts['dense_share']:.2f} (`svd_numpy/sparse/cost.py`)",
            "",
            *lines,
            "",
            "![Break-even](break_even.png)",
            "",
        ]
    )


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the time of the sparse form over that of the faster dense one, by density."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(BATCHES), figsize=(3.2 * len(BATCHES), 3.2), sharey=True, layout="constrained")
    for panel, batch in zip(panels, BATCHES, strict=True):
        for row in (row for row in rows if row["batch"] == batch):
            best = min(row["dense"], row["blas"])
            panel.plot(
                DENSITIES, [t / best for t in row["sparse"]], marker=".", label=" x ".join(map(str, row["shape"]))
            )
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set(xscale="log", yscale="log", xlabel="weights kept", title=f"batch {batch}")
    panels[0].set_ylabel("time / best dense time")
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each cell of the table")
    out = Path(__file__).with_name("results")
    parser.add_argument("--out", type=Path, default=out, help="folder of break_even.md, .json and .png")
    options = parser.parse_args(arguments)
    rows = []
    for shape in SHAPES:
        for batch in BATCHES:
            rows.append(measure(shape, batch, options.seconds))
            print(rows[-1], flush=True)
    facts = {
        "machine": describe(),
        "command": "python benchmarks/break_even.py " + " ".join(sys.argv[1:] if arguments is None else arguments),
        "date": datetime.date.today().isoformat(),
        "densities": DENSITIES,
        "dense_share": dense_share(rows),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "break_even.md").write_text(markdown(rows, facts), encoding="utf-8")
    (options.out / "break_even.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    picture(rows, options.out / "break_even.png")
    print(f"written: {options.out / 'break_even'}.md, .json and .png")


if __name__ == "__main__":
    main()
