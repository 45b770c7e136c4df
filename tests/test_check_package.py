"""What `make check-package` compares: nothing strays into wheel or sdist, and nothing is forgotten."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from check_package import check_files

FILES = {"README.md", "pyproject.toml", "svd_numpy/__init__.py", "svd_numpy/exchange/page/page.html", "tests/test_a.py"}


def pack(folder: Path, wheel: set[str], sdist: set[str]) -> tuple[Path, Path]:
    """Write archives with files of these names."""
    paths = folder / "a-1-py3-none-any.whl", folder / "a-1.tar.gz"
    with zipfile.ZipFile(paths[0], "w") as archive:
        for name in {*wheel, "a-1.dist-info/METADATA"}:
            archive.writestr(name, "")
    with tarfile.open(paths[1], "w:gz") as archive:
        for name in sdist:
            archive.addfile(tarfile.TarInfo(f"a-1/{name}"), io.BytesIO())
    return paths


def test_what_is_too_much_or_missing_is_named(tmp_path: Path) -> None:
    code = {name for name in FILES if name.startswith("svd_numpy/")}
    assert check_files(*pack(tmp_path, code, FILES | {"PKG-INFO"}), FILES) == []
    stray = pack(tmp_path, code | {"svd_numpy/notes.txt"}, FILES | {"PKG-INFO", "runs/model.safetensors"})
    assert check_files(*stray, FILES) == [
        "wheel: svd_numpy/notes.txt is too much",
        "sdist: runs/model.safetensors is too much",
    ]
    short = pack(tmp_path, code - {"svd_numpy/exchange/page/page.html"}, FILES | {"PKG-INFO"})
    assert check_files(*short, FILES) == ["wheel: svd_numpy/exchange/page/page.html is missing"]
