"""The rows of the papers' tables for one network, and baselines beside them: `svd-numpy reproduce` as a table to keep.

    python benchmarks/papers.py 300-100 --seeds 0 1 2 --jobs 2
    python benchmarks/papers.py 300-100 --seeds 0 1 2 --only dense sparse-vd "ivon 107x"
    python benchmarks/papers.py 300-100 --seeds 0 1 2 --only bc-gnj l0 --part gates

Runs are kept in `--folder`, so that the same command goes on where it stopped; `--only` names the rows that are wanted,
without their network. Writes results/papers-NETWORK.md, .png and .json, or papers-NETWORK-PART; rows that stand there
already, from another day or machine, stay.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from machine import added, command_line, head

from svd_numpy.experiments.counts import Counts
from svd_numpy.experiments.published import ROWS
from svd_numpy.experiments.reproduce import Reproduction, can_run, reproduce
from svd_numpy.files.atomic import write_atomic

OUT = Path(__file__).parent / "results"
NETWORKS = tuple(dict.fromkeys(name.split()[0] for name in ROWS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--only", nargs="+", metavar="ROW")
    parser.add_argument("--part", help="a table of its own, of this name")
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
    name = f"papers-{options.network}" + (f"-{options.part}" if options.part else "")
    path = OUT / f"{name}.json"
    rows_now = {row: [asdict(one) for one in counts] for row, counts in done.counts.items()}
    commands, stored = added(path, "rows", rows_now, f"{command_line()}, seeds {', '.join(map(str, options.seeds))}")
    found = {row: stored[row] for row in ROWS if row in stored}
    write_atomic(path, json.dumps({"commands": commands, "rows": found}, indent=1).encode())
    page = Reproduction({}, {row: [Counts(**one) for one in counts] for row, counts in found.items()}, quick=False)
    lines = [
        *head(f"The papers' rows of {options.network}{f': {options.part}' if options.part else ''}", commands),
        "* The test images were measured after the last epoch and chose nothing. Mean ± standard deviation over the "
        "seeds. Runs went side by side with other work, so their seconds are those of a busy machine.",
        "",
        f"{page}",
        "",
        f"![error against compression]({name}.png)",
        "",
    ]
    write_atomic(OUT / f"{name}.md", "\n".join(lines).encode())
    page.plot().savefig(OUT / f"{name}.png", dpi=100)
    print(page)


if __name__ == "__main__":
    main()
