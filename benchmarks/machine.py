"""What a table of timings must say about the machine, and how busy others keep it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PACKAGES = ("numpy", "numba", "torch")


def allowed_cores() -> list[int]:
    """Return the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def busy_seconds() -> float | None:
    """Return the seconds all processors have been busy since boot, or None where this cannot be read.

    Time stolen by the hypervisor counts as busy: somebody else had it.
    """
    try:
        with open("/proc/stat", encoding="ascii") as stat:
            fields = [int(field) for field in stat.readline().split()[1:9]]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


def wait_until_quiet(window_seconds: float, busy_share: float, deadline: float) -> None:
    """Sleep until the processors were nearly idle for one window, or until ``time.monotonic()`` is past."""
    while True:
        before = busy_seconds()
        time.sleep(window_seconds)
        after = busy_seconds()
        if before is None or after is None or time.monotonic() > deadline:
            return
        if after - before <= busy_share * window_seconds:
            return


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            for line in cpuinfo:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> dict[str, str]:
    """Return processor, cores, system and package versions ("absent" for a package not installed)."""
    description = {
        "cpu": cpu_model(),
        "cores": str(len(allowed_cores())),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            description[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            description[package] = "absent"
    return description


def one_line(description: dict[str, str]) -> str:
    """Return the description as the line that stands above a table."""
    versions = ", ".join(f"{name} {description[name]}" for name in ("python", *PACKAGES))
    return f"{description['cpu']}, {description['cores']} cores, {description['system']}; {versions}"


def shown(arguments: Sequence[str]) -> list[str]:
    """Arguments as they stand above a table, which names no place on a disk: an absolute path is only its last part."""
    return [os.path.basename(word) if os.path.isabs(word) else word for word in arguments]


def command_line() -> str:
    """Return this script's command and the date, as they stand above a table; --table alone changes no figure."""
    words = [
        "python",
        f"benchmarks/{os.path.basename(sys.argv[0])}",
        *(word for word in shown(sys.argv[1:]) if word != "--table"),
    ]
    return f"`{shlex.join(words)}`, {datetime.date.today().isoformat()}"


def head(title: str, commands: Sequence[str]) -> list[str]:
    """The first lines of a table that grows: its title, this machine, and the commands that made it."""
    return [f"# {title}", "", f"* Machine: {one_line(describe())}", *(f"* Command: {one}" for one in commands)]


def added(path: Path, key: str, new: Mapping[str, Any], command: str) -> tuple[list[str], dict[str, Any]]:
    """Return commands and rows, by name, of a JSON file with new rows; the command is added if it changes any."""
    kept = json.loads(path.read_text()) if path.exists() else {"commands": [], key: {}}
    rows = kept[key] | json.loads(json.dumps(new))  # tuples become lists, as they are in the file
    if rows == kept[key]:
        return kept["commands"], rows
    return [*(one for one in kept["commands"] if one != command), command], rows


def add_rows(
    out: Path, new: Mapping[str, Any], page: Callable[[list[str], list[Any]], str], order: Callable[[Any], Any]
) -> str:
    """Add rows, by name, to OUT.json, and write OUT.md: what `page` makes of the commands and of all rows in order."""
    from svd_numpy.files.atomic import write_atomic  # not by peers, whose start is measured

    commands, rows = added(out.with_suffix(".json"), "rows", new, command_line())
    text = page(commands, sorted(rows.values(), key=order))
    write_atomic(out.with_suffix(".json"), json.dumps({"commands": commands, "rows": rows}, indent=1).encode())
    write_atomic(out.with_suffix(".md"), text.encode())
    return text
