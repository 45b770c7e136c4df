"""What a campaign has tried: counts by verdict, in a file from which an interrupted campaign goes on, and a table."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from svd_numpy.files.atomic import write_atomic

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
SAVE_SECONDS = 5.0  # a campaign that is killed repeats at most this much

Judgement = tuple[str, str, bool]  # verdict, what there is to say about it, whether it is a fault


class Tally:
    """Counts of one campaign, in `<name>.json`, and its report, in `<name>.md`.

    Parameters
    ----------
    folder : Path
    name : str
        Of the script, too.
    title, words : str
        What the report begins with.
    arguments : sequence of str, optional
        Those of the script; default: those of the process.
    """

    def __init__(self, folder: Path, name: str, title: str, words: str, arguments: Sequence[str] | None) -> None:
        self.json, self.report = folder / f"{name}.json", folder / f"{name}.md"
        self.title, self.words = title, words
        command = shlex.join(["python", f"campaigns/{name}.py", *(sys.argv[1:] if arguments is None else arguments)])
        earlier = json.loads(self.json.read_text()) if self.json.exists() else {"commands": [], "rows": {}}
        self.rows: dict[str, dict[str, Any]] = earlier["rows"]
        self.commands = [*(each for each in earlier["commands"] if each != command), command]

    def run(self, row: str, cases: int, judge: Callable[[int], Judgement]) -> None:
        """Judge the cases of a row that are not done yet; their numbers are their seeds."""
        entry = self.rows.setdefault(row, {"cases": 0, "verdicts": {}, "faults": []})
        saved = time.monotonic()
        for number in range(entry["cases"], cases):
            verdict, words, fault = judge(number)
            entry["cases"] = number + 1
            entry["verdicts"][verdict] = entry["verdicts"].get(verdict, 0) + 1
            if fault:
                entry["faults"].append([number, verdict, words])
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(entry["verdicts"].items()))
        print(f"{row}: {counts}; {len(entry['faults'])} faults", flush=True)

    @property
    def faults(self) -> int:
        """Faults in all rows."""
        return sum(len(entry["faults"]) for entry in self.rows.values())

    def save(self) -> None:
        """Write counts and report."""
        date = f"{datetime.date.today()}; {machine()}"
        content = {"commands": self.commands, "date": date, "rows": self.rows}
        write_atomic(self.json, json.dumps(content, indent=1).encode())
        write_atomic(self.report, self.table(date).encode())

    def table(self, date: str) -> str:
        """Return the report."""
        verdicts = sorted({verdict for entry in self.rows.values() for verdict in entry["verdicts"]})
        rows = [
            (row, entry["cases"], *(entry["verdicts"].get(verdict, 0) for verdict in verdicts), len(entry["faults"]))
            for row, entry in self.rows.items()
        ]
        total = ("**all**", *map(sum, zip(*(row[1:] for row in rows), strict=True)))
        lines = [
            f"# {self.title}\n\n{self.words}\n",
            f"| what | cases | {' | '.join(verdicts)} | faults |",
            "|--|--:|" + "--:|" * (len(verdicts) + 1),
            *(f"| {row} | " + " | ".join(f"{count:,}" for count in counts) + " |" for row, *counts in [*rows, total]),
        ]
        for row, entry in self.rows.items():
            lines += [f"\n{row}, case {number}: {verdict}: {words}" for number, verdict, words in entry["faults"][:20]]
        commands = ", ".join(f"`{command}`" for command in self.commands)
        return "\n".join([*lines, "", f"{commands}; {date}", ""])


def machine() -> str:
    """Describe where this runs."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba"))
    return f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, {packages}"
