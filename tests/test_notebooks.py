"""The tutorials: sources, both editions and answers agree, they run without a warning, and keep to their form."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import environment
from slips import SLIPS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
MOST_BYTES = 500_000
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|tmp|root|usr|var|opt|work|Users|mnt|content)/|\b[A-Z]:\\")
INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}

pytest.importorskip("jupytext", reason="the notebook extra is not installed: pip install -e '.[notebook]'")
pytest.importorskip("nbclient", reason="the notebook extra is not installed: pip install -e '.[notebook]'")

sys.path.insert(0, str(FOLDER))
import editions  # noqa: E402
import make_notebooks  # noqa: E402
import measures  # noqa: E402

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
def test_whoever_only_reads_sees_a_picture_in_the_place_of_every_slider(name: str) -> None:
    for cell in cells(name, "code"):
        if "@slide(" in (source := "".join(cell["source"])):
            assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), source


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_ends_in_a_call_whose_value_nobody_wants_to_see(name: str) -> None:
    for cell in editions.with_answers(editions.read_source(source_of(name))).cells:
        last = ast.parse(cell.source).body[-1:] if cell.cell_type == "code" else []
        called = [ast.unparse(line.value) for line in last if isinstance(line, ast.Expr)]
        assert not any(call.startswith(("svd.fit", "svd.save", "svd.export")) for call in called), called


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
    text = prose(name)
    for part in ("# ", "**What you'll do.**", "**What you'll learn.**", "**What you'll need.**", "## In practice",
                 "## Further reading"):  # fmt: skip
        assert part in text, f"{name}: {part!r} is missing"
    found = measures.measure(make_notebooks.committed(source_of(name)))
    assert 500 <= found.words <= 1800 and 10 <= found.cells <= 50 and 3 <= found.pictures <= 10, found
    assert found.longest <= 12 and found.median <= 7, found
    assert text.count("**Predict.**") >= 1 and text.count("**Exercise") >= 3


@pytest.mark.parametrize("name", NAMES)
def test_only_scaffolding_is_folded(name: str) -> None:
    """One cell of helpers at most, right behind the imports; pictures; and what is not to be seen yet."""
    found = [cell for cell in editions.read_source(source_of(name)).cells if cell.cell_type == "code"]
    scaffolding = {"setup", "tools", "helpers", "picture", "solution", "clinic"}
    for place, cell in enumerate(found):
        assert not editions.folded(cell) or scaffolding & {*editions.tags(cell)}, cell.source
        assert "helpers" not in editions.tags(cell) or place == 3, "helpers go behind the imports"


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


@functools.cache
def ready(name: str) -> list[dict[str, Any]]:
    """The cells of code of a source, for run_cells.py."""
    code = [cell for cell in editions.read_source(source_of(name)).cells if cell.cell_type == "code"]
    blanks = {
        cell.id: SLIPS.get((name[:2], editions.name_of(cell)), ()) for cell in code if "blank" in editions.tags(cell)
    }
    return [{"source": cell.source, "tags": editions.tags(cell), "slips": blanks.get(cell.id)} for cell in code]


def run_cells(folder: Path, *names: str, mode: str, results: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "run_cells.py"), *(["--results"] if results else [])],
        input=json.dumps([ready(name) for name in names]),
        env=environment(SVD_NUMPY_OFFLINE="1", SVD_NUMPY_NOTEBOOKS=mode, IPYTHONDIR=str(folder), **INLINE),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_slips_are_of_blanks_that_there_are() -> None:
    blanks = {
        (name[:2], editions.name_of(cell))
        for name in NAMES
        for cell in editions.read_source(source_of(name)).cells
        if "blank" in editions.tags(cell)
    }
    assert set(SLIPS) <= blanks


@pytest.mark.parametrize("name", NAMES)
def test_both_editions_run(name: str, tmp_path: Path) -> None:
    """Short mode: little data and no network. A cell that warns or raises fails; so does a check that judges wrong."""
    run_cells(tmp_path, name, mode="short")


def test_pictures_are_written_as_svg_from_a_run_in_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "SVD_NUMPY_NOTEBOOKS"):  # which a run sets for its kernel
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(make_notebooks, "SLIDES", tmp_path)
    make_notebooks.main(["--short", "--slides", "01"])
    written = sorted(path.name for path in tmp_path.glob("*.svg"))
    drawn = sum("image/png" in output.get("data", {}) for output in outputs(NAMES[1]))
    assert written == [f"{NAMES[1]}-{number:02d}.svg" for number in range(1, drawn + 1)]
    assert all((tmp_path / name).read_text(encoding="utf-8").lstrip().startswith("<?xml") for name in written)
    assert re.findall(r'src="([^"]+)"', (tmp_path / "index.html").read_text(encoding="utf-8")) == written


def test_figures_of_the_benchmarks_are_those_of_the_tables(tmp_path: Path) -> None:
    """Cells tagged "results", run without the others, say today what they said when the notebook was made."""
    said = json.loads(run_cells(tmp_path, *WITH_RESULTS, mode="full", results=True).splitlines()[-1])
    for name, today in zip(WITH_RESULTS, said, strict=True):
        stored = [printed(cell) for cell in cells(name, "code") if "results" in tags(cell)]
        assert today == stored, f"{name}: a table is new: run  make notebooks ARGS=--results"


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


def test_the_table_of_measures_has_a_row_for_each_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    make_notebooks.main(["--count"])
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| notebook | words | visible cells |") and set(line) == {"|", "-", " "}
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == NAMES
