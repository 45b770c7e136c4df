"""What a newcomer waits for: the import, and the first training step with a cold and a warm kernel cache.

    python benchmarks/startup.py --rounds 5

Every figure is a fresh process. Import: seconds over importing NumPy alone. First step: building
LeNet-300-100, compiling or loading the kernels, and one step of batch 100 on random images.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe, one_line

OUT = Path(__file__).parent / "results"
IMPORT = "import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
FIRST_STEP = """
import time
import numpy as np
import svd_numpy as svd
from svd_numpy.train.trainer import Trainer
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (1000, 784), dtype=np.uint8), rng.integers(0, 10, 1000)
data = svd.Dataset("random", x, y, x, y, (1, 28, 28), 10, "")
start = time.perf_counter()
model = svd.Sequential(svd.VariationalDense(784, 300), svd.ReLU(), svd.VariationalDense(300, 100), svd.ReLU(),
                       svd.VariationalDense(100, 10), backend="numba")
trainer = Trainer(model, data, svd.TrainConfig())
trainer.step()
print(time.perf_counter() - start)
"""


def seconds(code: str, cache: str) -> float:
    """Run `code` in a fresh process; it prints its own seconds last."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and write results/startup.md and .json."""
    parser = argparse.ArgumentParser(description="import time and first training step, cold and warm")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    figures: dict[str, list[float]] = {"import numpy": [], "import svd_numpy": [], "cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            figures["import numpy"].append(seconds(IMPORT.format(name="numpy"), cache))
            figures["import svd_numpy"].append(seconds(IMPORT.format(name="numpy, svd_numpy"), cache))
            figures["cold"].append(seconds(FIRST_STEP, cache))
            figures["warm"].append(seconds(FIRST_STEP, cache))
    median = {name: statistics.median(values) for name, values in figures.items()}
    over_numpy = 1000 * (median["import svd_numpy"] - median["import numpy"])
    text = [
        "# Start-up",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: `python benchmarks/startup.py --rounds {rounds}`, {datetime.date.today().isoformat()}; medians",
        "",
        "| what | seconds |",
        "|---|---|",
        f"| `import numpy` | {median['import numpy']:.3f} |",
        f"| `import svd_numpy` on top | {over_numpy / 1000:.3f} |",
        f"| first training step, kernels compiled (cold cache) | {median['cold']:.1f} |",
        f"| first training step, kernels loaded (warm cache) | {median['warm']:.2f} |",
        "",
    ]
    OUT.mkdir(exist_ok=True)
    (OUT / "startup.md").write_text("\n".join(text))
    (OUT / "startup.json").write_text(json.dumps(figures, indent=1))
    print("\n".join(text))


if __name__ == "__main__":
    main()
