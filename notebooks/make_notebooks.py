"""Run the text sources in `src/` and write what they show to the notebooks beside this file.

    python notebooks/make_notebooks.py                     all of them, in full, into notebooks/
    python notebooks/make_notebooks.py --short 01 04       these two on little data, writing nothing
    python notebooks/make_notebooks.py --text              only the words have changed: keep all outputs

A notebook learns which of the two it is from the environment variable SVD_NUMPY_NOTEBOOKS, "full" or "short". A cell
that raises an error or writes to stderr, a warning for example, fails the run. The picture of the cell tagged "cover"
goes to pictures/, for the map in README.md.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCES = sorted((HERE / "src").glob("*.py"))
WIDGET = "application/vnd.jupyter.widget-view+json"


def read_source(source: Path) -> Any:
    """The notebook of a text source, not run yet: the same cells with the same ids every time."""
    import jupytext

    notebook = jupytext.read(source)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    return notebook


def with_palette(png: str) -> str:
    """Redraw a base64 PNG with 256 colours: the eye sees no difference, and the file is less than half as large."""
    from PIL import Image

    picture, small = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def execute(source: Path, mode: str) -> Any:
    """Run every cell of a source in a fresh kernel, with this folder as its working directory."""
    from nbclient import NotebookClient

    os.environ["SVD_NUMPY_NOTEBOOKS"] = mode
    os.environ["PYTHONPATH"] = str(HERE.parent)  # this checkout, whatever is installed
    notebook = read_source(source)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(HERE)}}, record_timing=False)
    client.execute()
    notebook.metadata = read_source(source).metadata  # without the versions of this machine, and the state of widgets
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        said = [output for output in cell.outputs if output.get("name") == "stderr"]
        if said:
            raise RuntimeError(f"{source.name}: a cell wrote to stderr:\n{cell.source}\n\n{said[0].text}")
        # A slider needs a kernel; the picture beside it does not. Readers of the page see the picture alone.
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = with_palette(output["data"]["image/png"])
    return notebook


def with_new_text(source: Path) -> Any:
    """The notebook as it is, with the words of its source; an error if code has changed as well."""
    import nbformat

    old, new = nbformat.read(HERE / f"{source.stem}.ipynb", as_version=4), read_source(source)
    done = [cell for cell in old.cells if cell.cell_type == "code"]
    wanted = [cell for cell in new.cells if cell.cell_type == "code"]
    if [(cell.source, cell.metadata) for cell in done] != [(cell.source, cell.metadata) for cell in wanted]:
        raise SystemExit(f"{source.name}: code has changed since it was run, too; leave out --text")
    for ran, cell in zip(done, wanted, strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return new


def write_cover(notebook: Any, stem: str) -> None:
    """Write the picture of the cell tagged "cover" to pictures/."""
    for cell in notebook.cells:
        if "cover" in cell.metadata.get("tags", []):
            (png,) = [output["data"]["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
            (HERE / "pictures" / f"{stem}.png").write_bytes(base64.b64decode(png))


def main() -> None:
    """Read the command line and run."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 04; all when left out")
    parser.add_argument("--short", action="store_true", help="little data, few epochs, and nothing is written")
    parser.add_argument("--text", action="store_true", help="run nothing: take over words that have changed")
    options = parser.parse_args()
    chosen = [source for source in SOURCES if not options.names or source.name.startswith(tuple(options.names))]
    if not chosen:
        raise SystemExit(f"no source begins with {options.names}; there are {[source.stem for source in SOURCES]}")
    for source in chosen:
        start = time.perf_counter()
        notebook = with_new_text(source) if options.text else execute(source, "short" if options.short else "full")
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)
        if not options.short:
            nbformat.write(notebook, HERE / f"{source.stem}.ipynb")
            write_cover(notebook, source.stem)


if __name__ == "__main__":
    main()
