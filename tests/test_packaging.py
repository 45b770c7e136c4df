"""The house rules: dependencies agree, imports are light and point one way, nothing is unsafe."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import svd_numpy

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "svd_numpy"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 450

# Who may import whom, also inside functions; `x` stands for svd_numpy/x.py or the folder svd_numpy/x.
ALLOWED = {
    # ground: nothing of ours
    "checks": set(),
    "_files": set(),
    "data": set(),
    "micro": set(),
    # files and formulas
    "safe_arrays": {"_files"},
    "runlog": {"_files"},
    "checkpoint": {"_files", "safe_arrays", "runlog"},
    "frames": {"_files"},
    "_panels": {"frames"},
    "_network_plots": {"_panels"},
    "plots": {"_network_plots", "_panels"},
    "evaluation_plots": {"_panels"},
    "animate": {"_files", "_panels", "frames", "plots"},
    "priors": {"checks"},
    "params": {"checks", "kernels"},
    "optim": {"checks"},
    # the network
    "kernels": {"checks", "priors"},
    "layers": {"checks", "kernels", "params"},
    "objective": {"checks", "kernels"},
    "model": {"checks", "checkpoint", "kernels", "layers", "objective", "params", "priors"},
    "sparsity": {"checks", "model", "priors"},
    "figures": {"layers", "model", "plots", "sparsity"},
    "sparse": {
        "_files", "checks", "checkpoint", "kernels", "layers", "model", "objective", "safe_arrays", "sparsity",
    },
    "storage": {"_files", "checks", "kernels", "layers", "model", "objective", "plots", "safe_arrays", "sparse"},
    "exchange": {"_files", "checks", "kernels", "layers", "model", "safe_arrays", "sparse", "sparsity"},
    "grad_check": {"checks", "layers", "model", "priors"},
    "uncertainty": {"checks", "model", "objective", "priors", "sparsity"},
    # training
    "console": set(),
    "ahead": {"kernels", "layers"},
    "train_config": {"checks", "optim"},
    "scoring": {"checks", "kernels", "layers", "model"},
    "trainer": {
        "checkpoint", "checks", "data", "kernels", "layers", "model", "optim", "scoring", "sparsity", "train_config",
    },
    "train": {
        "ahead", "checkpoint", "checks", "console", "data", "model", "runlog", "scoring", "train_config", "trainer",
    },
    "thresholds": {"checks", "data", "evaluation_plots", "model", "scoring", "sparsity"},
    "tabular": {"checks", "layers", "model", "objective", "train"},
    "estimators": {"checks", "data", "model", "objective", "sparsity", "tabular", "train"},
    "experiments": {
        "_files", "animate", "checkpoint", "checks", "console", "data", "evaluation_plots", "figures", "frames",
        "kernels", "layers", "model", "objective", "plots", "priors", "run_files", "runlog", "scoring", "sparsity",
        "tabular", "train", "uncertainty",
    },
    # the door
    "bench": set(),
    "run_files": {"_files", "figures", "frames", "model", "plots"},
    "doctor": {"", "data", "grad_check", "kernels", "layers", "model", "priors"},
    "cli_train": {"console", "data", "experiments"},
    "cli": {
        "animate", "bench", "checks", "cli_train", "data", "doctor", "experiments", "model", "run_files", "runlog",
        "scoring", "sparsity",
    },
    "__main__": {"cli"},
    "": set(),  # the package itself resolves its names on first use
}  # fmt: skip


def room(module: str) -> str:
    """svd_numpy.kernels.cpu -> kernels; svd_numpy -> ""."""
    return [*module.split("."), ""][1]


def module_name(path: Path) -> str:
    """Dotted name of a source file."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def is_type_checking(node: ast.AST) -> bool:
    """Whether this is `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those for the type checker alone."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not is_type_checking(child):
            yield from running_nodes(child)


def own_imports(path: Path) -> set[str]:
    """Rooms of this package that a source file imports."""
    rooms = set()
    for node in running_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {room(alias.name) for alias in node.names if alias.name.split(".")[0] == "svd_numpy"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            if node.module == "svd_numpy":  # from svd_numpy import priors, __version__
                names = {alias.name for alias in node.names}
                rooms |= {name if name in ALLOWED else "" for name in names}
            elif node.module and node.module.startswith("svd_numpy."):
                rooms.add(room(node.module))
    return rooms


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
    requirements = [*project["dependencies"], *extras["cuda"], *extras["export"]]
    declared = {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}
    distribution = {
        "sklearn": "scikit-learn",
        "PIL": "matplotlib",
        "llvmlite": "numba",
        "cuda": "numba-cuda",
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
    modules = {room(module_name(path)) for path in SOURCES}
    assert sorted(set(svd_numpy.__all__) & modules) == []


# ------------------------------------------------------------ how it is built


def test_the_list_of_rooms_is_complete_and_has_no_circle() -> None:
    assert {room(module_name(path)) for path in SOURCES} == set(ALLOWED)
    below: dict[str, int] = {}
    while len(below) < len(ALLOWED):
        ready = {name for name, uses in ALLOWED.items() if name not in below and uses <= set(below)}
        assert ready, f"these import one another in a circle: {sorted(set(ALLOWED) - set(below))}"
        below |= dict.fromkeys(ready, len(below))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    here = room(module_name(path))
    wrong = own_imports(path) - ALLOWED[here] - {here}
    assert not wrong, f"{path.name} may not import {sorted(wrong)}; allowed: {sorted(ALLOWED[here])}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_public_function_and_class_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    if path.name.startswith("_"):
        return  # a private module: its functions are known to their neighbours only
    for node in tree.body:
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
            assert not {"pickle", "cPickle", "joblib", "shelve", "marshal"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            assert not (node.arg == "allow_pickle" and value is not False), f"{path.name}:{node.value.lineno}"
            assert not (node.arg == "fastmath" and value is True), f"{path.name}:{node.value.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            given = {keyword.arg for keyword in node.keywords}
            assert "allow_pickle" in given, f"{path.name}:{node.lineno}: np.load without allow_pickle=False"
