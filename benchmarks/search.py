"""The search behind the recipes "default": candidates on 5,000 held-out training images, one seed each.

    python benchmarks/search.py --candidates kl1 kl1-ramp50
    python benchmarks/search.py --arch lenet-5 --candidates plain shift1

Each candidate is trained once on the other 55,000 images; from its end, the survivors at several thresholds are
fine-tuned. The test images take no part. Results are added to `results/search.json` and `search.md`, for LeNet-5 to
`search-lenet-5.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import command_line, describe, one_line

from svd_numpy.data import load
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.recipes import Recipe
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.loop import fit
from svd_numpy.train.schedules import Knots

OUT = Path(__file__).parent / "results"
SEED = 0
FINETUNE_EPOCHS = {"lenet-300-100": 20, "lenet-5": 8}
THRESHOLDS = {"lenet-300-100": (3.0, 2.0, 1.0, 0.0), "lenet-5": (2.0, 1.0, 0.0)}


@dataclass(frozen=True)
class Candidate:
    """What is varied; learning rate 1e-3, flat for the share `flat` of the epochs and then to 0."""

    epochs: int
    flat: float
    kl: Knots
    mask: bool = False
    centre: bool = False
    theta_std: float | None = None
    batch: int = 100
    shift: int = 0
    finetune: int | None = None  # epochs; None: FINETUNE_EPOCHS
    remove: tuple[float, int] | None = None  # log alpha above which weights are removed while training; first epoch


KL1 = ((5.0, 0.0), (20.0, 1.0))
SLOW = ((3.0, 0.0), (25.0, 1.0), (42.0, 2.2))
LENET_300_100 = {
    "kl1": Candidate(80, 0.5, KL1),
    "kl1-flat75": Candidate(80, 0.75, KL1),
    "kl1-batch50": Candidate(80, 0.5, KL1, batch=50),
    "kl1-mask": Candidate(80, 0.5, KL1, mask=True),
    "kl1-mask-centre": Candidate(80, 0.5, KL1, mask=True, centre=True),
    "kl1-mask-std.01": Candidate(80, 0.5, KL1, mask=True, theta_std=0.01),
    "kl1-ramp50": Candidate(80, 0.5, ((5.0, 0.0), (50.0, 1.0))),
    "kl1-ramp50-mask": Candidate(80, 0.5, ((5.0, 0.0), (50.0, 1.0)), mask=True),
    "kl3": Candidate(80, 0.5, ((5.0, 0.0), (20.0, 1.0), (60.0, 3.0))),
    "kl2-120": Candidate(120, 0.6, ((5.0, 0.0), (60.0, 1.0), (100.0, 2.0))),
    "paper": Candidate(200, 0.5, KL1, mask=True, centre=True, theta_std=0.01),
    "paper-he": Candidate(200, 0.5, KL1, mask=True, centre=True),
    "paper-shift1": Candidate(200, 0.5, KL1, mask=True, centre=True, theta_std=0.01, shift=1),
}
KL2_140 = ((5.0, 0.0), (70.0, 1.0), (115.0, 2.2))
LENET_300_100 |= {
    "kl2-140": Candidate(140, 0.6, KL2_140),
    "kl2-140-remove5": Candidate(140, 0.6, KL2_140, remove=(5.0, 3)),
    "kl2-140-remove5-10": Candidate(140, 0.6, KL2_140, remove=(5.0, 10)),
    "kl2-140-remove3-20": Candidate(140, 0.6, KL2_140, remove=(3.0, 20)),
    "kl2-140-remove5-fast": Candidate(140, 0.6, ((3.0, 0.0), (40.0, 1.0), (115.0, 2.2)), remove=(5.0, 3)),
    "kl2-140-remove8": Candidate(140, 0.6, KL2_140, remove=(8.0, 5)),
    "kl1.6-140-remove5-10": Candidate(140, 0.6, ((5.0, 0.0), (70.0, 1.0), (115.0, 1.6)), remove=(5.0, 10)),
    "kl1.6-200-remove5-10": Candidate(200, 0.6, ((5.0, 0.0), (100.0, 1.0), (165.0, 1.6)), remove=(5.0, 10)),
    "kl2-200-remove5": Candidate(200, 0.6, ((5.0, 0.0), (100.0, 1.0), (165.0, 2.2)), remove=(5.0, 3)),
}
SHIFTED: dict[str, Any] = {"shift": 1, "remove": (5.0, 10)}
LENET_300_100 |= {
    "shift1-kl1.6-140": Candidate(140, 0.6, ((5.0, 0.0), (70.0, 1.0), (115.0, 1.6)), **SHIFTED),
    "shift1-kl2.5-140": Candidate(140, 0.6, ((5.0, 0.0), (70.0, 1.0), (115.0, 2.5)), **SHIFTED),
    "shift1-kl4-140": Candidate(140, 0.6, ((5.0, 0.0), (70.0, 1.0), (115.0, 4.0)), **SHIFTED),
    "shift1-kl2.5-200": Candidate(200, 0.6, ((5.0, 0.0), (100.0, 1.0), (165.0, 2.5)), **SHIFTED),
    "shift1-kl4-200": Candidate(200, 0.6, ((5.0, 0.0), (100.0, 1.0), (165.0, 4.0)), **SHIFTED),
}
LENET_5 = {
    "plain": Candidate(50, 0.6, SLOW),
    "shift1": Candidate(50, 0.6, SLOW, shift=1),
    "shift2": Candidate(50, 0.6, SLOW, shift=2),
    "shift1-90": Candidate(90, 0.67, ((3.0, 0.0), (40.0, 1.0), (75.0, 2.2)), shift=1, finetune=15),
    "shift1-105-kl4": Candidate(105, 0.67, ((3.0, 0.0), (45.0, 1.0), (90.0, 4.0)), shift=1, finetune=20),
    "shift1-90-remove5": Candidate(
        90, 0.67, ((3.0, 0.0), (40.0, 1.0), (75.0, 2.2)), shift=1, finetune=15, remove=(5.0, 3)
    ),
    "shift1-60-remove5": Candidate(
        60, 0.6, ((2.0, 0.0), (25.0, 1.0), (48.0, 2.2)), shift=1, finetune=15, remove=(5.0, 3)
    ),
    "shift1-90-remove5-15": Candidate(
        90, 0.67, ((3.0, 0.0), (40.0, 1.0), (75.0, 2.2)), shift=1, finetune=15, remove=(5.0, 15)
    ),
    "shift1-90-remove8-15": Candidate(
        90, 0.67, ((3.0, 0.0), (40.0, 1.0), (75.0, 2.2)), shift=1, finetune=30, remove=(8.0, 15)
    ),
    "shift1-120-remove8-15": Candidate(
        120, 0.67, ((4.0, 0.0), (53.0, 1.0), (100.0, 2.2)), shift=1, finetune=30, remove=(8.0, 15)
    ),
    "plain-90": Candidate(90, 0.67, ((3.0, 0.0), (40.0, 1.0), (75.0, 2.2)), finetune=15),
}
CANDIDATES = {"lenet-300-100": LENET_300_100, "lenet-5": LENET_5}


def run(arch: str, name: str) -> list[dict[str, Any]]:
    """Train one candidate, then fine-tune its survivors at each threshold."""
    chosen = CANDIDATES[arch][name]
    data = load("mnist").split(5000, seed=0)
    config = TrainConfig(
        epochs=chosen.epochs,
        batch_size=chosen.batch,
        lr_schedule=((chosen.flat * chosen.epochs, 1.0), (chosen.epochs, 0.0)),
        kl_schedule=chosen.kl,
        train_mask=chosen.mask,
        seed=SEED,
        shift=chosen.shift,
        remove_above=chosen.remove and chosen.remove[0],
        remove_from=chosen.remove[1] if chosen.remove else 0,
    )
    recipe = Recipe(arch, name, "", config, chosen.theta_std, subtract_mean=chosen.centre)
    model = build(data, recipe, SEED, "auto")
    last = fit(model, data, config)[-1]
    rows = [
        {
            "candidate": name,
            "threshold": None,
            "error": last["valid_error"],
            "compression": last["compression"],
            "seconds": last["seconds"],
        }
    ]
    for threshold in THRESHOLDS[arch]:
        copy = model.copy()
        tuning = TrainConfig(
            epochs=0,
            finetune_epochs=chosen.finetune or FINETUNE_EPOCHS[arch],
            finetune_threshold=threshold,
            seed=SEED,
            shift=chosen.shift,
            remove_above=chosen.remove and chosen.remove[0],
        )
        last = fit(copy, data, tuning, progress=False)[-1]
        rows.append(
            {
                "candidate": name,
                "threshold": threshold,
                "error": last["valid_error"],
                "compression": last["compression"],
            }
        )
    return rows


def settings_of(chosen: Candidate) -> str:
    """The settings of a candidate in one cell."""
    kl = ", ".join(f"{value:g} at {epoch:g}" for epoch, value in chosen.kl)
    extras = [
        text
        for text, there in (
            ("masked while training", chosen.mask),
            ("mean subtracted", chosen.centre),
            (f"theta std {chosen.theta_std}", chosen.theta_std is not None),
            (f"batch {chosen.batch}", chosen.batch != 100),
            (f"images shifted by up to {chosen.shift}", chosen.shift > 0),
            (
                "removed above {} from epoch {} on".format(*(chosen.remove or ("", ""))),
                chosen.remove is not None,
            ),
            (f"{chosen.finetune} epochs of fine-tuning", chosen.finetune is not None),
        )
        if there
    ]
    return "; ".join([f"{chosen.epochs} epochs, lr flat for {chosen.flat:.0%}", f"KL weight {kl}", *extras])


def write_table(arch: str, rows: list[dict[str, Any]], out: Path) -> None:
    """Write the rows as JSON, and as Markdown beside it."""
    lines = [
        f"# The search behind {arch}'s recipe `default`",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}, seed {SEED}",
        "* Candidates were trained on several days and machines; these are the last ones'.",
        "* 55,000 training images, error on 5,000 held-out ones (standard error about 0.2 points); no test image.",
        f"* *as trained*: pruned at threshold 3. Otherwise pruned at the threshold, then {FINETUNE_EPOCHS[arch]}",
        "  epochs of fine-tuning without noise, lr 1e-3 to 0.",
        "",
        "| candidate | settings | threshold | error % | compression |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["candidate"]
        threshold = "as trained" if row["threshold"] is None else f"{row['threshold']:g}, fine-tuned"
        settings = settings_of(CANDIDATES[arch][name]) if row["threshold"] is None else ""
        figures = f"{100 * row['error']:.2f} | {row['compression']:.1f}"
        lines.append(f"| {name} | {settings} | {threshold} | {figures} |")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=1))
    out.with_suffix(".md").write_text("\n".join([*lines, ""]))


def main() -> None:
    """Run the candidates named on the command line that are not there yet."""
    parser = argparse.ArgumentParser(description="search for the default recipe on held-out images")
    parser.add_argument("--arch", choices=list(CANDIDATES), default="lenet-300-100")
    parser.add_argument("--candidates", nargs="*")
    options = parser.parse_args()
    known = CANDIDATES[options.arch]
    names = known if options.candidates is None else options.candidates
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--candidates: got {', '.join(unknown)}, expected some of {', '.join(known)}")
    path = OUT / ("search.json" if options.arch == "lenet-300-100" else f"search-{options.arch}.json")
    for name in names:
        rows = json.loads(path.read_text()) if path.exists() else []  # others may run beside this one
        if all(row["candidate"] != name for row in rows):
            found = run(options.arch, name)
            write_table(options.arch, (json.loads(path.read_text()) if path.exists() else []) + found, path)


if __name__ == "__main__":
    main()
