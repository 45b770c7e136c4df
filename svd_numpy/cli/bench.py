"""The `bench` subcommand: runs `benchmarks/step.py`, which only a checkout of the source has."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from svd_numpy.checks import SvdError, as_path

STEP_SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "step.py"


@dataclass(frozen=True)
class Bench:
    """Time one training step against PyTorch (needs a checkout of the source, and torch to compare with).

    Attributes
    ----------
    batches : ints
        Batch sizes.
    threads : ints
        Numbers of threads; none takes those of benchmarks/step.py.
    rounds : int
        How often each candidate is timed, at least 5.
    candidates : names
        What to time, for example "ours" "eager"; none times all.
    out : path, optional
        Folder for step.md and step.json; None is benchmarks/results.
    """

    batches: tuple[int, ...] = (100, 1000)
    threads: tuple[int, ...] = ()
    rounds: int = 7
    candidates: tuple[str, ...] = ()
    out: Path | None = None

    def run(self) -> int:
        """Run the script in a process of its own, so that thread settings take effect; return its exit status."""
        if not STEP_SCRIPT.is_file():
            raise SvdError(
                f"the benchmarks are not part of the installed package ({STEP_SCRIPT} is not there); "
                "run this command from a checkout of the source, installed with: pip install -e '.[bench]'"
            )
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            value = as_path(field.name, value) if isinstance(value, Path) else value
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            words += [f"--{field.name}", *map(str, values)] if values else []
        return subprocess.call([sys.executable, str(STEP_SCRIPT), *words])
