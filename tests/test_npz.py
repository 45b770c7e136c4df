"""Files of named arrays in NumPy's own format: what is written comes back, and damage anywhere is said."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import svd_numpy as svd
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
