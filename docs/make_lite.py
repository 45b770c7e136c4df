"""Build a JupyterLite site: the tutorials in a browser, with the package inside, and no server that computes.

    python docs/make_lite.py [FOLDER]        default: site-lite/

The wheel of this checkout becomes part of the site, and the first cell of each tutorial installs it from there.
Tutorials that compile with Numba are left out, because Pyodide, the Python of the site, has none. Serve the folder by
any server of files, such as `python -m http.server -d site-lite`. Browsers load Pyodide with NumPy, SciPy and
Matplotlib from its own server (cdn.jsdelivr.net), so readers need the network.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
INSTALL = "%pip install --quiet svd-numpy ipywidgets"
NEEDS_NUMBA = re.compile(r"^\s*(import numba|from numba|from svd_numpy\.kernels\.cpu)|backend=\"numba\"", re.MULTILINE)


def code_of(notebook: dict[str, Any]) -> str:
    """All code of a notebook."""
    return "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")


def for_a_browser(notebook: dict[str, Any]) -> dict[str, Any] | None:
    """Return a tutorial whose set-up cell installs the package from the site; None for one that needs Numba."""
    if NEEDS_NUMBA.search(code_of(notebook)):
        return None
    cells = [
        {**cell, "source": [INSTALL]} if "setup" in cell["metadata"].get("tags", []) else cell
        for cell in notebook["cells"]
    ]
    kernel = {"display_name": "Python (Pyodide)", "language": "python", "name": "python"}
    return {**notebook, "cells": cells, "metadata": {**notebook["metadata"], "kernelspec": kernel}}


def write_contents(folder: Path) -> list[str]:
    """Write the tutorials that run in a browser, and the answers; return the names of the tutorials."""
    folder.mkdir()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = for_a_browser(json.loads(path.read_text(encoding="utf-8")))
        if notebook is not None:
            (folder / path.name).write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")
    names = sorted(path.name for path in folder.iterdir())
    shutil.copytree(
        NOTEBOOKS / "solutions", folder / "solutions"
    )  # where blanks that are not filled find their answers
    return names


def build(site: Path) -> list[str]:
    """Build the site and return the names of its tutorials."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(ROOT), "-w", str(folder / "wheels")]
        subprocess.run(pip, check=True)
        tutorials = write_contents(folder / "contents")
        (wheel,) = (folder / "wheels").glob("svd_numpy-*.whl")
        options = [f"--contents={folder / 'contents'}", f"--piplite-wheels={wheel}", f"--output-dir={site.resolve()}"]
        lite = [sys.executable, "-m", "jupyterlite_core", "build", "--no-sourcemaps", "--apps=lab", "--apps=repl"]
        (folder / "lite").mkdir()
        subprocess.run([*lite, f"--lite-dir={folder / 'lite'}", *options], check=True, cwd=folder)
    return tutorials


def main() -> None:
    """Build into an empty folder, or over an older site."""
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site-lite"
    if site.exists() and any(site.iterdir()) and not (site / "jupyter-lite.json").exists():
        raise SystemExit(f"{site} is not empty and no site of ours: give another folder")
    shutil.rmtree(site, ignore_errors=True)
    tutorials = build(site)
    print(f"tutorials: {', '.join(tutorials)}\nserve it: python -m http.server -d {site}")


if __name__ == "__main__":
    main()
