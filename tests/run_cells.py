"""Run the cells of tutorials in this process: `run_cells.py [--results] < cells`.

Standard input is JSON: for each tutorial its cells of code, with their tags. Both editions are run in one go: at
each blank, the students' cell with nothing filled in, and then with each of its wrong answers, whose check has to
say so and to take the answer from `solutions/`; then the check again, which has to say "right". (The answers are
those of the instructors' edition; another test compares them.) A cell that raises or warns ends it. `--results` runs
only the cells that show `benchmarks/results/`, and prints what they print, as JSON.

Without Jupyter between them, cells start seconds sooner, and no message between processes can be lost. Whoever starts
this has read the sources, so jupytext, which takes a second to import, is not needed here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

import editions  # noqa: E402


def run(shell: InteractiveShell, code: str) -> str:
    """What a cell prints."""
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(said):
        done = shell.run_cell(code)
    if not done.success or errors.getvalue():
        sys.exit(f"this cell fails or writes to stderr:\n{code}\n\n{said.getvalue()[-2000:]}{errors.getvalue()}")
    return said.getvalue()


def verdict(shell: InteractiveShell, judge: str, *, right: bool) -> None:
    """The check of a blank says what it should."""
    said = run(shell, judge)
    if ("🟥" in said or "⬜" in said) == right or ("🟩" in said) != right:
        sys.exit(f"a blank that is {'right' if right else 'empty or wrong'} is judged otherwise:\n{judge}\n\n{said}")


def both_editions(shell: InteractiveShell, cells: list[dict[str, Any]]) -> None:
    """Run all cells, with every blank empty, with wrong answers, and then with its answer."""
    wrong = list[str]()
    for cell in cells:
        if "blank" in cell["tags"]:
            empty = "\n".join(map(editions.emptied, cell["source"].splitlines()))
            wrong = [empty, *(re.sub(r"\.\.\.  # your line$", slip, empty, flags=re.M) for slip in cell["slips"])]
        elif "check" in cell["tags"]:
            for filled in wrong:
                run(shell, filled)
                verdict(shell, cell["source"], right=False)
            verdict(shell, cell["source"], right=True)
        else:
            run(shell, cell["source"])


def tables(shell: InteractiveShell, cells: list[dict[str, Any]]) -> list[str]:
    """What the cells print that show `benchmarks/results/`, without names of figures, which Jupyter shows itself."""
    printed = list[str]()
    for cell in cells:
        if {"setup", "tools", "results"} & set(cell["tags"]):
            said = run(shell, editions.MARK.sub("", cell["source"]))
            if "results" in cell["tags"]:
                printed.append(re.sub(r"^<Figure size .*\n", "", said, flags=re.MULTILINE))
    return printed


def main(tutorials: list[list[dict[str, Any]]], *, results: bool) -> None:
    """Run them one after the other, each in an empty namespace, with the folder of the notebooks to work in."""
    os.chdir(ROOT / "notebooks")
    shell, printed = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False})), []
    for cells in tutorials:
        shell.reset(new_session=False)
        if results:
            printed.append(tables(shell, cells))
        else:
            both_editions(shell, cells)
    if results:
        print(json.dumps(printed))


if __name__ == "__main__":
    main(json.loads(sys.stdin.buffer.read()), results="--results" in sys.argv)
