"""How to fine-tune the survivors: with images moved or as they are, with noise or without; on held-out images.

    python benchmarks/search_finetuning.py lenet-300-100 fashion fashion-unshifted
    python benchmarks/search_finetuning.py lenet-5 --compression 350 --ways still

Each network is trained once with its recipe on 50,000 images (lenet-5: 55,000), without fine-tuning. From its end, the
weights with the lowest log alpha are kept, as many as each compression leaves, and fine-tuned in every way; errors are
those of the images held out. The test images take no part. Runs are kept in `--folder`; adds to
`results/search-finetuning.md` and `.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import add_rows, head
from results import LIGHT, Variant
from second_cut import threshold_for

import svd_numpy as svd
from svd_numpy.experiments.series import begun
from svd_numpy.kernels.priors import log_alpha
from svd_numpy.sparse.storage.quantisation import error_of

OUT = Path(__file__).parent / "results" / "search-finetuning"
_HEAD = ("network", "data", "trained", "compression", "fine-tuned", "training error %", "error %", "compression then")


@dataclass(frozen=True)
class Base:
    """A network to be fine-tuned: how `train_mnist` makes it, and how often and how long."""

    variant: Variant = field(default_factory=Variant)
    arch: str = "lenet-300-100"
    dataset: str = "mnist"
    held_out: int = 10_000
    compressions: tuple[float, ...] = (60, 80, 100)
    epochs: int = 20


BASES = {
    "lenet-300-100": Base(compressions=(106,)),
    "lenet-5": Base(arch="lenet-5", held_out=5_000, compressions=(350,), epochs=30),
    "fashion": Base(Variant(changes={"kl_schedule": LIGHT}), dataset="fashion-mnist"),
    "fashion-unshifted": Base(Variant(changes={"shift": 0}), dataset="fashion-mnist"),
}
NOISE = {"finetune_kl": 0.1}
WAYS: dict[str, dict[str, Any]] = {
    "moved": {},
    "still": {"finetune_moves": False},
    "moved, noise": NOISE,
    "still, noise": NOISE | {"finetune_moves": False},
}


def trained(name: str, folder: Path) -> tuple[Path, svd.Dataset]:
    """Train a network without fine-tuning, or find it trained; return its run folder, and its images as it saw them."""
    base, run = BASES[name], folder / name
    whole = svd.load(base.dataset)
    if not (run / "result.json").exists():
        svd.train_mnist(
            arch=base.arch, dataset=base.dataset, held_out=base.held_out / len(whole.y_train), seed=0, run_dir=run,
            changes={"finetune_epochs": 0, **base.variant.changes}, resume=begun(run), progress=False,
        )  # fmt: skip
    return run, whole.split(base.held_out)


def measure(name: str, run: Path, data: svd.Dataset, compression: float, way: str) -> dict[str, Any]:
    """Fine-tune one network in one way."""
    base, model = BASES[name], svd.Sequential.load(run / "model.safetensors")
    assert data.x_valid is not None
    assert data.y_valid is not None
    found = [log_alpha(layer.theta, layer.log_sigma2).ravel() for layer in model.variational_layers]
    threshold = threshold_for(np.concatenate(found), compression)
    config = svd.TrainConfig(
        epochs=0, finetune_epochs=2 * base.epochs if "noise" in way else base.epochs, remove_above=50,
        shift=base.variant.changes.get("shift", 1), finetune_threshold=threshold, **WAYS[way],
    )  # fmt: skip
    last = svd.fit(model, data, config, progress=False)[-1]
    return {
        "name": name, "compression": compression, "way": way, "then": last["compression"], "train": last["train_error"],
        "error": error_of(model, data.x_valid, data.y_valid),
    }  # fmt: skip


def page(commands: list[str], rows: list[dict[str, Any]]) -> str:
    """The table: a line for each way."""
    lines = [
        *head("Ways to fine-tune, on held-out images", commands),
        "* One run of each network, seed 0; the standard error of an error is about 0.3 points for fashion-mnist and "
        "0.1 for mnist, that of the difference between two ways less.",
        f"* *moved*: images shifted in the fine-tuning, too; *still*: as they are; *noise*: {NOISE}, twice as long.",
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---" * len(_HEAD) + "|",
    ]
    for row in rows:
        base = BASES[row["name"]]
        cells = [
            base.arch, base.dataset, base.variant.difference() or "as the recipe says", f"{row['compression']:g}x",
            row["way"], f"{100 * row['train']:.2f}", f"{100 * row['error']:.2f}", f"{row['then']:.1f}x",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(words: Sequence[str] | None = None) -> None:
    """Do all that is asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", choices=tuple(BASES))
    parser.add_argument("--compression", nargs="+", type=float, help="default: those of the network")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--folder", type=Path, default=Path("runs/search-finetuning"))
    options = parser.parse_args(words)
    new = dict[str, Any]()
    for name in options.networks:
        run, data = trained(name, options.folder)
        for compression, way in product(options.compression or BASES[name].compressions, options.ways):
            new[f"{name} {compression:g} {way}"] = row = measure(name, run, data, compression, way)
            print(row, flush=True)
    names, ways = list(BASES), list(WAYS)
    add_rows(OUT, new, page, lambda row: (names.index(row["name"]), row["compression"], ways.index(row["way"])))


if __name__ == "__main__":
    main()
