"""Bring docs/demo.html into step with svd_numpy/exchange/page/: today's style and scripts around the page's own data.

    python docs/make_demo.py

Nothing is trained: the network and the test digits are those that the page already holds. `make demo` trains anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from svd_numpy.exchange.page.html import filled_with
from svd_numpy.files.atomic import write_atomic

PAGE = Path(__file__).with_name("demo.html")
DATA = {
    "TITLE": r"<title>(.*?)</title>",
    "DESCRIPTION": r'<script id="description".*?>(.*?)</script>',
    "NUMBERS": r'<script id="numbers".*?>(.*?)</script>',
}


def data_of(page: str) -> dict[str, str]:
    """Return what a page shows, without how it shows it."""
    found = {name: re.search(pattern, page) for name, pattern in DATA.items()}
    return {name: match[1] for name, match in found.items() if match}


def renewed(page: str) -> str:
    """Return the page as it would be written today, with the same data."""
    return filled_with(data_of(page))


def main() -> None:
    """Rewrite the page if it has fallen behind."""
    old = PAGE.read_text(encoding="utf-8")
    new = renewed(old)
    if new != old:
        write_atomic(PAGE, new.encode())
        print(f"{PAGE.name} had fallen behind its sources, and was written anew")


if __name__ == "__main__":
    main()
