"""The house rules: dependencies agree, imports are light and point one way, nothing is unsafe."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from arrows import MODULES, PACKAGE, ROOT, SOURCES, arrows, imported, module_name

import svd_numpy

MOST_LINES = 450

# Folders of the package, each with those whose files its own may import, files loose in svd_numpy/ under their names.
# Which file imports which is in arrows.txt.
ROOMS = {
    "checks": set(),
    "micro": set(),
    "files": {"checks"},
    "data": {"checks", "files"},
    "kernels": {"checks"},
    "network": {"checks", "data", "files", "kernels"},
    "plots": {"checks", "files", "network"},
    "train": {"checks", "data", "files", "kernels", "network"},
    "sparse": {"checks", "files", "kernels", "network", "plots"},
    "assess": {"checks", "data", "kernels", "network", "plots"},
    "tabular": {"checks", "data", "network", "sparse", "train"},
    "exchange": {"checks", "files", "kernels", "network", "sparse"},
    "experiments": {
        "assess", "checks", "data", "files", "kernels", "network", "plots", "sparse", "svd_numpy", "tabular", "train",
    },
    "cli": {
        "checks", "data", "exchange", "experiments", "files", "kernels", "network", "plots", "sparse", "train",
        "svd_numpy",
    },
    "__main__": {"cli"},
    "svd_numpy": set(),  # the package itself resolves its names on first use
}  # fmt: skip
MOST_ROOMS = 13


def room(module: str) -> str:
    """kernels.cpu.sweep -> kernels."""
    return module.split(".")[0]


# ------------------------------------------------------------ what is installed


def pyproject() -> dict[str, dict[str, object]]:
    """The parsed pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_requirements_are_the_dependencies_and_the_notebook_extra() -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict) and isinstance(project["dependencies"], list)
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert sorted(listed) == sorted(project["dependencies"] + extras["notebook"])


def test_every_outside_import_is_declared() -> None:
    project = pyproject()["project"]
    assert isinstance(project["dependencies"], list)
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    optional = ("cuda", "export", "cluster", "tensorboard", "mlflow", "mpi")
    requirements = [*project["dependencies"], *(line for extra in optional for line in extras[extra])]
    declared = {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}
    distribution = {
        "sklearn": "scikit-learn",
        "PIL": "matplotlib",
        "llvmlite": "numba",
        "cuda": "numba-cuda",
        "mlflow": "mlflow-skinny",
    }  # the latter bring the former
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"svd_numpy"}:
                assert distribution.get(name, name) in declared, f"{path.name} imports {name}, which is not declared"


def test_versions_agree() -> None:
    assert f"\nversion: {svd_numpy.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_citation_names_the_paper_and_the_licence() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for words in (
        "Variational Dropout Sparsifies Deep Neural Networks",
        "Molchanov",
        "Ashukha",
        "Vetrov",
        "2017",
    ):
        assert words in text
    assert "license: BSD-3-Clause" in text
    assert "The svd_numpy authors" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, svd_numpy; dir(svd_numpy);"
        "heavy = {'numba', 'matplotlib', 'scipy', 'sklearn', 'pooch', 'tqdm', 'tyro'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", sorted(set(svd_numpy.__all__) - {"__version__"}))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(svd_numpy, name)
    assert (value.__doc__ or "").strip(), f"svd_numpy.{name} has no docstring"
    assert getattr(value, "__name__", name) == name


def test_no_public_name_is_also_a_module() -> None:
    """Importing svd_numpy.x sets the attribute x of svd_numpy to the module, over a function x."""
    modules = {room(name) for name in MODULES}
    assert sorted(set(svd_numpy.__all__) & modules) == []


# ------------------------------------------------------------ how it is built


def test_a_newcomer_finds_his_way_in() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert len(folders) <= MOST_ROOMS
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "checks"}


def test_the_rooms_import_what_is_written_here_and_nothing_else() -> None:
    found: dict[str, set[str]] = {room(name): set() for name in MODULES}
    for name, path in MODULES.items():
        found[room(name)] |= {room(other) for other in imported(path)} - {room(name)}
    assert found == ROOMS


def test_the_files_import_what_is_written_down_and_nothing_else() -> None:
    written = (ROOT / "tests" / "arrows.txt").read_text(encoding="utf-8")
    assert arrows() == written, "if the change is meant: python tests/arrows.py > tests/arrows.txt"


@pytest.mark.parametrize("level", ["files", "rooms"])
def test_imports_go_in_no_circle(level: str) -> None:
    uses = ROOMS if level == "rooms" else {name: imported(path) for name, path in MODULES.items()}
    below: set[str] = set()
    while len(below) < len(uses):
        ready = {name for name, others in uses.items() if name not in below and others <= below}
        assert ready, f"these import one another in a circle: {sorted(set(uses) - below)}"
        below |= ready


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_public_function_and_class_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    if path.name.startswith("_"):
        return  # a private module: its functions are known to their neighbours only
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and "overload" in map(ast.unparse, node.decorator_list):
            continue  # a signature for type checkers; what it says stands in the function itself
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_unsafe(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "cPickle", "shelve", "marshal"} & {name.split(".")[0] for name in names}
            # joblib also reads pickles; its processes may be used
            assert "joblib" not in names or {*names} <= {"joblib", "Parallel", "delayed", "parallel_config"}
        if isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            assert not (node.arg == "allow_pickle" and value is not False), f"{path.name}:{node.value.lineno}"
            assert not (node.arg == "fastmath" and value is True), f"{path.name}:{node.value.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            given = {keyword.arg for keyword in node.keywords}
            assert "allow_pickle" in given, f"{path.name}:{node.lineno}: np.load without allow_pickle=False"


def test_the_public_workflow_only_calls_the_script_that_runs_everywhere() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ *- run: (.*)$", text, re.MULTILINE) == [".ci/run"]
    assert {"ubuntu-latest", "windows-latest", "macos-latest"} <= {*re.findall(r"[\w-]+-latest", text)}
    assert "secrets" not in text and "contents: read" in text


def test_tables_name_no_place_on_a_disk() -> None:
    places = re.compile(r"(?<![\w.:/])/(?:home|tmp|root|opt|work|Users|mnt)/|\b[A-Z]:\\\\")
    results = [path for path in (ROOT / "benchmarks" / "results").iterdir() if path.suffix in (".md", ".json")]
    assert results and [path.name for path in results if places.search(path.read_text(encoding="utf-8"))] == []
