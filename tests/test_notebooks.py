"""The tutorials: sources, both editions and answers agree, they run without a warning, and keep to their form."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import environment

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
MOST_BYTES = 500_000
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|tmp|root|usr|var|opt|work|Users|mnt|content)/|\b[A-Z]:\\")
FORMULAS_CODE_LINKS = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", re.DOTALL)
SHORT = {"00", "11", "12", "13", "14", "15"}  # tutorials of the second edition: shorter, in shorter cells

pytest.importorskip("jupytext", reason="the notebook extra is not installed: pip install -e '.[notebook]'")
pytest.importorskip("nbclient", reason="the notebook extra is not installed: pip install -e '.[notebook]'")

sys.path.insert(0, str(FOLDER))
import editions  # noqa: E402
import make_notebooks  # noqa: E402

SOURCES = editions.SOURCES
NAMES = [source.stem for source in SOURCES]
WITH_RESULTS = [
    source.stem
    for source in SOURCES
    if re.search(r'^# %%.*"results"', source.read_text(encoding="utf-8"), re.MULTILINE)
]


def source_of(name: str) -> Path:
    """The source of a tutorial."""
    return FOLDER / "src" / f"{name}.py"


def notebook(name: str) -> dict[str, Any]:
    """The executed notebook, as it is committed."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return found


def cells(name: str, kind: str) -> list[dict[str, Any]]:
    """Its cells of one kind."""
    return [cell for cell in notebook(name)["cells"] if cell["cell_type"] == kind]


def tags(cell: dict[str, Any]) -> list[str]:
    """The tags of a cell."""
    found: list[str] = cell["metadata"].get("tags", [])
    return found


def outputs(name: str) -> list[dict[str, Any]]:
    """The outputs of all its cells."""
    return [output for cell in cells(name, "code") for output in cell["outputs"]]


def prose(name: str) -> str:
    """Its text."""
    return "\n\n".join("".join(cell["source"]) for cell in cells(name, "markdown"))


def pictures(name: str) -> int:
    """How many pictures a reader sees: drawn by cells, or shown by the text."""
    return sum("image/png" in output.get("data", {}) for output in outputs(name)) + prose(name).count("![")


def test_every_source_has_its_notebook_and_its_answers() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    assert sorted(path.stem for path in (FOLDER / "solutions").glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_source_notebook_and_answers_agree(name: str) -> None:
    committed = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"]) for cell in notebook(name)["cells"]]
    students = editions.for_students(editions.read_source(source_of(name)), name)
    source = [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in students.cells]
    assert committed == source, f"run: make notebooks ARGS={name[:2]}"
    assert (FOLDER / "solutions" / f"{name}.py").read_text(encoding="utf-8") == editions.answers_of(source_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_students_see_no_answer_and_instructors_all(name: str) -> None:
    raw = editions.read_source(source_of(name))
    blanks = [cell for cell in raw.cells if "blank" in editions.tags(cell)]
    answers = [line for cell in blanks for line in cell.source.splitlines() if line.endswith("# blank")]
    text = "\n".join("".join(cell["source"]) for cell in cells(name, "code"))
    full = "\n".join(cell.source for cell in editions.with_answers(raw).cells)
    assert blanks or sum("needed" in editions.tags(cell) for cell in raw.cells) > 2, "nothing for the reader to write"
    for line in answers:
        assert line not in text and line.removesuffix("  # blank") in full
    assert text.count("# your line") >= len(answers) and "# blank" not in text + full
    solutions = [cell for cell in raw.cells if "solution" in editions.tags(cell)]
    assert len(solutions) >= 2 and all("# Solution" not in "".join(cell["source"]) for cell in cells(name, "code"))
    assert all(cell.source in full for cell in solutions)
    for number, cell in enumerate(raw.cells):  # each blank is judged at once, with two hints or more
        if "blank" in editions.tags(cell):
            judge = raw.cells[number + 1]
            assert "check" in editions.tags(judge) and f'"{editions.name_of(cell)}"' in judge.source
            assert len(re.findall(r'^    "|, "', judge.source, re.MULTILINE)) >= 2, judge.source


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
    assert not ABSOLUTE.search(shown + prose(name) + source_of(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_keep_to_the_form(name: str) -> None:
    text, short = prose(name), name[:2] in SHORT
    for part in ("# ", "**What you'll do.**", "**What you'll learn.**", "**What you'll need.**", "## In practice",
                 "## Further reading"):  # fmt: skip
        assert part in text, f"{name}: {part!r} is missing"
    words = len(re.findall(r"\b[^\W\d_]{2,}\b", FORMULAS_CODE_LINKS.sub(" ", text)))
    assert (500 if short else 900) <= words <= 1800, f"{words} words"
    read = ["".join(cell["source"]) for cell in cells(name, "code") if not folded(cell)]
    code = [len(source.splitlines()) for source in read if not source.startswith("import ")]
    assert (10 if short else 15) <= len(code) <= 50
    assert (3 if short else 5) <= pictures(name) <= 10
    assert text.count("**Predict.**") >= (1 if short else 2) and text.count("**Exercise") >= (2 if short else 3)
    assert max(code) <= (12 if short else 28), f"a cell of {max(code)} lines"
    assert statistics.median(code) <= (8 if short else 13)


def folded(cell: dict[str, Any]) -> bool:
    """Whether a reader has to open a cell to see its code."""
    return bool(cell["metadata"].get("jupyter", {}).get("source_hidden"))


@pytest.mark.parametrize("name", [*NAMES, "README", "lecturers"])
def test_links_and_pictures_exist(name: str) -> None:
    text = prose(name) if name in NAMES else (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("https://"):
            assert (FOLDER / link.split("#")[0]).exists(), f"{name}: {link} does not exist"


@pytest.mark.parametrize("page", ["README", "lecturers"])
def test_the_map_and_the_lecturers_page_name_every_notebook(page: str) -> None:
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\((\d\d_\w+)\.ipynb\)", text))) == NAMES


def test_the_lecturers_page_has_a_quiz_with_an_answer_to_each_question() -> None:
    text = (FOLDER / "lecturers.md").read_text(encoding="utf-8")
    questions, answers = text.split("## Quiz")[1].split("## Answers")
    for part in (questions, answers):
        assert [int(number) for number in re.findall(r"^(\d+)\. ", part, re.MULTILINE)] == list(range(1, 21))
    listed = {(name, int(count)) for name, count in re.findall(r"^\| \[\d+\]\((\w+)\.ipynb\).*\| (\d+) \|", text, re.M)}
    assert listed == {(name, prose(name).count("**Exercise")) for name in NAMES}


def run(script: Path, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment(SVD_NUMPY_OFFLINE="1", **variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_both_editions_run(name: str, tmp_path: Path) -> None:
    """Short mode: little data and no network. A cell that warns or raises fails; so does a check that judges wrong."""
    run(
        ROOT / "tests" / "run_cells.py",
        str(source_of(name)),
        SVD_NUMPY_NOTEBOOKS="short",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        IPYTHONDIR=str(tmp_path),
    )


def test_a_notebook_runs_in_jupyter() -> None:
    run(FOLDER / "make_notebooks.py", "--short", NAMES[1])


@pytest.mark.parametrize("name", WITH_RESULTS)
def test_figures_of_the_benchmarks_are_those_of_the_tables(name: str, tmp_path: Path) -> None:
    """Cells tagged "results" say today what they said when the notebook was made."""
    said = run(
        ROOT / "tests" / "run_cells.py",
        str(source_of(name)),
        "--results",
        SVD_NUMPY_NOTEBOOKS="full",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        IPYTHONDIR=str(tmp_path),
    )
    stored = [printed(cell) for cell in cells(name, "code") if "results" in tags(cell)]
    assert json.loads(said.splitlines()[-1]) == stored, "a table is new: run  make notebooks ARGS=--results"


def printed(cell: dict[str, Any]) -> str:
    """What a cell has printed."""
    return "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_the_benchmarks_are_shown_by_cells_that_can_be_run_alone(name: str) -> None:
    for cell in editions.read_source(source_of(name)).cells:
        if cell.cell_type == "code" and re.search(r'"results"[,)]|committed\("', cell.source):
            assert "results" in editions.tags(cell), f"this cell reads a table, so tag it:\n{cell.source}"


def test_the_edition_for_instructors_is_written_with_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_notebooks, "HERE", tmp_path / "notebooks")
    for part in ("pictures", "solutions"):
        (tmp_path / "notebooks" / part).mkdir(parents=True)
    make_notebooks.write_instructor_edition(SOURCES[:2])
    written = json.loads((tmp_path / "instructor" / f"{NAMES[1]}.ipynb").read_text(encoding="utf-8"))
    text = "".join("".join(cell["source"]) for cell in written["cells"])
    assert "# Solution 1" in text and "# blank" not in text and "your line\n" not in text


def test_a_line_that_cannot_be_emptied_is_refused() -> None:
    assert editions.emptied("    return x + 1  # blank") == "    return ...  # your line"
    assert editions.emptied("a, b = f(x)  # blank") == "a, b = ..., ...  # your line"
    assert editions.emptied('d["y"] = x  # blank') == 'd["y"] = ...  # your line'
    assert editions.emptied("y = x") == "y = x"
    with pytest.raises(ValueError, match="a return or an assignment"):
        editions.emptied("for x in y:  # blank")
