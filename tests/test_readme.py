"""The documents keep their word: snippets run, links and pictures exist, shown output is what is printed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import svd_numpy as svd
from svd_numpy.experiments.recipes import stretch

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SKIP = "<!-- test: skip -->"
EPOCHS = 2
PICTURE = {".png": b"\x89PNG\r\n\x1a\n", ".gif": b"GIF8"}


def snippets() -> list[str]:
    """The Python blocks of the README, in order, but those with the skip mark on the line before."""
    blocks = re.findall(rf"^({SKIP}\n)?```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [code for skip, code in blocks if not skip]


def shown_output() -> str:
    """What the README says the first example prints."""
    found = re.search(r"<!-- output:example -->\s*```text\n(.*?)```", README, re.DOTALL)
    assert found, "README.md: the block after <!-- output:example --> is missing"
    return found[1]


def layout(text: str) -> list[str]:
    """Lines with every number as 0 and every gap as one blank: labels, columns and rows remain."""
    return [" ".join(re.sub(r"\d[\d,.]*", "0", line).split()) for line in text.splitlines()]


def section(name: str) -> str:
    """The README between two markers."""
    found = re.search(rf"<!-- {name}:begin -->(.*?)<!-- {name}:end -->", README, re.DOTALL)
    assert found, f"README.md: the markers {name}:begin and {name}:end are missing"
    return found[1]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder; train for two epochs; take the small digits where MNIST is asked for."""
    real_train, real_fit = svd.train_mnist, svd.fit

    def train_mnist(**options: Any) -> svd.TrainResult:
        result = real_train(**options, dataset="digits", epochs=EPOCHS, progress=False)
        return replace(result, data=replace(result.data, name="mnist"))  # so that the paper's row is printed

    def fit(model: Any, data: Any, config: Any, *rest: Any, **options: Any) -> Any:
        return real_fit(model, data, stretch(config, EPOCHS), *rest, **options, progress=False)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(svd, "train_mnist", train_mnist)
    monkeypatch.setattr(svd, "fit", fit)


def test_the_snippets_run_one_after_another_and_print_what_is_shown(
    small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, Any] = {}
    outputs = []
    for code in snippets():
        exec(compile(code, "README.md", "exec"), namespace)
        outputs.append(capsys.readouterr().out)
    assert layout(outputs[0]) == layout(shown_output())
    assert "WRONG" not in "".join(outputs) and "ok" in outputs[1]  # the table of gradcheck


def test_every_kind_of_change_has_a_snippet() -> None:
    assert len(snippets()) >= 5
    assert len(snippets()[0].strip().splitlines()) - 2 <= 6  # the first example: six lines after the import


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_exist(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("https://"):
            continue
        assert not link.startswith(("http:", "/", "#")), f"{document}: {link} is neither https nor relative"
        target = path.parent / link
        assert target.exists(), f"{document}: {link} does not exist"
        begin = PICTURE.get(target.suffix, b"")
        assert target.read_bytes().startswith(begin), f"{link} is no {target.suffix} picture"


def test_named_files_exist() -> None:
    folders = ("svd_numpy", "tests", "benchmarks", "campaigns", "docs")
    for document in DOCUMENTS[:2]:
        text = (ROOT / document).read_text(encoding="utf-8")
        for name in re.findall(rf"`((?:{'|'.join(folders)})/[\w/.]+\.(?:py|png|gif))`", text):
            assert (ROOT / name).exists(), f"{document}: {name} does not exist"


def plan_of_the_house() -> set[str]:
    """The folders and loose files of the package that the tree in CONTRIBUTING.md names, relative to svd_numpy/."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"```text\nsvd_numpy/\n((?:  .*\n)*)", text)
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


@pytest.mark.parametrize(
    ("name", "pattern"), [("results", "lenet-*.md"), ("speed", "step*.md"), ("inference", "inference.md")]
)
def test_tables_are_those_that_the_scripts_wrote(name: str, pattern: str) -> None:
    rows = [line for line in section(name).splitlines() if line.startswith("|") and re.search(r"\d", line)]
    written = sorted((ROOT / "benchmarks" / "results").glob(pattern))
    if not written:
        pytest.skip(f"benchmarks/results/{pattern} is not written yet")
    lines = {line for path in written for line in path.read_text(encoding="utf-8").splitlines()}
    assert rows, f"README.md: no table between the markers of {name}"
    assert [row for row in rows if row not in lines] == [], "rows that no file in benchmarks/results holds"


def test_the_first_sentence_says_what_svd_means() -> None:
    first = README.split("\n\n")[1]
    assert "Sparse Variational Dropout" in first and "never the singular value decomposition" in first


def test_the_keys_of_the_log_are_those_documented(small: None) -> None:
    x = svd.load("digits")
    model = svd.Sequential(svd.VariationalDense(784, 10), backend="numpy")
    fit: Callable[..., Any] = svd.fit
    (record, *_) = fit(model, x, svd.TrainConfig(epochs=1, batch_size=500))
    documented = README.split("Each line of `metrics.jsonl` holds:")[1].split("**Stop")[0]
    keys = {key for line in documented.splitlines() if line.startswith("| `") for key in
            re.findall(r"`(\w+)`", line.split("|")[1])}  # fmt: skip
    assert keys == {"schema", *record}


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{svd.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
