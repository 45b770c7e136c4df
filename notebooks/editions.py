"""From one text source: the notebook to run, the students' edition without answers, and the file of answers.

In `src/`, a cell tagged "blank" has the name of the blank for its title, and marks each line to be filled in by
`# blank` at its end. Students see `...` there. The next cell, tagged "check", judges it. A cell tagged "solution"
answers an exercise: students do not see it. If what follows needs its answer, it is tagged "needed" as well, and
students have a call in its place that takes the answer from `solutions/`. The cells tagged "setup" and "tools" are
those of `cells.py`. Folded are the cell tagged "helpers", of which a notebook has at most one, near its top, and cells
that draw a picture, unless they are short.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCES = sorted((HERE / "src").glob("[0-9]*.py"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LONG = 8  # lines of a cell that draws a picture
MARK = re.compile(r"  # blank$", re.MULTILINE)
LINE = re.compile(r"^(\s*)(return|[^=]+? [-+*/]?=) .*  # blank$")


def tags(cell: Any) -> list[str]:
    """The tags of a cell."""
    found: list[str] = cell.metadata.get("tags", [])
    return found


def draws(cell: Any) -> bool:
    """Whether a cell draws a picture and does nothing else that is to be read."""
    shows = "plt.show()" in cell.source or "@slide(" in cell.source
    return shows and not {"blank", "check", "solution"} & {*tags(cell)}


def folded(cell: Any) -> bool:
    """Whether a reader has to open a cell to see its code."""
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def read_source(source: Path) -> Any:
    """All cells of a source, with the shared ones, the marks of blanks, and the same ids every time."""
    import jupytext

    notebook = jupytext.read(source)
    shared = {tags(cell)[0]: cell for cell in jupytext.read(HERE / "cells.py").cells if tags(cell)}
    cells = []
    for cell in notebook.cells:
        if "setup" in tags(cell):
            cells += [copy.deepcopy(shared["setup"]), copy.deepcopy(shared["tools"])]
            cells[-1].source = cells[-1].source.replace("THIS", source.stem)
        else:
            cells.append(cell)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02d}"
        if draws(cell) and len(cell.source.splitlines()) > LONG:
            cell.metadata |= {"jupyter": {"source_hidden": True}, "tags": [*tags(cell), "picture"]}
        elif "helpers" in tags(cell):
            cell.metadata |= {"jupyter": {"source_hidden": True}}
    notebook.cells, notebook.metadata = cells, copy.deepcopy(METADATA)
    return notebook


def with_answers(notebook: Any) -> Any:
    """The instructors' edition: every blank filled, every exercise answered."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.source = MARK.sub("", cell.source)
    return notebook


def emptied(line: str) -> str:
    """A line of a blank as students see it."""
    if not line.endswith("  # blank"):
        return line
    found = LINE.match(line)
    if found is None:
        raise ValueError(f"a line of a blank is a return or an assignment: {line!r}")
    targets = 1 if found[2] == "return" or "[" in found[2] else found[2].count(",") + 1
    return f"{found[1]}{found[2]} {', '.join(['...'] * targets)}  # your line"


def for_students(notebook: Any, stem: str) -> Any:
    """The edition without answers."""
    from nbformat.v4 import new_markdown_cell

    notebook, cells, answers = copy.deepcopy(notebook), [], None
    for cell in notebook.cells:
        if "needed" in tags(cell):
            cell.source = f'use_answer("{name_of(cell)}")  # from solutions/, unseen: what follows needs an answer'
            cell.metadata = {"tags": ["needed"]}
        elif "solution" in tags(cell):
            if answers is None:
                text = f"Answers: [`solutions/{stem}.py`](solutions/{stem}.py). Try first."
                answers = new_markdown_cell(text, id=cell.id)
                cells.append(answers)
            continue
        elif "blank" in tags(cell):
            cell.source = "\n".join(emptied(line) for line in cell.source.splitlines())
        cells.append(cell)
    notebook.cells = cells
    return notebook


def name_of(cell: Any) -> str:
    """The name of a blank or of a solution: its title, or "Exercise 3" for "# Solution 3. ..."."""
    if "title" in cell.metadata:
        return str(cell.metadata["title"])
    found = re.match(r"# Solutions? (?:of )?([\w ]+?)\.", cell.source)
    if found is None:
        raise ValueError(f"a blank needs a title, and a solution begins with its number: {cell.source[:60]!r}")
    return f"Exercise {found[1]}" if found[1].isdigit() else found[1]


def answers_of(source: Path) -> str:
    """The file of answers: a cell in percent format for each blank and each exercise."""
    notebook = read_source(source)
    title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
    parts = [f"# Answers to the tutorial {source.stem}: {title}\n#\n# They continue the notebook: run them in it."]
    for cell in with_answers(notebook).cells:
        if {"blank", "solution"} & {*tags(cell)}:
            parts.append(f"# %% {name_of(cell)}\n{cell.source}")
    return "\n\n".join(parts) + "\n"
