"""The tutorials: sources and notebooks agree, they run without a warning, and keep to the form that readers know."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import environment

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
SOURCES = sorted((FOLDER / "src").glob("*.py"))
NAMES = [source.stem for source in SOURCES]
MOST_BYTES = 500_000
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|tmp|root|usr|var|opt|work|Users|mnt|content)/|\b[A-Z]:\\")
FORMULAS_CODE_LINKS = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", re.DOTALL)

pytest.importorskip("jupytext", reason="the notebook extra is not installed: pip install -e '.[notebook]'")
pytest.importorskip("nbclient", reason="the notebook extra is not installed: pip install -e '.[notebook]'")


def notebook(name: str) -> dict[str, Any]:
    """The executed notebook, as it is committed."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return found


def cells(name: str, kind: str) -> list[dict[str, Any]]:
    """Its cells of one kind."""
    return [cell for cell in notebook(name)["cells"] if cell["cell_type"] == kind]


def outputs(name: str) -> list[dict[str, Any]]:
    """The outputs of all its cells."""
    return [output for cell in cells(name, "code") for output in cell["outputs"]]


def prose(name: str) -> str:
    """Its text."""
    return "\n\n".join("".join(cell["source"]) for cell in cells(name, "markdown"))


def pictures(name: str) -> int:
    """How many pictures a reader sees: drawn by cells, or shown by the text."""
    return sum("image/png" in output.get("data", {}) for output in outputs(name)) + prose(name).count("![")


def test_every_source_has_its_notebook() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_source_and_notebook_agree(name: str) -> None:
    sys.path.insert(0, str(FOLDER))
    try:
        from make_notebooks import read_source
    finally:
        sys.path.pop(0)
    committed = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook(name)["cells"]]
    source = [(cell.cell_type, cell.source) for cell in read_source(FOLDER / "src" / f"{name}.py").cells]
    assert committed == source, f"run: make notebooks ARGS={name[:2]}"


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_were_run_top_to_bottom_without_error_or_warning(name: str) -> None:
    counts = [cell["execution_count"] for cell in cells(name, "code")]
    assert counts == list(range(1, len(counts) + 1))
    for output in outputs(name):
        assert output["output_type"] != "error" and output.get("name") != "stderr"


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_small_and_name_no_place_on_a_disk(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    said = [part for output in outputs(name) for part in (output.get("text", ""), output.get("data", {}))]
    shown = json.dumps([part.get("text/plain", "") if isinstance(part, dict) else part for part in said])
    assert not re.search(r"\bat 0x[0-9a-f]+|\bText\(", shown), "a cell shows an object that says nothing"
    assert not ABSOLUTE.search(shown + prose(name) + (FOLDER / "src" / f"{name}.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_keep_to_the_form(name: str) -> None:
    text = prose(name)
    for part in ("# ", "**What you'll do.**", "**What you'll learn.**", "**What you'll need.**", "## In practice",
                 "## Further reading"):  # fmt: skip
        assert part in text, f"{name}: {part!r} is missing"
    words = len(re.findall(r"\b[^\W\d_]{2,}\b", FORMULAS_CODE_LINKS.sub(" ", text)))
    assert 900 <= words <= 1600, f"{words} words"
    assert 15 <= len(cells(name, "code")) <= 30
    assert 5 <= pictures(name) <= 9
    assert text.count("**Predict.**") >= 2 and text.count("**Exercise") >= 3
    solutions = [cell for cell in cells(name, "code") if "solution" in cell["metadata"].get("tags", [])]
    assert len(solutions) >= 2 and all(cell["metadata"]["jupyter"]["source_hidden"] for cell in solutions)
    longest = max(len("".join(cell["source"]).splitlines()) for cell in cells(name, "code"))
    assert longest <= 32, f"a cell of {longest} lines"


@pytest.mark.parametrize("name", [*NAMES, "README"])
def test_links_and_pictures_exist(name: str) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8") if name == "README" else prose(name)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("https://"):
            assert (FOLDER / link.split("#")[0]).exists(), f"{name}: {link} does not exist"


def test_the_map_names_every_notebook() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\((\d\d_\w+)\.ipynb\)", text))) == NAMES


def run(script: Path, *arguments: str, **variables: str) -> None:
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment(SVD_NUMPY_OFFLINE="1", **variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run(name: str, tmp_path: Path) -> None:
    """Short mode: little data and no network. A cell that warns or raises fails."""
    run(
        ROOT / "tests" / "run_cells.py",
        str(FOLDER / f"{name}.ipynb"),
        SVD_NUMPY_NOTEBOOKS="short",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        IPYTHONDIR=str(tmp_path),
    )


def test_a_notebook_runs_in_jupyter() -> None:
    run(FOLDER / "make_notebooks.py", "--short", NAMES[0])
