"""How long a tutorial is, and how much of it a reader does: words, visible cells, blanks, pictures.

Visible are all cells of code that are not folded, but for the first, which imports. A puzzle of notebook 7 is a blank.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import astuple, dataclass
from typing import Any

from editions import folded, tags

FORMULAS_CODE_LINKS = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", re.DOTALL)
HEAD = ("notebook", "words", "visible cells", "blanks", "pictures", "median lines", "longest cell")


@dataclass(frozen=True)
class Measures:
    """The numbers of one tutorial; `median` and `longest` are lines of its visible cells."""

    words: int
    cells: int
    blanks: int
    pictures: int
    median: float
    longest: int


def prose(notebook: Any) -> str:
    """Its text."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def measure(notebook: Any) -> Measures:
    """Count an executed students' edition."""
    text, code = prose(notebook), [cell for cell in notebook.cells if cell.cell_type == "code"]
    drawn = sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    visible = [cell for cell in code if not folded(cell)][1:]
    lines = [len(cell.source.splitlines()) for cell in visible]
    return Measures(
        words=len(re.findall(r"\b[^\W\d_]{2,}\b", FORMULAS_CODE_LINKS.sub(" ", text))),
        cells=len(visible),
        blanks=sum(bool({"blank", "needed"} & {*tags(cell)}) for cell in code),
        pictures=drawn + text.count("!["),
        median=statistics.median(lines),
        longest=max(lines),
    )


def table(notebooks: dict[str, Any]) -> str:
    """The measures of notebooks as a table in Markdown."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    rows += [(name, *map("{:g}".format, astuple(measure(notebook)))) for name, notebook in notebooks.items()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
