"""Three student experiments with variational dropout: as they were written, as they were meant, and what went wrong.

    python benchmarks/skoltech.py --seeds 3
    python benchmarks/skoltech.py --only never-nan --steps 1000000

They were done in a course at Skoltech on the first days of the method, and report noise that ruins a network and losses
that become NaN. Each is rerun with the settings of its code, and with the same network trained as the papers mean it:

* rates: 784-256-10 with Bernoulli or Gaussian noise of rates 0 to 0.9. Their noise stayed on in the test, multiplied
  the logits as well, and the Gaussian kind drew a single number for the whole layer and batch.
* wide: 784-256-10 by Sparse VD. Theirs got pixels of 0 to 255, a KL one hundred times too heavy, and sigma^2 = e^-25.
* deep: 784-100-40-10 by Sparse VD, from log sigma^2 = -11.5.
* never-nan: `deep` for a million steps at a constant rate, and after each epoch the share of numbers that are not
  finite. It goes on where it was stopped.

Finished runs are kept in results/skoltech.json and not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, describe, one_line

import svd_numpy as svd
from svd_numpy.experiments.series import mean_sd
from svd_numpy.files.atomic import write_atomic
from svd_numpy.files.run_log import read_log

OUT = Path(__file__).parent / "results"
RATES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
THEIRS = {  # their test accuracies at RATES (one epoch), from the arrays that lie beside their code
    "Bernoulli": (0.945, 0.893, 0.706, 0.477, 0.172, 0.096),
    "Gaussian": (0.955, 0.950, 0.795, 0.651, 0.348, 0.117),
}
Run = Callable[[int], dict[str, Any]]


class StubbornNoise(svd.Layer):
    """Multiplicative noise as theirs: on in the test too; Gaussian noise is one number for the layer and the batch."""

    kind = "stubborn_noise"

    def __init__(self, p: float, gaussian: bool, name: str | None = None) -> None:
        super().__init__(name)
        self.p, self.gaussian = p, gaussian
        self._rng = np.random.default_rng(0)

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        return {**super().config(), "p": self.p, "gaussian": self.gaussian}

    def forward(self, x: Any, run: Any) -> Any:
        """y = x * factors, always."""
        if self.gaussian:
            self._factors = np.float32(1 + (self.p / (1 - self.p)) ** 0.5 * self._rng.standard_normal())
        else:
            self._factors = ((self._rng.random(x.shape) >= self.p) / (1 - self.p)).astype(x.dtype)
        x *= self._factors
        return x

    def backward(self, dy: Any, run: Any, want_dx: bool) -> Any:
        """dx = dy * factors."""
        dy *= self._factors
        return dy


def rates(kind: str, p: float, as_written: bool, data: svd.Dataset) -> Run:
    """784-256-10 with noise on its activations: theirs for one epoch, as meant for five."""

    def run(seed: int) -> dict[str, Any]:
        def noise() -> svd.Layer:
            if as_written:
                return StubbornNoise(p, kind == "Gaussian")
            return svd.GaussianDropout(p) if kind == "Gaussian" else svd.Dropout(p)

        layers = [svd.Dense(784, 256), svd.ReLU(), noise(), svd.Dense(256, 10)]
        if as_written:
            layers.append(noise())
        model = svd.Sequential(*layers, seed=seed)
        config = svd.TrainConfig(
            epochs=1 if as_written else 5, lr=1e-2 if as_written else 1e-3, batch_size=100, seed=seed
        )
        last = svd.fit(model, data, config, progress=False)[-1]
        return {"error": last["test_error"], "non_finite": last["non_finite"]}

    return run


def sparse(units: tuple[int, ...], config: dict[str, Any], log_sigma2: float, uniform: bool, data: svd.Dataset) -> Run:
    """Sparse VD of dense layers; `uniform`: theta of +-1 / sqrt(outputs) as theirs, else He et al. 2015."""

    def run(seed: int) -> dict[str, Any]:
        rng, layers = np.random.default_rng(seed), list[svd.Layer]()
        for n_in, n_out in pairwise(units):
            layers += [svd.VariationalDense(n_in, n_out, log_sigma2=log_sigma2), svd.ReLU()]
        model = svd.Sequential(*layers[:-1], seed=seed)
        if uniform:
            for layer in model.variational_layers:
                edge = layer.theta.shape[1] ** -0.5
                layer.theta[:] = rng.uniform(-edge, edge, layer.theta.shape)
        last = svd.fit(model, data, svd.TrainConfig(seed=seed, **config), progress=False)[-1]
        return {"error": last["test_error"], "compression": last["compression"], "non_finite": last["non_finite"]}

    return run


def cases() -> Iterator[tuple[str, str, Run]]:
    """Experiment, what differs, and how to run it."""
    data = svd.load("mnist")
    for kind in THEIRS:
        for as_written in (True, False):
            for p in RATES:
                name = f"{kind}, {'as written' if as_written else 'as meant'}, {p:g}"
                yield "rates", name, rates(kind, p, as_written, data)
    raw = svd.Dataset(
        "raw pixels", data.x_train.astype(np.float32), data.y_train, data.x_test.astype(np.float32), data.y_test,
        None, 10, "MNIST, not divided by 255",
    )  # fmt: skip
    # Their loss adds the KL to the *mean* NLL, with the factor that belongs to the sum: B times too heavy.
    written = {"epochs": 3, "lr": 1e-2, "batch_size": 100, "kl_weight": 100.0}
    yield "wide", "as written", sparse((784, 256, 10), written, -20.0, True, raw)  # -20 is our lowest log sigma^2
    scaled = written | {"kl_weight": 1.0}
    yield "wide", "as written, KL of the right weight", sparse((784, 256, 10), scaled, -20.0, True, raw)
    yield "wide", "as written, pixels of 0 to 1", sparse((784, 256, 10), written, -20.0, True, data)
    meant = {
        "epochs": 30, "lr": 1e-3, "batch_size": 100, "lr_schedule": ((18.0, 1.0), (30.0, 0.0)),
        "kl_schedule": ((2.0, 0.0), (15.0, 1.0)),
    }  # fmt: skip
    yield "wide", "as meant", sparse((784, 256, 10), meant, -10.0, False, data)
    written = {"epochs": 100, "lr": 3e-4, "batch_size": 100, "kl_weight": 100.0}
    yield "deep", "as written", sparse((784, 100, 40, 10), written, -11.5, False, data)
    yield (
        "deep",
        "as written, KL of the right weight",
        sparse((784, 100, 40, 10), written | {"kl_weight": 1.0}, -11.5, False, data),
    )
    meant = meant | {
        "epochs": 100,
        "lr_schedule": ((60.0, 1.0), (100.0, 0.0)),
        "kl_schedule": ((5.0, 0.0), (50.0, 1.0)),
    }
    yield "deep", "as meant", sparse((784, 100, 40, 10), meant, -11.5, False, data)
    yield "deep", "as meant, KL weight 2", sparse((784, 100, 40, 10), meant | {"kl_weight": 2.0}, -11.5, False, data)


def never_nan(steps: int, folder: Path) -> dict[str, Any]:
    """A million steps of `deep` at a constant rate, in a run that can be stopped and goes on."""
    data, per_epoch = svd.load("mnist"), 600
    layers = [svd.VariationalDense(784, 100, log_sigma2=-11.5), svd.ReLU(),
              svd.VariationalDense(100, 40, log_sigma2=-11.5), svd.ReLU(),
              svd.VariationalDense(40, 10, log_sigma2=-11.5)]  # fmt: skip
    config = svd.TrainConfig(epochs=-(-steps // per_epoch), lr=3e-4, batch_size=100, eval_every=0)
    begun = (folder / "metrics.jsonl").exists()
    svd.fit(svd.Sequential(*layers, seed=0), data, config, run_dir=folder, resume=begun, progress=True)
    records = read_log(folder / "metrics.jsonl")
    return {
        "steps": per_epoch * len(records), "error": records[-1]["test_error"],
        "compression": records[-1]["compression"], "non_finite": max(record["non_finite"] for record in records),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Three student experiments, as written and as meant", "",
        f"* Machine: {one_line(found['machine'])}",
        f"* Command: {found['command']}",
        "* MNIST, 60,000 training images; test error in %, mean ± standard deviation over the seeds", "",
        "## Rates of dropout, 784-256-10", "",
        f"| noise | epochs | {' | '.join(f'{p:g}' for p in RATES)} |", "|---" * (len(RATES) + 2) + "|",
    ]  # fmt: skip
    runs = found["runs"]
    for kind, accuracies in THEIRS.items():
        theirs = [f"{100 * (1 - accuracy):.1f}" for accuracy in accuracies]
        lines.append(f"| {kind}, *their figures* | 1 | {' | '.join(theirs)} |")
        for how, epochs in (("as written", 1), ("as meant", 5)):
            cells = [_errors(runs, f"rates: {kind}, {how}, {p:g}") for p in RATES]
            lines.append(f"| {kind}, {how} | {epochs} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Sparse VD",
        "",
        "| network | settings | error % | compression | not finite |",
        "|---|---|---|---|---|",
    ]
    titles = {"wide": "784-256-10", "deep": "784-100-40-10"}
    for name, of_seeds in runs.items():
        network, _, settings = name.partition(": ")
        if network in titles:
            ratio = mean_sd([run["compression"] for run in of_seeds.values()], 1)
            lost = max(run["non_finite"] for run in of_seeds.values())
            lines.append(f"| {titles[network]} | {settings} | {_errors(runs, name)} | {ratio} | {lost:g} |")
    if campaign := found.get("never-nan"):
        lines += [
            "", "## You will get NaN", "",
            f"784-100-40-10, {campaign['steps']:,} steps of batch 100 at a constant learning rate of 3e-4: "
            f"{campaign['non_finite']:g} of weights and moments were not finite at the end of any epoch. Test error "
            f"{100 * campaign['error']:.2f} %, {campaign['compression']:.1f} times fewer weights "
            "(`python benchmarks/skoltech.py --only never-nan`).",
        ]  # fmt: skip
    return "\n".join([*lines, ""])


def _errors(runs: dict[str, Any], name: str) -> str:
    of_seeds = runs.get(name, {})
    return mean_sd([100 * run["error"] for run in of_seeds.values()], 2) if of_seeds else "-"


def main() -> None:
    """Run what is missing, and write the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    parser.add_argument(
        "--only", nargs="+", choices=("rates", "wide", "deep", "never-nan"), default=("rates", "wide", "deep")
    )
    parser.add_argument("--steps", type=int, default=1_000_000, help="of never-nan")
    parser.add_argument("--folder", type=Path, default=Path("runs/never-nan"), help="of never-nan")
    options = parser.parse_args()
    path = OUT / "skoltech.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}}

    def keep() -> None:
        found.update(machine=describe(), command=command_line())
        write_atomic(path, json.dumps(found, indent=1).encode())
        write_atomic(path.with_suffix(".md"), table(found).encode())

    for experiment, name, run in cases():
        of_seeds = found["runs"].setdefault(f"{experiment}: {name}", {})
        for seed in range(options.seeds if experiment in options.only else 0):
            if str(seed) not in of_seeds:
                of_seeds[str(seed)] = run(seed)
                print(experiment, name, seed, of_seeds[str(seed)], flush=True)
                keep()
    if "never-nan" in options.only:
        found["never-nan"] = never_nan(options.steps, options.folder)
    keep()


if __name__ == "__main__":
    main()
