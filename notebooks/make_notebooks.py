"""Run the text sources in `src/` and write what they show to the notebooks beside this file.

    python notebooks/make_notebooks.py                     all of them, in full, into notebooks/
    python notebooks/make_notebooks.py --short 01 04       these two on little data, writing nothing
    python notebooks/make_notebooks.py --text              only the words have changed: keep all outputs
    python notebooks/make_notebooks.py --results           a table in benchmarks/results/ is new: seconds, not minutes
    python notebooks/make_notebooks.py --instructor        the edition with all answers, not run, into instructor/
    python notebooks/make_notebooks.py --slides 03         its pictures as SVG, for slides, into slides/
    python notebooks/make_notebooks.py --count             a table of words, cells, blanks and pictures

The notebooks are the students' edition (`editions.py`): they are run with every blank filled, then the answers go, to
`solutions/`. A notebook learns how to run from the environment variable SVD_NUMPY_NOTEBOOKS, "full" or "short". A cell
that raises an error or writes to stderr, a warning for example, fails the run. Cells tagged "results" show figures of
`benchmarks/results/` and need no other cells than each other, so that they can be run alone when a table is new. The
picture of the cell tagged "cover" goes to pictures/, for the map in README.md.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from editions import SOURCES, answers_of, for_students, read_source, tags, with_answers
from measures import table

SLIDES = HERE.parent / "slides"
WIDGET = "application/vnd.jupyter.widget-view+json"


def with_palette(png: str) -> str:
    """Redraw a base64 PNG with 256 colours: the eye sees no difference, and the file is less than half as large."""
    from PIL import Image

    picture, small = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def run_all(notebook: Any, name: str, mode: str = "full", pictures: str = "png") -> None:
    """Run every cell in a fresh kernel, with this folder as its working directory, and tidy what it shows."""
    from nbclient import NotebookClient

    os.environ["SVD_NUMPY_NOTEBOOKS"] = mode
    os.environ["PYTHONPATH"] = str(HERE.parent)  # this checkout, whatever is installed
    options = {"resources": {"metadata": {"path": str(HERE)}}, "record_timing": False}
    arguments = [f"--InlineBackend.figure_formats={pictures}"]
    client = NotebookClient(notebook, timeout=3600, extra_arguments=arguments, **options)
    kept = notebook.metadata.copy()
    client.execute()
    notebook.metadata = kept  # without the versions of this machine, and the state of widgets
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        said = [output for output in cell.outputs if output.get("name") == "stderr"]
        if said:
            raise RuntimeError(f"{name}: a cell wrote to stderr:\n{cell.source}\n\n{said[0].text}")
        # A slider needs a kernel; the picture beside it does not. Readers of the page see the picture alone.
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = with_palette(output["data"]["image/png"])


def shown_to_students(ran: Any, source: Path) -> Any:
    """The students' edition with what the cells of a run showed; verdicts on blanks are left out."""
    outputs = {cell.id: cell.outputs for cell in ran.cells if cell.cell_type == "code"}
    notebook, count = for_students(read_source(source), source.stem), 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [] if "check" in tags(cell) else outputs.get(cell.id, [])
    return notebook


def execute(source: Path, mode: str) -> Any:
    """Run a source with all answers; return the students' edition."""
    notebook = with_answers(read_source(source))
    run_all(notebook, source.name, mode)
    return shown_to_students(notebook, source)


def committed(source: Path) -> Any:
    """The notebook of a source as it lies beside this file."""
    import nbformat

    return nbformat.read(HERE / f"{source.stem}.ipynb", as_version=4)


def with_new_text(source: Path, outputs: dict[str, Any] | None = None) -> Any:
    """The notebook as it is, with the words of its source; an error if code has changed as well.

    `outputs`, by ids of cells, are those of cells that have been run again, whose code may be new.
    """
    new, outputs = for_students(read_source(source), source.stem), outputs or {}
    done = [cell for cell in committed(source).cells if cell.cell_type == "code"]
    wanted = [cell for cell in new.cells if cell.cell_type == "code"]
    if len(done) != len(wanted):
        raise SystemExit(f"{source.name}: it has {len(wanted)} cells of code, the notebook {len(done)}: run it in full")
    for ran, cell in zip(done, wanted, strict=True):
        if cell.id not in outputs and (ran.source, ran.metadata) != (cell.source, cell.metadata):
            raise SystemExit(f"{source.name}: code has changed since it was run, too: run it in full")
        cell.outputs, cell.execution_count = outputs.get(cell.id, ran.outputs), ran.execution_count
    return new


def with_new_results(source: Path) -> Any:
    """The notebook as it is, with its cells of figures from `benchmarks/results/` run again."""
    few = with_answers(read_source(source))
    few.cells = [cell for cell in few.cells if {"setup", "tools", "results"} & {*tags(cell)}]
    run_all(few, source.name)
    return with_new_text(source, {cell.id: cell.outputs for cell in few.cells if "results" in tags(cell)})


def write_instructor_edition(chosen: list[Path]) -> None:
    """Write the edition with answers, not run, to the folder instructor/ beside this one, where all links hold."""
    import nbformat

    folder = HERE.parent / "instructor"
    folder.mkdir(exist_ok=True)
    for part in ("pictures", "solutions"):
        shutil.copytree(HERE / part, folder / part, dirs_exist_ok=True)
    for source in chosen:
        nbformat.write(with_answers(read_source(source)), folder / f"{source.stem}.ipynb")
    print(f"{len(chosen)} notebooks with answers: {folder}")


def write_slides(source: Path, mode: str = "full") -> None:
    """Run a source, and write its pictures, without those of solutions, to slides/, as SVG, in their order."""
    notebook = with_answers(read_source(source))
    run_all(notebook, source.name, mode, pictures="svg")
    SLIDES.mkdir(exist_ok=True)
    seen = [cell for cell in notebook.cells if "solution" not in tags(cell)]
    shown = [output.get("data", {}) for cell in seen for output in cell.get("outputs", [])]
    pictures = [data["image/svg+xml"] for data in shown if "image/svg+xml" in data]
    for number, picture in enumerate(pictures, start=1):
        (SLIDES / f"{source.stem}-{number:02d}.svg").write_text(picture, encoding="utf-8")
    names = sorted(path.name for path in SLIDES.glob("*.svg"))
    page = [f'<figure><img src="{name}"><figcaption>{name}</figcaption></figure>' for name in names]
    (SLIDES / "index.html").write_text("\n".join(["<title>Pictures of the tutorials</title>", *page, ""]))


def write(source: Path, notebook: Any) -> None:
    """Write a notebook, its answers, and the picture of its cell tagged "cover"."""
    import nbformat

    nbformat.write(notebook, HERE / f"{source.stem}.ipynb")
    (HERE / "solutions").mkdir(exist_ok=True)
    (HERE / "solutions" / source.name).write_text(answers_of(source), encoding="utf-8")
    for cell in notebook.cells:
        if "cover" in tags(cell):
            (png,) = [output["data"]["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
            (HERE / "pictures" / f"{source.stem}.png").write_bytes(base64.b64decode(png))


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 04; all when left out")
    parser.add_argument("--short", action="store_true", help="little data, few epochs, and no notebook is written")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--text", action="store_true", help="run nothing: take over words that have changed")
    how.add_argument("--results", action="store_true", help="run only the cells that show benchmarks/results/")
    how.add_argument("--instructor", action="store_true", help="write the edition with answers, not run")
    how.add_argument("--slides", action="store_true", help="write the pictures as SVG into slides/")
    how.add_argument("--count", action="store_true", help="print a table of words, cells, blanks and pictures")
    options = parser.parse_args(arguments)
    chosen = [source for source in SOURCES if not options.names or source.name.startswith(tuple(options.names))]
    if not chosen:
        raise SystemExit(f"no source begins with {options.names}; there are {[source.stem for source in SOURCES]}")
    if options.instructor:
        write_instructor_edition(chosen)
        return
    if options.count:
        print(table({source.stem: committed(source) for source in chosen}))
        return
    mode = "short" if options.short else "full"
    for source in chosen:
        start = time.perf_counter()
        if options.slides:
            write_slides(source, mode)
            print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)
            continue
        if options.results:
            if not any("results" in tags(cell) for cell in read_source(source).cells):
                continue
            notebook = with_new_results(source)
        elif options.text:
            notebook = with_new_text(source)
        else:
            notebook = execute(source, mode)
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)
        if not options.short:
            write(source, notebook)


if __name__ == "__main__":
    main()
