"""The `data` subcommand: where the data files are, and how to get them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Status:
    """List where each data set was found, and check that its files are intact."""

    def run(self) -> int:
        """Verify every file found; 1 when one is damaged."""
        from svd_numpy.data import status

        damaged = 0
        for row in status():
            state = "ok" if row["verified"] else "DAMAGED" if row["where"] else "missing"
            damaged += state == "DAMAGED"
            print(f"{row['name']:<17}{state:<9}{row['where'] or row['note']}")
            if row["where"] and row["note"]:
                print(f"{'':<26}{row['note']}")
        return 1 if damaged else 0


@dataclass(frozen=True)
class Fetch:
    """Download a data set into the user's cache, and verify it.

    Attributes
    ----------
    name : str
        "mnist", "fashion-mnist", "cifar10" or "cifar100".
    """

    name: str

    def run(self) -> int:
        """Fetch, unless an intact copy is there."""
        from svd_numpy.data import fetch

        print(f"{self.name} is in {fetch(self.name)}")
        return 0


@dataclass(frozen=True)
class Import:
    """Verify the data sets in a folder, and copy them into the user's cache.

    Attributes
    ----------
    path : path
        A folder with the original files, packed or unpacked; nothing in it is changed.
    """

    path: Path

    def run(self) -> int:
        """Import all or nothing."""
        from svd_numpy.data import import_folder

        print(f"now in the cache: {', '.join(import_folder(self.path))}")
        return 0


@dataclass(frozen=True)
class Data:
    """Look after the data files: status, fetch NAME, import PATH."""

    command: Status | Fetch | Import

    def run(self) -> int:
        """Run the command."""
        return self.command.run()
