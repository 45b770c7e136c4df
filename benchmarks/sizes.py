"""How small trained networks get, counted in the way of every paper.

    python benchmarks/sizes.py runs/results/mnist-default-seed* runs/results/lenet-5-mnist-paper-seed*

Each run folder is pruned, compacted, rounded to as few bits as its error on the training images allows, and packed. The
test images are looked at only to report the errors. Writes results/sizes.md and sizes.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, one_line

import svd_numpy as svd
from svd_numpy.experiments.recipes import PUBLISHED
from svd_numpy.experiments.run_files import need, recorded_dataset
from svd_numpy.experiments.series import mean_sd
from svd_numpy.sparse.storage import Sizes

OUT = Path(__file__).parent / "results"
TOLERANCE = 0.0002  # of the error on the training images
# LeNet-5-Caffe in the README of the authors' code for Bayesian Compression (Louizos, Ullrich, Welling 2017): error in
# %, compression after pruning, after precision reduction. Starred ratios are half of all weights / weights kept, as the
# 111 of DNS became 55 and the 200 of SWS 100: an index as wide as the weight.
BAYESIAN_COMPRESSION = {
    "lenet-5": (("Sparse VD", 1.0, "63*", 228), ("BC-GNJ", 1.0, "108*", 361), ("BC-GHS", 1.0, "156*", 419))
}
SMALL = ("few bits, an index as wide", "packed file")  # to be compared with those


def measure(folder: Path, data_dir: Path | None, tolerance: float) -> dict[str, Any]:
    """Take one run through all steps."""
    facts = json.loads(need(folder / "result.json").read_text())
    model = svd.Sequential.load(need(folder / "model.safetensors"))
    data = svd.load(recorded_dataset(folder), data_dir)
    small = svd.compress(model)
    bits = svd.search_bits(small, data.x_train, data.y_train, tolerance)
    tiny = svd.unpack(svd.pack(svd.quantise(small, bits)))
    try:
        by_posterior = {rule: svd.posterior_bits(model, rule=rule) for rule in ("deviation", "variance")}
    except ValueError:  # fine-tuned
        by_posterior = {}
    by_sigma = svd.quantise(small, by_posterior["deviation"]) if by_posterior else None
    nets = {"float32": small, "rounded": tiny, "posterior": by_sigma}
    return {
        "run": folder.name,
        "case": [facts["arch"], facts["dataset"], facts["recipe"]],
        "bits": bits,
        "posterior_bits": by_posterior,
        "errors": {name: error(net, data) for name, net in nets.items() if net is not None},
        "pruned": as_json(svd.sizes(model, bits=by_posterior.get("variance"))),
        "rounded": as_json(svd.sizes(tiny)),
    }


def error(net: svd.SparseModel, data: svd.Dataset) -> float:
    """Share of test images taken for something else."""
    return float(np.mean(net.predict(data.x_test).argmax(axis=1) != data.y_test))


def as_json(sizes: Sizes) -> dict[str, Any]:
    """Return all counts as plain values."""
    return {
        "layers": [{**vars(layer)} for layer in sizes.layers],
        "accounts": {a.what: {**vars(a), "ratio": a.ratio} for a in sizes.accounts},
    }


def section(runs: list[dict[str, Any]]) -> list[str]:
    """Describe all runs of one network, data set and recipe."""
    arch, dataset, recipe = runs[0]["case"]
    errors = {
        name: mean_sd([100 * run["errors"][name] for run in runs], 2)
        for name in ("float32", "rounded", "posterior")
        if all(name in run["errors"] for run in runs)
    }
    widths = {name: sorted({run["bits"][name] for run in runs if name in run["bits"]}) for name in runs[0]["bits"]}
    lines = [
        f"## {arch}, {dataset}, recipe {recipe}: {len(runs)} run(s)",
        "",
        f"* Test error %: {errors['float32']} pruned; {errors['rounded']} rounded and packed.",
        f"* Bits found: {', '.join(f'{name} {span(found)}' for name, found in widths.items())}.",
    ]
    if "posterior" in errors:
        given = [run["posterior_bits"]["deviation"] for run in runs]
        names = ", ".join(f"{name} {span(sorted({bits[name] for bits in given}))}" for name in given[0])
        lines.append(
            f"* Bits of weights by the posterior's sigma, without a search: {names}; error {errors['posterior']}."
        )
    lines += ["", "| counted | float32 | rounded | as in |", "|---|---|---|---|"]
    for what, account in runs[0]["pruned"]["accounts"].items():
        cells = [
            mean_sd([run[net]["accounts"][what]["ratio"] for run in runs], 1) + "x" for net in ("pruned", "rounded")
        ]
        lines.append(f"| {what} | {cells[0]} | {cells[1]} | {account['source']} |")
    if dataset == "mnist" and arch in PUBLISHED:
        row = PUBLISHED[arch]
        lines.append(f"| *published:* weights, error {100 * row.error:.2f} % | {row.compression:g}x | | {row.source} |")
    for method, percent, pruned, bits in BAYESIAN_COMPRESSION.get(arch, ()) if dataset == "mnist" else ():
        lines.append(
            f"| *published:* {method}, error {percent} % | {pruned.replace('*', 'x*')} | {bits}x | "
            "Bayesian Compression, Louizos et al. 2017 |"
        )
    best = {what: mean_sd([run["rounded"]["accounts"][what]["after"] for run in runs], 0) for what in SMALL}
    return [*lines, "", f"Bytes: {'; '.join(f'{what} {number}' for what, number in best.items())}.", ""]


def span(values: Sequence[int]) -> str:
    """Return "4" or "4 to 6"."""
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def write(runs: list[dict[str, Any]], tolerance: float) -> None:
    """Write both files."""
    facts, cases = describe(), list(dict.fromkeys(tuple(run["case"]) for run in runs))
    lines = [
        "# Sizes: one network, counted in the way of every paper",
        "",
        f"* Machine: {one_line(facts)}",
        f"* Command: `python benchmarks/sizes.py RUN ...`, {datetime.date.today().isoformat()}",
        "* *float32*: the pruned network. Few bits of weights there: those of the posterior by the published rule "
        "on the variance; 32 where there is no posterior, as after fine-tuning.",
        f"* *rounded*: compacted and rounded to the fewest bits that cost at most {100 * tolerance:g} % of the "
        "*training* images, packed, and read back. Weights that rounding makes 0 are gone.",
        "* Ratios are against float32 weights; for *every byte of a file* against float32 weights and biases.",
        "* Mean ± standard deviation over the runs. \\* All weights / (2 x weights kept): an index as wide as each.",
        "",
    ]
    for case in cases:
        lines += section([run for run in runs if tuple(run["case"]) == case])
    OUT.mkdir(exist_ok=True)
    (OUT / "sizes.md").write_text("\n".join(lines))
    (OUT / "sizes.json").write_text(json.dumps({"machine": facts, "tolerance": tolerance, "runs": runs}, indent=1))
    print("\n".join(lines))


def main() -> None:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="share of training images")
    options = parser.parse_args()
    write([measure(run, options.data_dir, options.tolerance) for run in options.runs], options.tolerance)


if __name__ == "__main__":
    main()
