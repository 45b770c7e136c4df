"""The cache of compiled kernels: it notices every edit, and processes that share it never get each other's code."""

from __future__ import annotations

import errno
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrows import MODULES, PACKAGE, imported
from numba.core.caching import CacheImpl
from processes import environment

from svd_numpy.kernels.cpu import jit, simd


def load_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_kernel(folder: Path) -> Path:
    path = folder / "stamped.py"
    path.write_text("from svd_numpy.kernels.cpu.jit import kernel\n\n\n@kernel()\ndef add(a, b):\n    return a + b\n")
    return path


# --- What the fingerprint covers ---


def test_the_fingerprint_covers_all_that_can_be_compiled_in() -> None:
    """Constants, too, are compiled in: so every module that a kernel's module imports counts, and what that imports."""
    needed = {name for name in MODULES if name.startswith("kernels.cpu")}
    while more := {other for name in needed for other in imported(MODULES[name])} - needed:
        needed |= more
    assert "checks" in needed  # it holds LARGEST_INPUT
    assert {MODULES[name] for name in needed} <= set(jit.sources(PACKAGE))


def test_an_edit_in_any_of_these_files_changes_the_fingerprint(tmp_path: Path) -> None:
    copies = list[Path]()
    for path in map(Path, map(str, jit.sources(PACKAGE))):
        copy = tmp_path / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copies.append(copy)
    assert copies == jit.sources(tmp_path) and len(copies) > 20
    found = {jit.digest(jit.sources(tmp_path))}
    assert found == {jit.fingerprint()}
    for number, path in enumerate(copies):
        path.write_text(path.read_text() + "\n# a word more\n")
        found.add(jit.digest(jit.sources(tmp_path)))
        assert len(found) == number + 2, path.name


def test_the_fingerprint_of_a_package_in_a_zip_is_that_of_its_sources(tmp_path: Path) -> None:
    package, code = tmp_path / "package.zip", "from svd_numpy.kernels.cpu import jit; print(jit.fingerprint())"
    with zipfile.ZipFile(package, "w") as file:
        for path in PACKAGE.rglob("*.py"):
            file.write(path, path.relative_to(PACKAGE.parent))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(PYTHONPATH=str(package)), text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.stdout.strip() == jit.fingerprint(), done.stderr


def test_no_sources_are_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "kernels" / "cpu").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no source files"):
        jit.sources(tmp_path)


def test_every_kernel_bears_the_fingerprint() -> None:
    noise_row: Any = simd.noise_row
    file = noise_row._cache._cache_file
    assert isinstance(file, jit._SharedCacheFile) and file._source_stamp == jit.fingerprint()


def test_numba_asks_for_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attribute that holds it is private to Numba: a release that no longer reads it is noticed here."""
    path = write_kernel(tmp_path)

    def hits(fingerprint: str) -> int:
        monkeypatch.setattr(jit, "fingerprint", lambda: fingerprint)
        module = load_module(path)
        assert module.add(1, 2) == 3
        return sum(module.add.stats.cache_hits.values())

    assert [hits("a"), hits("a"), hits("b"), hits("b")] == [0, 1, 0, 1]


# --- No place for a cache, or a damaged one ---


def hits_of(path: Path) -> int:
    module = load_module(path)
    assert module.add(1, 2) == 3
    return sum(module.add.stats.cache_hits.values())


def flipped(data: bytes, at: float) -> bytes:
    place = int(at * (len(data) - 1))
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda data: data[: len(data) // 2], lambda data: data[:-1],
     *[lambda data, at=at: flipped(data, at) for at in (0, 0.1, 0.3, 0.5, 0.7, 0.9)]],
)  # fmt: skip
def test_a_damaged_file_is_replaced(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    """A power cut leaves empty files, for example. Whether a flipped bit matters to the index is for pickle to say."""
    path = write_kernel(tmp_path)
    assert hits_of(path) == 0
    (file,) = (tmp_path / "__pycache__").glob(f"*.{suffix}")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert hits_of(path) == 0 or suffix == "nbi"
    assert hits_of(path) == 1


def test_without_a_writable_folder_kernels_run_and_one_warning_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jit.warn_once.cache_clear()
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])  # as if every one had found its folder read-only
    path = write_kernel(tmp_path)
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR") as said:
        assert [hits_of(path), hits_of(path)] == [0, 0]
    assert len(said) == 1


def test_a_full_disk_does_not_stop_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    jit.warn_once.cache_clear()
    monkeypatch.setattr(jit._SharedCacheFile, "save", full)
    with pytest.warns(RuntimeWarning, match="cannot be kept on disk"):
        assert hits_of(write_kernel(tmp_path)) == 0


def test_without_sources_no_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise FileNotFoundError("no source files")

    jit.warn_once.cache_clear()
    monkeypatch.setattr(jit, "fingerprint", missing)
    with pytest.warns(RuntimeWarning, match="cannot be kept on disk"):
        assert hits_of(write_kernel(tmp_path)) == 0
    assert not list((tmp_path / "__pycache__").glob("*.nb?"))


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
