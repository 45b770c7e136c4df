"""Do all forms of a network give the same outputs? Pruned dense, compact, NumPy alone, ONNX, on all MNIST test images.

    python benchmarks/agreement.py RUN...          run folders of finished runs; writes results/agreement.md and .json

ONNX needs the extra `test` (onnx, onnxruntime).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from machine import command_line, describe, one_line

import svd_numpy as svd

READ = "import numpy as np, net_reader; np.save('y.npy', net_reader.load('net.npz')(np.load('x.npy')))"


def by_reader(small: svd.SparseModel, x: Any, folder: Path) -> Any:
    """Outputs of the exported network, in a process that does not import svd_numpy."""
    small.export_numpy(folder / "net.npz")
    np.save(folder / "x.npy", x)
    subprocess.run([sys.executable, "-c", READ], cwd=folder, check=True)
    return np.load(folder / "y.npy")


def by_onnx(small: svd.SparseModel, x: Any, folder: Path, sparse: bool) -> Any:
    """Outputs of the exported graph in onnxruntime."""
    svd.export_onnx(small, folder / "net.onnx", sparse=sparse)
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"))
    return session.run(None, {session.get_inputs()[0].name: x.astype(np.float32) / np.float32(255)})[0]


def compare(run: Path) -> list[dict[str, Any]]:
    """Largest difference of every form from the pruned network, relative to its largest output."""
    model = svd.Sequential.load(run / "model.safetensors")
    data = svd.load("mnist")
    x = data.x_test.reshape(-1, *model.in_shape)
    wanted, small = model.predict(x), svd.compress(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        outputs = {
            "compact, Numba": small.predict(x),
            "compact, NumPy": svd.SparseModel(small.ops, small.likelihood, "numpy").predict(x),
            "net_reader.py alone": by_reader(small, x, folder),
            "ONNX": by_onnx(small, x, folder, False),
            "ONNX, sparse": by_onnx(small, x, folder, True),
        }
    return [
        {
            "run": run.name,
            "form": form,
            "difference": float(np.abs(y - wanted).max() / np.abs(wanted).max()),
            "other_classes": int((y.argmax(axis=1) != wanted.argmax(axis=1)).sum()),
            "images": len(x),
        }
        for form, y in outputs.items()
    ]


def main() -> None:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("runs", type=Path, nargs="+")
    rows, facts = [row for run in parser.parse_args().runs for row in compare(run)], describe()
    text = [
        "# The same outputs in every form",
        "",
        f"* Machine: {one_line(facts)}",
        f"* Command: {command_line()}",
        "* Largest difference from the pruned dense network's outputs, relative to the largest, on all test images.",
        "",
        "| run | form | largest difference | images with another class |",
        "|---|---|---|---|",
        *(
            f"| {row['run']} | {row['form']} | {row['difference']:.1e} | {row['other_classes']} of {row['images']:,} |"
            for row in rows
        ),
        "",
    ]
    out = Path(__file__).parent / "results" / "agreement"
    out.with_suffix(".md").write_text("\n".join(text))
    out.with_suffix(".json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1))
    print("\n".join(text))


if __name__ == "__main__":
    main()
