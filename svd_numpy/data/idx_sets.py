"""Images in IDX files that are not pinned: the relatives of MNIST, and one's own. Shapes and labels are checked.

They are read from a folder and never downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.data.dataset import DataError, Dataset, MissingDataError
from svd_numpy.data.idx import read_idx
from svd_numpy.data.pinned import PACKINGS, FileSet, FileSpec
from svd_numpy.data.sources import existing_folder

OWN = "idx"  # the name of one's own files
_SIDE = 28


def _file(name: str, *shape: int, item_bytes: int = 1) -> FileSpec:
    return FileSpec(name, shape, "", item_bytes=item_bytes)


def _family(
    name: str, title: str, rows: tuple[int, int], n_classes: int, folders: tuple[str, ...], words: tuple[str, str]
) -> FileSet:
    """Return a set whose files are named like MNIST's, with these words for its two parts."""
    files = tuple(
        spec
        for word, n in zip(words, rows, strict=True)
        for spec in (_file(f"{word}-images-idx3-ubyte", n, _SIDE, _SIDE), _file(f"{word}-labels-idx1-ubyte", n))
    )
    return FileSet(name, title, files, folders, (), n_classes)


def _emnist(split: str, train: int, test: int, n_classes: int) -> FileSet:
    words = (f"emnist-{split}-train", f"emnist-{split}-test")
    folders = ("emnist", "EMNIST/raw", "EMNIST", "emnist/gzip", "gzip")
    return _family(f"emnist-{split}", f"EMNIST ({split})", (train, test), n_classes, folders, words)


_SETS = (
    # Cohen, Afshar, Tapson, van Schaik, arXiv:1702.05373, 2017, table 2.
    _emnist("balanced", 112_800, 18_800, 47),
    _emnist("byclass", 697_932, 116_323, 62),
    _emnist("bymerge", 697_932, 116_323, 47),
    _emnist("digits", 240_000, 40_000, 10),
    _emnist("letters", 124_800, 20_800, 26),
    _emnist("mnist", 60_000, 10_000, 10),
    # Clanuwat, Bober-Irizar, Kitamoto, Lamb, Yamamoto, Ha, arXiv:1812.01718, 2018. Licence: CC BY-SA 4.0.
    _family("kmnist", "Kuzushiji-MNIST", (60_000, 10_000), 10, ("kmnist", "KMNIST/raw", "KMNIST"), ("train", "t10k")),
    # Yadav, Bottou, arXiv:1905.10498, 2019. Labels are rows of 8 numbers, the first of which is the digit.
    FileSet(
        "qmnist",
        "QMNIST",
        (
            _file("qmnist-train-images-idx3-ubyte", 60_000, _SIDE, _SIDE),
            _file("qmnist-train-labels-idx2-int", 60_000, 8, item_bytes=4),
            _file("qmnist-test-images-idx3-ubyte", 60_000, _SIDE, _SIDE),
            _file("qmnist-test-labels-idx2-int", 60_000, 8, item_bytes=4),
        ),
        ("qmnist", "QMNIST/raw", "QMNIST"),
        (),
        10,
    ),
)
IDX_SETS = {file_set.name: file_set for file_set in _SETS}
_FIRST_LABEL = {"emnist-letters": 1}  # where it is not 0


def read_family(file_set: FileSet, paths: list[Path], where: str) -> Dataset:
    """Read the four files of a set and check their shapes and labels."""
    arrays = []
    for spec, path in zip(file_set.files, paths, strict=True):
        array = read_idx(path, max_bytes=math.prod(spec.shape) * spec.item_bytes)
        if array.shape != spec.shape:
            raise DataError(f"{path}: holds shape {array.shape}; expected {file_set.title}'s, {spec.shape}")
        arrays.append(array)
    if file_set.name.startswith("emnist-"):  # published with rows and columns swapped
        arrays[::2] = [np.ascontiguousarray(images.transpose(0, 2, 1)) for images in arrays[::2]]
    first = _FIRST_LABEL.get(file_set.name, 0)
    labels = []
    for array, path in zip(arrays[1::2], paths[1::2], strict=True):
        y = array.reshape(len(array), -1)[:, 0].astype(np.int64) - first
        if y.min() < 0 or y.max() >= file_set.n_classes:
            raise DataError(
                f"{path}: holds labels {y.min() + first}..{y.max() + first}; expected {file_set.title}'s, "
                f"{first}..{first + file_set.n_classes - 1}"
            )
        labels.append(y)
    source = f"{paths[0].parent} ({where}; shapes and labels checked, content not)"
    return of_images(file_set.name, (arrays[0], labels[0], arrays[2], labels[1]), file_set.n_classes, source)


def read_own(data_dir: str | Path | None) -> Dataset:
    """Read one's own four IDX files from a folder; there are as many classes as the largest label says."""
    if data_dir is None:
        raise MissingDataError(f'"{OWN}": got no data_dir, expected the folder of your four IDX files')
    folder = existing_folder(data_dir, "data_dir")
    paths = [_only(folder, part, what) for part in (("train",), ("t10k", "test")) for what in ("images", "labels")]
    arrays = [read_idx(path) for path in paths]
    for images, labels, path in zip(arrays[::2], arrays[1::2], paths[1::2], strict=True):
        if images.ndim != 3 or labels.shape != images.shape[:1] or images.dtype != np.uint8 or not len(images):
            raise DataError(
                f"{path}: holds {labels.dtype} of shape {labels.shape} for {images.dtype} images of shape "
                f"{images.shape}; expected uint8 images (N, height, width) and labels (N,), N at least 1"
            )
        if labels.min() < 0:
            raise DataError(f"{path}: holds the label {labels.min()}; expected 0, 1, 2, ...")
    n_classes = 1 + max(int(labels.max()) for labels in arrays[1::2])
    return of_images(OWN, arrays, n_classes, f"{folder} (your own files)")


def _only(folder: Path, parts: tuple[str, ...], what: str) -> Path:
    """Return the one file of a folder that goes by these words."""
    wanted = [f"{part}-{what}-idx{3 if what == 'images' else 1}-ubyte" for part in parts]
    known = {f"{name}{end}" for name in wanted for end in PACKINGS}
    found = sorted(path for path in folder.iterdir() if any(path.name.endswith(name) for name in known))
    if len(found) != 1:
        names = " or ".join(f"*{name}" for name in wanted)
        raise MissingDataError(
            f"{folder}: got {[path.name for path in found] or 'no file'} for {names} (.gz and .xz will do, too); "
            "expected one"
        )
    return found[0]


def of_images(name: str, arrays: Iterable[NDArray[Any]], n_classes: int, source: str) -> Dataset:
    """Make a data set of training images (N, height, width), their labels (N,), and the same for the test."""
    x_train, y_train, x_test, y_test = arrays
    return Dataset(
        name=name,
        x_train=x_train.reshape(len(x_train), -1),
        y_train=y_train.astype(np.int64),
        x_test=x_test.reshape(len(x_test), -1),
        y_test=y_test.astype(np.int64),
        image_shape=(1, *x_train.shape[1:]),
        n_classes=n_classes,
        source=source,
    )
