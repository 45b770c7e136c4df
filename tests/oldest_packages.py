"""Print the oldest packages that pyproject.toml allows, as constraints for pip: what `make test-oldest` installs."""

from __future__ import annotations

import tomllib
from pathlib import Path


def oldest() -> list[str]:
    """The lower bound of every dependency, as an exact version."""
    with (Path(__file__).resolve().parents[1] / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    return [requirement.replace(">=", "==") for requirement in dependencies]


if __name__ == "__main__":
    print(*oldest(), sep="\n")
