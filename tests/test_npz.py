"""Files of named arrays in NumPy's own format: what is written comes back, and damage anywhere is said."""

from __future__ import annotations

import contextlib
import io
import random
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.files import npz
from svd_numpy.files.npz import read_npz, write_npz

ARRAYS = {
    "halves": np.linspace(-9, 9, 120, dtype=np.float16).reshape(8, 15),
    "bytes": np.arange(200, dtype=np.uint8),
    "alone": np.array(3.0),
}


def test_arrays_come_back_and_numpy_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    with np.load(path) as file:
        assert sorted(file.files) == sorted(ARRAYS)
    found = read_npz(path, ["halves", "alone"])
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_damage_anywhere_is_noticed_or_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged if place % 4 else whole[:place])
        try:
            found = read_npz(path, ARRAYS)
        except svd.SvdValueError as error:
            refused += 1
            assert str(path) in str(error) and "elete it" in str(error)
        else:  # a date, say, or an attribute that nobody reads
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(found[name], array)
    assert refused > 0.7 * len(whole)


def test_another_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, other=np.zeros(3))
    with pytest.raises(svd.SvdValueError, match=r"a\.npz lacks halves, alone"):
        read_npz(path, ["halves", "alone"])
    np.savez(path, halves=np.array([{}], dtype=object))
    with pytest.raises(svd.SvdValueError, match="damaged or not an"):
        read_npz(path, ["halves"])
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz", [])


def test_no_array_is_lost_with_a_piece_of_the_directory(tmp_path: Path) -> None:
    """A wrong length in a directory entry makes zipfile skip the entries after it, without a word."""
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    whole = path.read_bytes()
    entry = whole.index(b"PK\1\2")
    for field in range(46):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[entry + field] ^= 1 << bit
            path.write_bytes(damaged)
            with contextlib.suppress(svd.SvdValueError):
                assert read_npz(path, []).keys() == ARRAYS.keys()


def test_a_small_file_cannot_unpack_to_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, {"one": np.zeros(2**25, np.uint8), "two": np.zeros(2**25, np.uint8)})
    assert path.stat().st_size < 2**17
    monkeypatch.setattr(npz, "MOST_BYTES", 2**26)
    assert "more than 67108864 bytes" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:  # a header that asks for much more than there is
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**25,)})
        archive.writestr("one.npy", file.getvalue())
    assert "shape (33554432,) of uint8" in refused(path)


def refused(path: Path) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(svd.SvdValueError, match=r"a\.npz is damaged") as caught:
            read_npz(path, [])
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    return str(caught.value)
