"""README and guide keep their word: snippets print what is shown, commands parse, links and tables are right."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import svd_numpy as svd
from svd_numpy import kernels
from svd_numpy.cli.main import parse
from svd_numpy.experiments.recipes import PUBLISHED
from svd_numpy.kernels import priors

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GUIDE = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "guide").glob("*.md"))
PAGES = ["README.md", *GUIDE]  # whose snippets run
DOCUMENTS = [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]
EPOCHS = 2
PICTURE = {".png": b"\x89PNG\r\n\x1a\n", ".gif": b"GIF8"}
# Where a table between <!-- NAME:begin --> and <!-- NAME:end --> comes from. "log" is checked by a test of its own.
TABLES = {
    "results": "lenet-*.md", "speed": "step*.md", "inference": "inference.md", "log": None,
    "fuzz": "fuzz.md", "kill": "kill.md", "memory": "memory.md",
}  # fmt: skip
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
# A shown figure may be off by this share of itself, or by one in its last digit. With the processor and the versions
# that wrote it, a run has the same bits; elsewhere sums are rounded in another order, and a few weights fall on the
# other side of the threshold. The NumPy backend rounds every sum differently: it changes no shown figure by more than
# 3 % (or that digit). SVD_NUMPY_BACKEND=numpy repeats this comparison.
TOLERANCE = 0.05

text_of: dict[str, str] = {page: (ROOT / page).read_text(encoding="utf-8") for page in DOCUMENTS}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(remark, language, content) of the fenced blocks of a page; a remark is the comment on the line before."""
    found = re.findall(r"^(?:<!-- ([^\n]*) -->\n)?```(\w+)\n(.*?)^```$", text_of[page], re.MULTILINE | re.DOTALL)
    return [(remark, language, content) for remark, language, content in found]


def snippets(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return [content for _, language, content in blocks(page) if language == "python"]


def form(text: str) -> list[str]:
    """Lines with every number as # and every gap as one blank: labels, columns and rows."""
    return [" ".join(NUMBER.sub("#", line).split()) for line in text.strip().splitlines()]


def figures(text: str) -> list[tuple[float, float]]:
    """(value, one in the last digit) of every number in a text."""
    found = [number.replace(",", "") for number in NUMBER.findall(text)]
    return [(float(number), 10.0 ** -len(number.partition("e")[0].partition(".")[2])) for number in found]


def assert_shows(printed: str, shown: str, where: str) -> None:
    """Fail unless the shown text is the printed one, its figures within the tolerance."""
    assert form(printed) == form(shown), where
    for (value, _), (wanted, digit) in zip(figures(printed), figures(shown), strict=True):
        off = abs(value - wanted)
        assert off <= max(TOLERANCE * abs(wanted), 1.001 * digit), (
            f"{where}: {wanted:g} is shown, {value:g} was printed"
        )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, without progress; where MNIST is asked for, train two epochs on the small digits."""
    real_mnist, real_fit, real_regression = svd.train_mnist, svd.fit, svd.train_regression

    def train_mnist(**options: Any) -> Any:
        if "dataset" in options:
            return real_mnist(**options, progress=False)
        result = real_mnist(**{**options, "dataset": "digits", "epochs": EPOCHS, "progress": False})
        if isinstance(result, svd.TrainResult):  # so that the paper's row is printed
            result = replace(result, data=replace(result.data, name="mnist", warning=""))
        return result

    def fit(*args: Any, **options: Any) -> Any:
        return real_fit(*args, **options, progress=False)

    def train_regression(**options: Any) -> Any:
        return real_regression(**options, progress=False)

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # for net_reader.py, which a snippet writes and imports
    for module, name in ((priors, "PRIORS"), (kernels, "_BACKENDS")):  # snippets add to them
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    for function in (train_mnist, fit, train_regression):
        monkeypatch.setattr(svd, function.__name__, function)


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of[page]])
def test_the_snippets_run_in_order_and_print_what_is_shown(
    page: str, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, Any] = {}
    for remark, language, content in blocks(page):
        if language == "python":
            exec(compile(content, page, "exec"), namespace)
            printed = capsys.readouterr().out
        elif remark == "output: MNIST":  # its figures have a test of their own
            assert form(printed) == form(content)
        elif language == "text":
            assert remark == "output", f"{page}: say <!-- output --> before a block that shows what is printed"
            assert_shows(printed, content, page)


def test_a_wrong_figure_or_word_is_found() -> None:
    shown = "error 0.058, 182 times, 2 layers"
    assert_shows("error  0.059, 190 times, 2 layers", shown, "here")
    for right, wrong in (("0.058", "0.068"), ("182", "200"), ("2 layers", "4 layers"), ("layers", "nets"), (", 2", "")):
        with pytest.raises(AssertionError):
            assert_shows(shown.replace(right, wrong), shown, "here")


def test_the_first_example_is_short() -> None:
    assert len(snippets("README.md")[0].strip().splitlines()) - 2 <= 6  # six lines after the import


def test_the_figures_of_the_first_example_are_those_of_the_recorded_run() -> None:
    recorded = json.loads((RESULTS / "lenet-300-100.json").read_text(encoding="utf-8"))["runs"]["mnist default"]
    run = next(run for run in recorded if run["seed"] == 0)
    layers = " - ".join(f"{100 * share:.1f}" for share in run["layer_sparsity"].values())
    ours = f"this run {100 * run['test_error']:.2f} {run['test_nll']:.4f} {layers} {run['compression']:.1f}x"
    ours = f"{ours} {run['seconds']:.0f}"
    paper = PUBLISHED["lenet-300-100"]
    layers = " - ".join(f"{100 * share:.1f}" for share in paper.layer_sparsity)
    theirs = f"the paper {100 * paper.error:.2f} {layers} {paper.compression:.0f}x"
    shown = next(content for remark, _, content in blocks("README.md") if remark == "output: MNIST")
    assert [" ".join(line.split()) for line in shown.splitlines()][2:4] == [ours, theirs]


@pytest.mark.parametrize("page", PAGES)
def test_shown_commands_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = [content for _, language, content in blocks(page) if language == "sh"]
    rows = re.findall(r"^\| `(svd-numpy [\w -]+)` \|", text_of[page], re.MULTILINE)
    inline = [command for command in re.findall(r"`((?:make|svd-numpy) [^`]+)`", text_of[page]) if command not in rows]
    for line in [line for content in shown for line in content.splitlines()] + inline:
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        if words and words[0] == "make":
            assert set(words[1:]) <= targets, f"{page}: {line}"
        elif words and words[0].endswith("svd-numpy"):
            parse(words[1:])
    for command in rows:
        with pytest.raises(SystemExit) as stop:
            parse([command.split()[1], "--help"])
        assert stop.value.code == 0, f"{page}: {command}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_exist(document: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of[document]):
        if link.startswith("https://"):
            continue
        assert not link.startswith(("http:", "/", "#")), f"{document}: {link} is neither https nor relative"
        target = (ROOT / document).parent / link
        assert target.exists(), f"{document}: {link} does not exist"
        begin = PICTURE.get(target.suffix, b"")
        assert target.read_bytes().startswith(begin) if begin else True, f"{link} is no {target.suffix} picture"


def test_named_files_exist() -> None:
    folders = ("svd_numpy", "tests", "benchmarks", "campaigns", "docs")
    for document in [*PAGES, "CONTRIBUTING.md"]:
        for name in re.findall(rf"`((?:{'|'.join(folders)})/[\w/.]+\.(?:py|png|gif))`", text_of[document]):
            assert (ROOT / name).exists(), f"{document}: {name} does not exist"


@pytest.mark.parametrize("index", ["README.md", "docs/guide/README.md"])
def test_every_page_of_the_guide_can_be_reached(index: str) -> None:
    folder = (ROOT / index).parent
    linked = {(folder / link).resolve() for link in re.findall(r"\]\(([^)\s]+\.md)\)", text_of[index])}
    assert {ROOT / page for page in GUIDE} - {ROOT / index} <= linked


def test_pages_are_short() -> None:
    assert len(text_of["README.md"].encode()) <= 12_000
    prose = {page: re.sub(r"^\|.*\n", "", text_of[page], flags=re.MULTILINE) for page in GUIDE}
    assert {page: len(text.encode()) for page, text in prose.items() if len(text.encode()) > 5_000} == {}


def plan_of_the_house() -> set[str]:
    """The folders and loose files of the package that the tree in CONTRIBUTING.md names, relative to svd_numpy/."""
    found = re.search(r"```text\nsvd_numpy/\n((?:  .*\n)*)", text_of["CONTRIBUTING.md"])
    assert found, "CONTRIBUTING.md: the tree that begins with svd_numpy/ is missing"
    names, folders = set(), list[str]()
    for line in found[1].splitlines():
        entry, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2 - 1
        folders = [*folders[:depth], entry]
        names.add("".join(folders))
    return names


def test_the_plan_shows_the_house_that_stands() -> None:
    package = ROOT / "svd_numpy"
    folders = {f"{path.parent.relative_to(package)}/" for path in package.glob("**/__init__.py")} - {"./"}
    assert plan_of_the_house() == folders | {path.name for path in package.glob("*.py")}


def marked(page: str) -> dict[str, str]:
    """What stands between markers on a page, by the markers' name."""
    found = re.findall(r"<!-- ([\w-]+):begin -->(.*?)<!-- \1:end -->", text_of[page], re.DOTALL)
    assert len(found) == len(re.findall(r"<!-- [\w-]+:(?:begin|end) -->", text_of[page])) / 2, (
        f"{page}: a marker is alone"
    )
    return dict(found)


def test_every_table_stands_somewhere() -> None:
    assert {name for page in PAGES for name in marked(page)} == set(TABLES)


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_that_the_scripts_wrote(page: str) -> None:
    for name, table in marked(page).items():
        pattern = TABLES[name]
        if pattern is None:
            continue
        rows = [line for line in table.splitlines() if line.startswith("|") and re.search(r"\d", line)]
        assert rows, f"{page}: no table between the markers of {name}"
        written = sorted(RESULTS.glob(pattern))
        lines = {line for path in written for line in path.read_text(encoding="utf-8").splitlines()}
        assert [row for row in rows if row not in lines] == [], "rows that no file in benchmarks/results holds"


@pytest.mark.parametrize("page", PAGES)
def test_means_and_their_spread_stand_in_a_table_that_the_page_links_to(page: str) -> None:
    linked = set(re.findall(r"benchmarks/results/([\w-]+\.md)\)", text_of[page]))
    written = "\n".join((RESULTS / name).read_text(encoding="utf-8") for name in linked)
    assert [shown for shown in re.findall(r"\d+\.\d+ ± \d+\.\d+", text_of[page]) if shown not in written] == []


def test_the_first_sentence_says_what_svd_means() -> None:
    first = text_of["README.md"].split("\n\n")[1]
    assert "Sparse Variational Dropout" in first and "never the singular value decomposition" in first


def test_the_keys_of_the_log_are_those_documented() -> None:
    model = svd.Sequential(svd.VariationalDense(784, 10), backend="numpy")
    fit: Callable[..., Any] = svd.fit
    data = svd.load("digits").split(200)
    (record, *_) = fit(model, data, svd.TrainConfig(epochs=1, batch_size=500), progress=False)
    table = marked("docs/guide/runs.md")["log"]
    documented = {key for line in table.splitlines() if line.startswith("| `") for key in
                  re.findall(r"`(\w+)`", line.split("|")[1])}  # fmt: skip
    assert documented == {"schema", *record}


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{svd.__version__}]" in text_of["CHANGELOG.md"]
