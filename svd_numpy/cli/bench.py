"""The `bench` subcommand: runs `benchmarks/step.py`, which comes with a checkout only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

STEP_SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "step.py"


def run_step_benchmark(arguments: Sequence[str]) -> int:
    """Time training steps, here and in PyTorch.

    Parameters
    ----------
    arguments : sequence of str
        For `benchmarks/step.py`.

    Returns
    -------
    int
        Its exit status.

    Raises
    ------
    FileNotFoundError
        Where there is no such script, that is, outside a checkout.
    """
    if not STEP_SCRIPT.is_file():
        raise FileNotFoundError(
            f"the benchmarks are not part of the installed package ({STEP_SCRIPT} is not there); "
            "run this command from a checkout of the source, installed with: pip install -e '.[bench]'"
        )
    return subprocess.call([sys.executable, str(STEP_SCRIPT), *arguments])
