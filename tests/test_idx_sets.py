"""Relatives of MNIST and one's own IDX files: names, shapes, labels, which way up, and what is refused."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_tools import RAW_NAMES, empty_cache, idx_bytes, make_files, pin, store  # noqa: F401
from numpy.typing import NDArray

import svd_numpy as svd
from svd_numpy import data
from svd_numpy.data import idx_sets, sources

ROWS = (7, 3)


def int_bytes(array: NDArray[Any]) -> bytes:
    return b"\x00\x00\x0c" + idx_bytes(np.zeros(array.shape, np.uint8))[3 : 4 + 4 * array.ndim] + array.astype(
        ">i4"
    ).tobytes()  # fmt: skip


def small(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a set few images, of 28 x 28 still."""
    known = idx_sets.IDX_SETS[name]
    files = tuple(
        replace(spec, shape=(ROWS[place // 2], *spec.shape[1:])) for place, spec in enumerate(known.files)
    )  # fmt: skip
    monkeypatch.setitem(idx_sets.IDX_SETS, name, replace(known, files=files))
    return known


def content(file_set: Any, first: int = 0) -> dict[str, NDArray[Any]]:
    """Images and labels of every file of a small set; each part holds the first and the last class."""
    rng, arrays = np.random.default_rng(0), {}
    for place, spec in enumerate(file_set.files):
        shape = (ROWS[place // 2], *spec.shape[1:])
        if "images" in spec.name:
            arrays[spec.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        elif len(shape) == 2:
            arrays[spec.name] = rng.integers(0, 2**20, shape)
            arrays[spec.name][:, 0] = np.arange(len(arrays[spec.name])) % 10
        else:
            labels = first + np.arange(shape[0]) % file_set.n_classes
            labels[-1] = first + file_set.n_classes - 1
            arrays[spec.name] = labels.astype(np.uint8)
    return arrays


def write(folder: Path, arrays: dict[str, NDArray[Any]], packed: bool = True) -> None:
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        raw = int_bytes(array) if name.endswith("-int") else idx_bytes(array)
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(raw) if packed else raw)


def test_the_sets_are_those_of_their_papers() -> None:
    counts = {name: (s.files[0].shape[0], s.files[2].shape[0], s.n_classes) for name, s in idx_sets.IDX_SETS.items()}
    assert counts == {
        "emnist-balanced": (112_800, 18_800, 47), "emnist-byclass": (697_932, 116_323, 62),
        "emnist-bymerge": (697_932, 116_323, 47), "emnist-digits": (240_000, 40_000, 10),
        "emnist-letters": (124_800, 20_800, 26), "emnist-mnist": (60_000, 10_000, 10),
        "kmnist": (60_000, 10_000, 10), "qmnist": (60_000, 60_000, 10),
    }  # fmt: skip
    balanced = idx_sets.IDX_SETS["emnist-balanced"]
    assert balanced.files[1].name == "emnist-balanced-train-labels-idx1-ubyte"
    assert idx_sets.IDX_SETS["qmnist"].files[1].content_bytes == 12 + 60_000 * 8 * 4


@pytest.mark.parametrize("name", idx_sets.IDX_SETS)
@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_set_is_read_in_any_of_its_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: int
) -> None:
    known = small(name, monkeypatch)
    first = 1 if name == "emnist-letters" else 0
    arrays = content(known, first)
    write(tmp_path / "data" / (*known.folders[:2], "")[place], arrays, packed=place == 0)
    found = data.load(name, tmp_path / "data")
    x_train, y_train, x_test, y_test = arrays.values()
    if name.startswith("emnist"):
        x_train, x_test = (np.stack([image.T for image in images]) for images in (x_train, x_test))
    if name == "qmnist":
        y_train, y_test = y_train[:, 0], y_test[:, 0]
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        np.testing.assert_array_equal(getattr(found, f"x_{part}"), x.reshape(len(x), -1))
        np.testing.assert_array_equal(getattr(found, f"y_{part}"), y.astype(int) - first)
    assert (found.name, found.n_classes, found.image_shape) == (name, known.n_classes, (1, 28, 28))
    assert "content not" in found.source
    (row,) = (row for row in data.status(tmp_path / "data") if row["name"] == name)
    assert row["verified"] and row["note"] == ""
    next((tmp_path / "data").rglob("*labels*")).write_bytes(b"")
    (row,) = (row for row in data.status(tmp_path / "data") if row["name"] == name)
    assert not row["verified"] and "starts with the bytes" in row["note"]


def test_kmnist_is_not_mistaken_for_mnist_nor_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have files of the same names."""
    small("kmnist", monkeypatch)
    monkeypatch.setitem(sources.FILE_SETS, "mnist", pin("mnist", files := make_files(1)))
    store(tmp_path, files)
    with pytest.raises(data.MissingDataError, match=r"the files in .* are those of 'mnist'"):
        data.load("kmnist", tmp_path)


def test_missing_files_are_named_and_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(data.MissingDataError) as caught:
        data.load("emnist-letters", tmp_path)
    assert "emnist-letters-train-images-idx3-ubyte (97843216 bytes)" in str(caught.value)
    with pytest.raises(data.MissingDataError, match="Download: there is none for this data set"):
        data.load("qmnist")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"emnist-digits-train-labels-idx1-ubyte": np.full(7, 10, np.uint8)}, r"holds labels 10..10; expected .* 0..9"),
        ({"emnist-digits-test-images-idx3-ubyte": np.zeros((3, 28, 27), np.uint8)}, r"holds shape \(3, 28, 27\)"),
    ],
)
def test_what_is_not_the_set_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    arrays = content(small("emnist-digits", monkeypatch))
    write(tmp_path / "data", arrays | change)
    with pytest.raises(data.DataError, match=words):
        data.load("emnist-digits", tmp_path / "data")


def test_integers_are_read_like_bytes(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 4))
    (tmp_path / "int").write_bytes(int_bytes(array))
    read = data.read_idx(tmp_path / "int")
    assert read.dtype == np.int32 and read.dtype.isnative and read.flags.writeable
    np.testing.assert_array_equal(read, array)
    for raw in (int_bytes(array)[:-1], int_bytes(array) + b"\0"):
        (tmp_path / "int").write_bytes(raw)
        with pytest.raises(data.DataError, match="48 bytes, but"):
            data.read_idx(tmp_path / "int")
    with pytest.raises(data.DataError, match="at most 47 bytes"):
        data.read_idx(tmp_path / "int", max_bytes=47)


# --- One's own ---


def own_files(folder: Path, names: tuple[str, ...] = RAW_NAMES, n_classes: int = 4) -> list[NDArray[Any]]:
    rng = np.random.default_rng(0)
    arrays = []
    for n in (40, 20):
        labels = (np.arange(n) % n_classes).astype(np.uint8)
        images = rng.integers(0, 60, (n, 20, 16), dtype=np.uint8)
        images[np.arange(n), labels * 3] += 150
        arrays += [images, labels]
    write(folder, dict(zip(names, arrays, strict=True)))
    return arrays


@pytest.mark.parametrize("names", [RAW_NAMES, tuple(f"my-{name.replace('t10k', 'test')}" for name in RAW_NAMES)])
def test_ones_own_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    x_train, y_train, x_test, y_test = own_files(tmp_path / "mine", names)
    found = data.load("idx", tmp_path / "mine")
    assert (found.n_classes, found.image_shape) == (4, (1, 20, 16))
    np.testing.assert_array_equal(found.x_train, x_train.reshape(40, -1))
    np.testing.assert_array_equal(found.x_test, x_test.reshape(20, -1))
    np.testing.assert_array_equal(found.y_train, y_train)
    np.testing.assert_array_equal(found.y_test, y_test)


def test_ones_own_files_are_trained_on(tmp_path: Path) -> None:
    own_files(tmp_path / "mine")
    options: dict[str, Any] = {"dataset": "idx", "data_dir": tmp_path / "mine", "epochs": 30, "batch_size": 10}
    result = svd.train_mnist(**options, kl_weight=0.01, backend="numpy", progress=False)
    assert result.dataset == "idx" and result.model.n_outputs == 4 and result.published is None
    assert result.test_error < 0.2


def test_ones_own_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(data.MissingDataError, match='"idx": got no data_dir'):
        data.load("idx")
    with pytest.raises(data.MissingDataError, match=r"got no file for \*train-images-idx3-ubyte"):
        data.load("idx", tmp_path)
    own_files(folder := tmp_path / "mine")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(data.MissingDataError, match=r"got \['t10k-labels-idx1-ubyte', 't10k-labels-idx1-ubyte.gz'\]"):
        data.load("idx", folder)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(19, np.uint8)))
    with pytest.raises(data.DataError, match=r"labels-idx1-ubyte: holds uint8 of shape \(19,\) for uint8 images"):
        data.load("idx", folder)
