"""The smallest file of a compact network: `pack` and `unpack`, `save_packed` and `load_packed`.

    4 bytes  "SVDz"
    1 byte   version
    4 bytes  CRC-32 of all that follows, big end first
    ...      the network (`svd_numpy.sparse.storage.layout`), arithmetically coded (`svd_numpy.sparse.storage.coder`)

Packing loses nothing: the network that comes back computes the same numbers. It is small where the numbers are few and
short: prune, `compress`, `quantise`, then pack.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from svd_numpy.checks import SvdValueError, check_path, check_type
from svd_numpy.files.atomic import write_atomic
from svd_numpy.files.safe_arrays import open_regular, reading, require
from svd_numpy.sparse import SparseModel
from svd_numpy.sparse.runtime import resolve_sparse_backend
from svd_numpy.sparse.storage.coder import Reader, Writer
from svd_numpy.sparse.storage.layout import Budget, Layout

MAGIC, VERSION = b"SVDz", 1
SUFFIX = ".svdz"
MOST_BYTES = 2**28
_HEAD = len(MAGIC) + 5


def _most_elements(length: int) -> int:
    """Array elements that a file of so many bytes may hold: a million, and 64 a byte, far more than trained ones do."""
    return 2**20 + 64 * length


def pack(small: SparseModel) -> bytes:
    """Return a compact network as few bytes.

    Raises
    ------
    ValueError
        For a network larger than a packed file may be: more than a thousand ops, say.
    """
    check_type("small", small, SparseModel)
    writer = Writer()
    budget = Budget(endless := 2**62)
    layout = Layout(writer, budget)
    layout.likelihood(small.likelihood)
    layout.network(small.ops)
    body = writer.finish()
    if endless - budget.left > _most_elements(len(body)):
        raise SvdValueError(
            f"pack: {endless - budget.left} array elements in only {len(body)} bytes, which no reader would believe; "
            "expected a trained network: use small.save"
        )
    return MAGIC + bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "big") + body


def unpack(content: bytes, backend: str = "auto") -> SparseModel:
    """Return the network in what `pack` made.

    Parameters
    ----------
    content : bytes
    backend : "auto", "numba" or "numpy"
        That the network runs on.

    Raises
    ------
    CheckpointError
        For anything else than the bytes of a whole, sound network.
    """
    check_type("content", content, bytes)
    backend = resolve_sparse_backend(backend)
    with reading(Path("the packed network")):
        require(content.startswith(MAGIC), f"it does not begin with {MAGIC!r}: not a packed network")
        require(len(content) >= _HEAD, "it ends within its head")
        version = content[len(MAGIC)]
        require(
            version == VERSION, f"format version {version}; this release reads {VERSION}: use the one that wrote it"
        )
        body = content[_HEAD:]
        require(zlib.crc32(body) == int.from_bytes(content[_HEAD - 4 : _HEAD], "big"), "CRC-32 differs: damaged")
        layout = Layout(Reader(body), Budget(_most_elements(len(body))))
        likelihood = layout.likelihood(None)
        return SparseModel(layout.network(None), likelihood, backend)


def save_packed(path: str | Path, small: SparseModel) -> int:
    """Write a compact network to a file ending in .svdz, whole or not at all; return its bytes."""
    target = check_path("path", path)
    if target is None or target.suffix != SUFFIX:
        raise SvdValueError(f"path: got {path!r}, expected a name ending in {SUFFIX}")
    content = pack(small)
    write_atomic(target, content)
    return len(content)


def load_packed(path: str | Path, backend: str = "auto") -> SparseModel:
    """Read a file written by `save_packed`.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or another kind of file.
    """
    source = Path(path)
    with reading(source), open_regular(source.resolve()) as (file, size):
        require(size <= MOST_BYTES, f"it has {size} bytes, a packed network at most {MOST_BYTES}")
        return unpack(file.read(), backend)
