"""Reading CIFAR-10 and CIFAR-100 in their binary version, from the folder or straight from the archive.

A record is one label byte (CIFAR-100: the coarse label, then the fine one), then 3,072 bytes of pixels: 32 rows of
32 red ones, then the green, then the blue (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

An archive is read as a stream and nothing in it is written to disk, so the names and links in it can do no harm.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from svd_numpy.data.dataset import DataError, Dataset
from svd_numpy.data.idx import REMEDY, open_unpacked, read_at_most
from svd_numpy.data.pinned import FileSet, FileSpec

IMAGE_SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
COARSE_CLASSES = 20
_SLACK = 1 << 20  # bytes that an archive may hold besides the wanted files: headers, names of classes, a read-me
_MOST_MEMBERS = 100
_MOST_EMPTY_READS = 8

Table = NDArray[np.uint8]


def read_cifar(file_set: FileSet, paths: list[Path], where: str) -> Dataset:
    """Read and verify a CIFAR set.

    Parameters
    ----------
    file_set : FileSet
    paths : list of Path
        As `sources.find` returns them: one path per file, or the archive alone.
    where : str
        Where that is, in words.

    Returns
    -------
    Dataset
        x (N, 3072) uint8, channels first; y (N,) int64, for CIFAR-100 the fine labels; image_shape (3, 32, 32).
        `warning` is set where the test file holds fewer images than it should.

    Raises
    ------
    DataError
        If a file is damaged or not the pinned one.
    """
    tables: list[Table] = []
    for spec, path in zip(file_set.specs_at(len(paths)), paths, strict=True):
        tables += read_tables(file_set, spec, path)
    test, n_test = tables.pop(), file_set.files[-1].shape[0]
    warning, verified = "", "SHA-256 verified"
    if len(test) < n_test:
        lacking = 100 * (n_test - len(test)) / n_test
        warning = (
            f"{file_set.name}: {len(test):,} of {n_test:,} test images are used, because {paths[-1].name} lacks the "
            f"others. Those used cannot be verified: the published digest is that of the whole file. The error rate "
            f"over all images may differ from this one by up to {lacking:.2g} percentage points."
        )
        verified = "training images SHA-256 verified"
    labels = test.shape[1] - PIXELS
    x_train = np.empty((sum(map(len, tables)), PIXELS), np.uint8)
    np.concatenate([table[:, labels:] for table in tables], out=x_train)
    return Dataset(
        name=file_set.name,
        x_train=x_train,
        y_train=np.concatenate([table[:, labels - 1] for table in tables]).astype(np.int64),
        x_test=np.ascontiguousarray(test[:, labels:]),
        y_test=test[:, labels - 1].astype(np.int64),
        image_shape=IMAGE_SHAPE,
        n_classes=file_set.n_classes,
        source=f"{paths[0].parent} ({where}, {verified})",
        warning=warning,
    )


def read_tables(file_set: FileSet, spec: FileSpec, path: Path) -> list[Table]:
    """Read and verify the records in one file, or those in each file of an archive.

    Returns
    -------
    list of uint8 array (records, bytes of each)
        In the order of ``file_set.files``.

    Raises
    ------
    DataError
        If a file is damaged or not the pinned one. A test file may lack records, if the others are whole.
    """
    with open_unpacked(path) as stream:
        if spec is file_set.archive:
            return _read_archive(file_set, stream, path)
        return [_read_records(file_set, spec, stream, str(path))]


class _Bounded:
    """A stream with an end, for reading an archive that may be hostile.

    A small file can unpack to any size, and tarfile goes on reading past the end to skip what a header claims.
    """

    def __init__(self, stream: IO[bytes], limit: int, path: Path) -> None:
        self.stream, self.limit, self.left, self.path = stream, limit, limit, path
        self.empty_reads = 0

    def read(self, size: int) -> bytes:
        piece = self.stream.read(size)
        self.left -= len(piece)
        self.empty_reads += not piece
        if self.left < 0:
            raise DataError(f"{self.path}: unpacks to more than the expected {self.limit} bytes. {REMEDY}")
        if self.empty_reads > _MOST_EMPTY_READS:
            raise DataError(f"{self.path}: is cut short, or claims a file larger than it is. {REMEDY}")
        return piece


def _read_archive(file_set: FileSet, stream: IO[bytes], path: Path) -> list[Table]:
    wanted = {spec.name: spec for spec in file_set.files}
    bounded = _Bounded(stream, sum(spec.content_bytes for spec in file_set.files) + _SLACK, path)
    found: dict[str, Table] = {}
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r|") as tar:
            for count, member in enumerate(tar):
                name = PurePosixPath(member.name).name
                if count == _MOST_MEMBERS or name in found:
                    what = f"holds {name} twice" if name in found else f"holds more than {_MOST_MEMBERS} files"
                    raise DataError(f"{path}: {what}. {REMEDY}")
                content = tar.extractfile(member) if name in wanted and member.isfile() else None
                if content is not None:
                    found[name] = _read_records(file_set, wanted[name], content, f"{path}, {member.name}")
    except DataError:
        raise
    # Besides its own errors, tarfile lets these through for hostile headers.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: is not a tar archive, or is damaged ({error}). {REMEDY}") from error
    if missing := [name for name in wanted if name not in found]:
        raise DataError(f"{path}: lacks {', '.join(missing)}; expected {file_set.title}. {REMEDY}")
    return [found[name] for name in wanted]


def _read_records(file_set: FileSet, spec: FileSpec, stream: IO[bytes], where: str) -> Table:
    records, width = spec.shape
    content = read_at_most(stream, spec.content_bytes + 1)
    n, rest = divmod(len(content), width)
    expected = f"expected {file_set.title}'s {spec.name}, {records} records of {width} bytes"
    may_be_short = spec is file_set.files[-1]
    if len(content) > spec.content_bytes:
        raise DataError(f"{where}: holds more than {spec.content_bytes} bytes; {expected}. {REMEDY}")
    if rest or n == 0 or (n < records and not may_be_short):
        raise DataError(f"{where}: holds {n} whole records and {rest} bytes, it is cut short; {expected}. {REMEDY}")
    table = np.frombuffer(content, dtype=np.uint8).reshape(n, width)
    fine = width - PIXELS - 1
    for column, n_classes in ((fine, file_set.n_classes), (0, COARSE_CLASSES if fine else file_set.n_classes)):
        if (largest := int(table[:, column].max())) >= n_classes:
            raise DataError(
                f"{where}: holds the label {largest}; expected 0..{n_classes - 1}, and {expected}. {REMEDY}"
            )
    if n == records and (digest := hashlib.sha256(content).hexdigest()) != spec.sha256:
        owners = [other.name for other in file_set.files if other.sha256 == digest]
        what = f"this is {owners[0]}" if owners else f"its unpacked content has SHA-256 {digest}"
        raise DataError(f"{where}: {what}; {expected}, {spec.sha256}. {REMEDY}")
    return table
