"""The cache of compiled kernels: it notices every edit, and processes that share it never get each other's code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrows import MODULES, PACKAGE, imported
from processes import environment

from svd_numpy.kernels.cpu import jit, simd


def load_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- What the fingerprint covers ---


def test_the_fingerprint_covers_all_that_can_be_compiled_in() -> None:
    """Constants, too, are compiled in: so every module that a kernel's module imports counts, and what that imports."""
    needed = {name for name in MODULES if name.startswith("kernels.cpu")}
    while more := {other for name in needed for other in imported(MODULES[name])} - needed:
        needed |= more
    assert "checks" in needed  # it holds LARGEST_INPUT
    assert {MODULES[name] for name in needed} <= set(jit.sources())


def test_an_edit_in_any_of_these_files_changes_the_fingerprint(tmp_path: Path) -> None:
    for path in jit.sources():
        copy = tmp_path / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    copied = load_module(tmp_path / "kernels" / "cpu" / "jit.py")
    assert len(copied.sources()) == len(jit.sources()) > 20
    found = {copied.fingerprint.__wrapped__()}
    for number, path in enumerate(copied.sources()):
        path.write_text(path.read_text() + "\n# a word more\n")
        found.add(copied.fingerprint.__wrapped__())
        assert len(found) == number + 2, path.name
    assert jit.fingerprint() in found


def test_every_kernel_bears_the_fingerprint() -> None:
    noise_row: Any = simd.noise_row
    file = noise_row._cache._cache_file
    assert isinstance(file, jit._SharedCacheFile) and file._source_stamp == jit.fingerprint()


def test_numba_asks_for_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attribute that holds it is private to Numba: a release that no longer reads it is noticed here."""
    path = tmp_path / "stamped.py"
    path.write_text("from svd_numpy.kernels.cpu.jit import kernel\n\n\n@kernel()\ndef add(a, b):\n    return a + b\n")

    def hits(fingerprint: str) -> int:
        monkeypatch.setattr(jit, "fingerprint", lambda: fingerprint)
        module = load_module(path)
        assert module.add(1, 2) == 3
        return sum(module.add.stats.cache_hits.values())

    assert [hits("a"), hits("a"), hits("b"), hits("b")] == [0, 1, 0, 1]


# --- Several processes at a time ---


def cache_file(folder: Path, fingerprint: str = "sources") -> Any:
    return jit._SharedCacheFile(str(folder), "kernel", fingerprint)


def test_two_processes_that_write_at_once_do_not_mix_up_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cache_file(tmp_path), cache_file(tmp_path)
    save_data = first._save_data

    def late(name: str, data: Any) -> None:
        monkeypatch.setattr(second, "_load_index", dict)  # it has read the index before the first one wrote it
        second.save("floats", "code for floats")
        save_data(name, data)

    monkeypatch.setattr(first, "_save_data", late)
    first.save("integers", "code for integers")
    found = [cache_file(tmp_path).load(key) for key in ("integers", "floats")]
    assert found[0] in (None, "code for integers") and found[1] in (None, "code for floats")


def test_code_from_other_sources_is_not_taken_for_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = cache_file(tmp_path, "old"), cache_file(tmp_path, "new")
    old.save("floats", "old code")
    assert old.load("floats") == "old code" and new.load("floats") is None
    load_data = old._load_data

    def late(name: str) -> Any:
        new.save("floats", "new code")  # after the old one has read the index
        return load_data(name)

    monkeypatch.setattr(old, "_load_data", late)
    assert old.load("floats") is None
    assert new.load("floats") == "new code"


def test_processes_that_start_on_an_empty_cache_compute_the_same(tmp_path: Path) -> None:
    (tmp_path / "scaled.py").write_text(
        "from svd_numpy.kernels.cpu.jit import kernel\n\n\n"
        "@kernel(inline=True)\ndef twice(x):\n    return x + x\n\n\n"
        "@kernel()\ndef total(x):\n    found = x[0]\n    for i in range(1, len(x)):\n        found += twice(x[i])\n"
        "    return found\n"
    )
    code = (
        "import sys, numpy as np; sys.path.insert(0, '.'); from scaled import total\n"
        "for kind in sys.argv[1:]: print(kind, float(total(np.arange(9).astype(kind))))"
    )
    kinds = ["float32", "float64", "int32", "uint8"]
    variables = environment(NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    for _ in range(2):  # nothing is there; what the first ones have left
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code, *np.roll(kinds, shift)], cwd=tmp_path, env=variables, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for shift in range(3)
        ]  # fmt: skip
        for process in started:
            out, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            assert sorted(out.splitlines()) == sorted(f"{kind} 72.0" for kind in kinds)
