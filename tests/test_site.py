"""The site: every page is there, formulas become MathML, folded cells fold, and no link or picture is missing."""

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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages but the API reference."""
    folder = tmp_path_factory.mktemp("site")
    make_site.build_pages(folder)
    return folder


def names(folder: Path, pattern: str) -> set[str]:
    """Names of files without their endings."""
    return {path.stem for path in folder.glob(pattern)}


def test_every_page_of_guide_and_tutorials_is_there(site: Path) -> None:
    guide, notebooks = ROOT / "docs" / "guide", ROOT / "notebooks"
    assert names(site / "docs" / "guide", "*.html") == names(guide, "*.md") - {"README"} | {"index"}
    assert names(site / "notebooks", "*.html") == names(notebooks, "*.ipynb") | {"index", "lecturers"}
    assert (site / "index.html").exists() and (site / "CONTRIBUTING.html").exists()


def test_no_link_or_picture_is_missing(site: Path) -> None:
    reference = {f"{path.relative_to(ROOT).with_suffix('')}" for path in (ROOT / "svd_numpy").rglob("*.py")}
    for line in make_site.missing_links(site):
        page, _, link = line.partition(": ")
        module = (Path(page).parent / link).as_posix().rpartition("api/")[2].removesuffix(".html")
        assert "api/" in link and (module in reference or f"{module}/__init__" in reference), line


def test_formulas_are_understood_and_pages_open_without_a_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<m[a-z]+[^>]*>[^<]*\\", text), f"{page.name}: a formula was not understood"
        assert "$$" not in text and 'class="language-math"' not in text, f"{page.name}: a formula was not seen"
        assert 'src="http' not in text and '<link rel="stylesheet"' not in text
    for page in [*(site / "notebooks").glob("[0-9]*.html")]:
        text = page.read_text(encoding="utf-8")
        assert "<math" in text and "data:image/png" in text and "<summary>Blanks and hints</summary>" in text
        assert "# Solution" not in text
    assert "<math" in (site / "docs" / "guide" / "method.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["docs/guide", "notebooks"])
def test_a_reader_can_go_through_all_pages_from_one_to_the_next(site: Path, folder: str) -> None:
    page, seen = site / folder / "index.html", list[str]()
    while True:
        text = page.read_text(encoding="utf-8")
        assert ('rel="prev"' in text) == bool(seen)
        seen.append(page.stem)
        following = re.search(r'rel="next" href="([^"]+)"', text)
        if following is None:
            break
        page = page.parent / following[1]
    assert len(set(seen)) == len(seen) and set(seen) == names(site / folder, "*.html")


def test_a_missing_picture_is_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<a href="gone.html#x">x</a> <img src="https://example.org/a.png">')
    assert make_site.missing_links(tmp_path) == ["index.html: gone.html#x"]


def test_a_link_out_of_the_site_is_found(tmp_path: Path) -> None:
    (tmp_path / "outside.png").touch()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text('<img src="../outside.png">')
    assert make_site.missing_links(tmp_path / "site") == ["index.html: ../outside.png"]


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
