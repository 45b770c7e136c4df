"""Run the cells of a tutorial in this process: `python run_cells.py SOURCE [--results]`.

Both editions in one go: at each blank, first the students' cell with nothing filled in, whose check has to say so and
to take the answer from `solutions/`; then the cell with the answer, whose check has to say "right". A cell that raises
or warns ends it. `--results` runs only the cells that show `benchmarks/results/`, and prints what they print, as JSON.

Without Jupyter between them, cells start seconds sooner, and no message between processes can be lost.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path

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
        sys.exit(f"a blank that is {'right' if right else 'not filled in'} is judged otherwise:\n{judge}\n\n{said}")


def main(source: Path, *, results: bool) -> None:
    """Run all code cells, with the folder of the notebooks as the working directory."""
    notebook = editions.read_source(source)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    os.chdir(ROOT / "notebooks")
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    printed, blank = list[str](), None
    for cell in cells:
        tags = set(editions.tags(cell))
        if results and not tags & {"setup", "tools", "results"}:
            continue
        code = editions.MARK.sub("", cell.source)
        if results:
            said = run(shell, code)
            if "results" in tags:  # without the names of figures, which Jupyter shows in another way
                printed.append(re.sub(r"^<Figure size .*\n", "", said, flags=re.MULTILINE))
            continue
        if "blank" in tags:
            blank = code
            run(shell, "\n".join(map(editions.emptied, cell.source.splitlines())))
            continue
        if "check" in tags:
            assert blank is not None, f"a check without a blank before it:\n{code}"
            verdict(shell, code, right=False)
            verdict(shell, code, right=True)
            run(shell, blank)
            verdict(shell, code, right=True)
            blank = None
            continue
        run(shell, code)
    if results:
        print(json.dumps(printed))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), results="--results" in sys.argv)
