"""What sparsity costs: the recipe "default" with its KL weighed less and more, error and compression of each.

    python benchmarks/trade_off.py --seeds 2

Nothing in time. The runs are folders under `runs/trade-off`; interrupted ones go on where they stopped. The test set is
measured once, after the last epoch. Writes `results/trade-off.md` and `.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from machine import command_line, describe, one_line

from svd_numpy import train_mnist
from svd_numpy.experiments.series import mean_sd
from svd_numpy.files import checkpoint

KL_WEIGHTS = (0.1, 0.3, 1.0, 2.0, 4.0)
OUT = Path(__file__).parent / "results" / "trade-off"


def main() -> None:
    """Train what is missing, and write the table and the picture."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--arch", choices=("lenet-300-100", "lenet-5"), default="lenet-300-100")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    options = parser.parse_args()
    run_dir = Path("runs/trade-off") / options.arch
    begun = any(checkpoint.latest(at) for at in run_dir.glob("*/checkpoints"))
    results = train_mnist(
        arch=options.arch, epochs=options.epochs, dataset="mnist", eval_every=0, progress=False,
        kl_weight=KL_WEIGHTS, seeds=range(options.seeds), run_dir=run_dir, resume=begun,
    )  # fmt: skip
    lines = [
        f"| {weight:g} | {mean_sd([100 * one.test_error for one in group], 2)} "
        f"| {mean_sd([one.test_nll for one in group], 3)} | {mean_sd([one.compression for one in group], 1)} |"
        for weight, group in results.by_kl_weight.items()
    ]
    text = [
        f"# What sparsity costs: {options.arch} on MNIST",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}",
        f"* Recipe `default`, {results[0].history[-1]['epoch']} epochs in all; {options.seeds} seed(s) for each factor "
        "on its KL weight. Mean ± standard deviation.",
        "* All 60,000 training and 10,000 test images; the test set was measured once, after the last epoch.",
        "* Compression: all weights / weights kept, without biases or index bytes. NLL in nats per image.",
        "",
        "| KL weight times | test error % | test NLL | compression |",
        "|---|---|---|---|",
        *lines,
        "",
        f"![Error against compression]({OUT.name}.png)",
        "",
    ]
    OUT.with_suffix(".md").write_text("\n".join(text))
    results.plot().savefig(OUT.with_suffix(".png"), dpi=100)
    print("\n".join(text))


if __name__ == "__main__":
    main()
