"""Which file of the package imports which: `python tests/arrows.py > tests/arrows.txt` writes the tested list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "svd_numpy"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name of a source file below svd_numpy; of the package itself, "svd_numpy"."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__").removesuffix(".") or "svd_numpy"


MODULES = {module_name(path): path for path in SOURCES}


def is_type_checking(node: ast.AST) -> bool:
    """Whether this is `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those for the type checker alone."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not is_type_checking(child):
            yield from running_nodes(child)


def imported(path: Path) -> set[str]:
    """Modules of this package that a source file imports, also inside functions."""
    found = set()
    for node in running_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "svd_numpy":
                below = ".".join(rest)
                holder = ".".join(rest[:-1]) or "svd_numpy"  # of a name that is no module itself
                found.add(below if below in MODULES else holder)
    return found


def arrows() -> str:
    """The list: a line for each file, what it imports after the arrow."""
    lines = (f"{name} -> {', '.join(sorted(imported(path)))}" for name, path in MODULES.items())
    return "\n".join(line.rstrip() for line in lines) + "\n"


if __name__ == "__main__":
    print(arrows(), end="")
