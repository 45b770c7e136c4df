"""The site: formulas become MathML, folded cells fold, and no link or picture is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

for library in ("markdown_it", "mdit_py_plugins", "latex2mathml", "pdoc"):
    pytest.importorskip(library, reason="the site extra is not installed: pip install -e '.[site]'")

import make_site  # noqa: E402


def test_pages_of_tutorials_are_whole(tmp_path: Path) -> None:
    make_site.build_tutorials(tmp_path)
    pages = sorted(tmp_path.glob("[0-9]*.html"))
    assert len(pages) == len(list((ROOT / "notebooks").glob("*.ipynb")))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<math" in text and "data:image/png" in text and "<summary>Solution</summary>" in text
        assert not re.search(r"<m[a-z]+[^>]*>[^<]*\\", text), f"{page.name}: a formula was not understood"
        assert 'src="http' not in text and '<link rel="stylesheet"' not in text  # opens without a network
    missing = [line for line in make_site.missing_links(tmp_path) if ": api/" not in line]
    assert missing == []


def test_a_missing_picture_is_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<a href="gone.html#x">x</a> <img src="https://example.org/a.png">')
    assert make_site.missing_links(tmp_path) == ["index.html: gone.html#x"]


@pytest.mark.slow
def test_the_whole_site_has_no_missing_link(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_site.py"), str(tmp_path / "site")],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "site" / "api" / "svd_numpy" / "micro.html").exists()
