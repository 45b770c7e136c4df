"""Run the cells of a notebook in this process: `python run_cells.py NOTEBOOK`. A cell that raises or warns ends it.

Without Jupyter between them, cells start seconds sooner, and no message between processes can be lost.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


def main(notebook: Path) -> None:
    """Run all code cells, with the folder of the notebook as the working directory."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    os.chdir(notebook.parent)
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        source, errors = "".join(cell["source"]), io.StringIO()
        with contextlib.redirect_stderr(errors):
            done = shell.run_cell(source)
        if not done.success or errors.getvalue():
            sys.exit(f"{notebook.name}: this cell fails or writes to stderr:\n{source}\n\n{errors.getvalue()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
