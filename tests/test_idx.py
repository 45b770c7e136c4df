"""The IDX reader: round trips and hostile files."""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_tools import idx_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_numpy import data
from svd_numpy.data import idx


@settings(max_examples=60, deadline=None)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), packed=st.booleans(), seed=st.integers(0, 99))
def test_read_idx_returns_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], packed: bool, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.getbasetemp() / "roundtrip"  # no .gz: gzip is known by its content
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    read = data.read_idx(path)
    assert read.dtype == np.uint8 and read.flags.writeable and read.flags.c_contiguous
    np.testing.assert_array_equal(read, array)
    assert idx.idx_header(array.shape) + array.tobytes() == idx_bytes(array)


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
PACKED = gzip.compress(GOOD, mtime=0)
HOSTILE = {
    "empty": (b"", "starts with"),
    "three bytes": (GOOD[:3], "starts with"),
    "web page": (b"<!DOCTYPE html><html>404", "starts with"),
    "wrong type": (b"\x00\x00\x0d" + GOOD[3:], "starts with"),
    "no dimension": (b"\x00\x00\x08\x00", "starts with"),
    "five dimensions": (b"\x00\x00\x08\x05" + bytes(20), "starts with"),
    "cut in header": (GOOD[:9], "ends inside its header"),
    "cut in values": (GOOD[:-1], "only 23 bytes follow"),
    "trailing byte": (GOOD + b"\x00", "more bytes follow"),
    "huge dimensions": (b"\x00\x00\x08\x04" + b"\xff" * 16 + b"abc", "at most"),
    "huge dimensions of nothing": (b"\x00\x00\x08\x04\x00\x00\x00\x01" + b"\xff" * 8 + bytes(4), "at most"),
    "large claim": (b"\x00\x00\x08\x01" + (1 << 29).to_bytes(4, "big") + b"abc", "only 3 bytes follow"),
    "gzip cut short": (PACKED[:-12], "cut short"),
    "gzip without its checksum": (PACKED[:-8], "cut short"),
    "gzip header only": (PACKED[:10], "cut short"),
    "gzip wrong checksum": (PACKED[:-8] + b"\x00" * 4 + PACKED[-4:], "damaged"),
    "gzip flipped bits": (PACKED[:12] + bytes(b ^ 0xFF for b in PACKED[12:20]) + PACKED[20:], "damaged"),
    "gzip then junk": (PACKED + b"junk", "damaged"),
    "gzip of a cut file": (gzip.compress(GOOD[:-5]), "only 19 bytes follow"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_read_idx_refuses_hostile_files(tmp_path: Path, case: str) -> None:
    content, expected = HOSTILE[case]
    path = tmp_path / "victim-idx3-ubyte"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(data.DataError, match=expected) as caught:
            data.read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 8 << 20  # the largest case claims 512 MiB


def test_any_flipped_or_missing_byte_gives_an_array_or_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "fuzzed"
    for _ in range(300):
        blob = bytearray(PACKED if rng.random() < 0.6 else GOOD)
        for _ in range(rng.integers(1, 4)):
            blob[rng.integers(len(blob))] = rng.integers(256)
        path.write_bytes(blob[: rng.integers(1, len(blob) + 1)])
        with contextlib.suppress(data.DataError):
            assert data.read_idx(path).nbytes <= len(GOOD)


def test_gzip_bomb_is_unpacked_no_further_than_announced(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(GOOD[:16])
        for _ in range(64):
            out.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(data.DataError, match="more bytes follow"):
            data.read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size < 1 << 20
    assert peak < 4 << 20


def test_read_idx_names_a_path_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(data.DataError, match="cannot be read") as caught:
            data.read_idx(path)
        assert str(path) in str(caught.value)


def test_without_xz_everything_else_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in browsers whose Python has no lzma."""
    monkeypatch.setitem(sys.modules, "lzma", None)
    for name, content in {"plain": GOOD, "gzip": PACKED}.items():
        (tmp_path / name).write_bytes(content)
        assert data.read_idx(tmp_path / name).shape == (2, 3, 4)
    (tmp_path / "xz").write_bytes(b"\xfd7zXZ\x00" + GOOD)
    with pytest.raises(data.DataError, match="packed by xz, which this Python cannot unpack"):
        data.read_idx(tmp_path / "xz")
    import_alone = "import sys; sys.modules['lzma'] = None; import svd_numpy.data"
    assert subprocess.run([sys.executable, "-c", import_alone]).returncode == 0
