"""Where the commands print: a standard output that fails must not look like a command that failed."""

from __future__ import annotations

import os
import sys


def release_stdout() -> None:
    """Flush stdout. If that fails, let the rest go nowhere: Python would flush again at exit, and complain."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
