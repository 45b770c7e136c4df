"""The fewest bytes: finished runs cut further, fine-tuned with rounded weights, and packed; every byte counts.

    python benchmarks/few_bytes.py runs/results/lenet-5-mnist-default-seed? --compression 283 350 --bits 3 4

Nothing in time. Each network loses the weights with the largest log alpha (`second_cut.py`) until it is as small as
asked for; its mean image is rounded, and what is left is fine-tuned with weights and biases of so many bits
(`TrainConfig.finetune_bits`), its images shifted by up to a pixel. Of all settings, that with the smallest files is
chosen whose error on the *training* images, measured on the packed networks, is within `--tolerance` of the one before;
only its files see the test images. Goes on where it was stopped, in `runs/few-bytes`; writes `results/few-bytes.md` and
`.json`.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from machine import command_line, describe, one_line
from second_cut import cut

import svd_numpy as svd
from svd_numpy.experiments.run_files import load_log_alphas, recorded_dataset
from svd_numpy.experiments.series import mean_sd
from svd_numpy.files import checkpoint
from svd_numpy.files.atomic import write_atomic
from svd_numpy.train.rounding import best_step

ROOT, OUT = Path("runs/few-bytes"), Path(__file__).parent / "results" / "few-bytes"
_HEAD = ("compression", "bits", "training error %", "bytes", "every byte", "weights", "bits per weight", "test error %")


def round_mean(model: svd.Sequential, bits: int) -> None:
    """Round the image that the network subtracts."""
    step = best_step(model.input_mean, bits)
    model.input_mean[:] = np.rint(model.input_mean / step) * step


def wrong(net: svd.SparseModel, x: Any, y: Any) -> float:
    """Share of images taken for something else."""
    return float(np.mean(net.predict(x).argmax(axis=1) != y))


def run_one(run: Path, compression: float, bits: int, epochs: int, data: svd.Dataset) -> dict[str, Any]:
    """Cut, fine-tune and pack one network."""
    seed = json.loads((run / "result.json").read_text())["seed"]
    model = svd.Sequential.load(run / "model.safetensors")
    before = wrong(svd.compress(model), data.x_train, data.y_train)
    cut(model, load_log_alphas(run / "log_alpha.npz")[0], compression)
    round_mean(model, bits)
    folder = ROOT / f"{run.name}-{compression:g}x-{bits}bits-{epochs}epochs"
    config = svd.TrainConfig(
        epochs=0, finetune_epochs=epochs, finetune_bits=bits, shift=1, seed=seed, remove_above=50, eval_every=0
    )
    resume = checkpoint.latest(folder / "checkpoints") is not None
    svd.fit(model, data, config, run_dir=folder, resume=resume)
    small = svd.compress(model)
    size = svd.save_packed(folder / "network.svdz", small)
    counted = svd.sizes(small)
    return {
        "run": run.name, "compression": compression, "bits": bits, "file": str(folder / "network.svdz"),
        "before": before, "train": wrong(svd.load_packed(folder / "network.svdz"), data.x_train, data.y_train),
        "bytes": size, "times": counted["packed file"].ratio, "weights": int(counted["weights"].after),
    }  # fmt: skip


def choose(settings: dict[tuple[float, int], list[dict[str, Any]]], tolerance: float) -> tuple[float, int] | None:
    """The setting with the smallest files among those that cost little on the training images."""
    good = {
        setting: mean(row["bytes"] for row in rows)
        for setting, rows in settings.items()
        if mean(row["train"] - row["before"] for row in rows) <= tolerance
    }
    return min(good, key=lambda setting: good[setting]) if good else None


def page(settings: dict[tuple[float, int], list[dict[str, Any]]], options: argparse.Namespace) -> str:
    """The table: a line for each setting, mean and standard deviation over the runs."""
    names = ", ".join(run.name for run in options.runs)
    before = mean_sd([100 * row["before"] for row in next(iter(settings.values()))], 2)
    lines = [
        "# The fewest bytes",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}",
        f"* Runs: {names}; their error on the training images before: {before} %",
        f"* Cut in the order of log alpha, then {options.epochs} epochs of fine-tuning with rounded weights.",
        "* *every byte*: float32 weights and biases of the whole network / the packed file.",
        f"* Chosen: the smallest files within {100 * options.tolerance:g} points on the training images; only they "
        "were measured on the test images.",
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---" * len(_HEAD) + "|",
    ]
    for (compression, bits), rows in settings.items():
        test = [100 * row["test"] for row in rows if "test" in row]
        cells = [
            f"{compression:g}x", str(bits), mean_sd([100 * row["train"] for row in rows], 2),
            mean_sd([row["bytes"] for row in rows], 0), f"{mean_sd([row['times'] for row in rows], 0)}x",
            mean_sd([row["weights"] for row in rows], 0),
            mean_sd([8 * row["bytes"] / row["weights"] for row in rows], 1), f"**{mean_sd(test, 2)}**" if test else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Do all runs and write the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--compression", nargs="+", type=float, default=[350])
    parser.add_argument("--bits", nargs="+", type=int, default=[4])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--tolerance", type=float, default=0.003, help="share of the training images")
    options = parser.parse_args()
    data = svd.load(recorded_dataset(options.runs[0]))
    settings = {
        (compression, bits): [run_one(run, compression, bits, options.epochs, data) for run in options.runs]
        for compression, bits in product(options.compression, options.bits)
    }
    for row in settings.get(choose(settings, options.tolerance) or (0, 0), []):
        row["test"] = wrong(svd.load_packed(row["file"]), data.x_test, data.y_test)
    text, rows = page(settings, options), [row for of in settings.values() for row in of]
    write_atomic(OUT.with_suffix(".md"), text.encode())
    write_atomic(OUT.with_suffix(".json"), json.dumps({"machine": describe(), "rows": rows}, indent=1).encode())
    print(text)


if __name__ == "__main__":
    main()
