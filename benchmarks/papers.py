"""The rows of the papers' tables for one network, and baselines beside them: `svd-numpy reproduce` as a table to keep.

    python benchmarks/papers.py 300-100 --seeds 0 1 2 --jobs 2
    python benchmarks/papers.py 300-100 --seeds 0 1 2 --only dense sparse-vd "ivon 107x"

Runs are kept in `--folder`, so that the same command goes on where it stopped; `--only` names the rows that are wanted,
without their network. Writes results/papers-NETWORK.md and .png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from machine import command_line, describe, one_line

from svd_numpy.experiments.published import ROWS
from svd_numpy.experiments.reproduce import can_run, reproduce
from svd_numpy.files.atomic import write_atomic

OUT = Path(__file__).parent / "results"
NETWORKS = tuple(dict.fromkeys(name.split()[0] for name in ROWS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--only", nargs="+", metavar="ROW")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--folder", type=Path, default=Path("runs/reproduced"))
    options = parser.parse_args()
    here = (name for name, row in ROWS.items() if name.startswith(options.network + " ") and can_run(row))
    own = {name.partition(" ")[2]: name for name in here}
    if unknown := [what for what in options.only or () if what not in own]:
        parser.error(f"--only: got {', '.join(unknown)}, expected some of {', '.join(own)}")
    rows = [own[what] for what in own if not options.only or what in options.only]
    done = reproduce(rows, seeds=options.seeds, folder=options.folder, jobs=options.jobs)
    lines = [
        f"# The papers' rows of {options.network}",
        "",
        f"* Machine: {one_line(describe())}",
        f"* Command: {command_line()}, seeds {', '.join(map(str, options.seeds))}",
        "* The test images were measured after the last epoch and chose nothing. Mean ± standard deviation over the "
        "seeds. Runs went side by side with other work, so their seconds are those of a busy machine.",
        "",
        f"{done}",
        "",
        f"![error against compression](papers-{options.network}.png)",
        "",
    ]
    write_atomic(OUT / f"papers-{options.network}.md", "\n".join(lines).encode())
    done.plot().savefig(OUT / f"papers-{options.network}.png", dpi=100)
    print(done)


if __name__ == "__main__":
    main()
