"""The smallest file of a compact network: `pack` and `unpack`, `save_packed` and `load_packed`.

    4 bytes  "SVDz"
    1 byte   version
    4 bytes  CRC-32 of everything after it, big-endian
    ...      the network (`svd_numpy.sparse.storage.layout`), arithmetically coded (`svd_numpy.sparse.storage.coder`)

Packing is lossless: the network that comes back computes the same numbers. For a small file, prune, `compress` and
`quantise` before packing.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from svd_numpy.checks import SvdValueError, as_path, check_file, check_type
from svd_numpy.files.atomic import write_atomic
from svd_numpy.files.safe_arrays import open_regular, reading, require
from svd_numpy.sparse import SparseModel
from svd_numpy.sparse.runtime import resolve_sparse_backend
from svd_numpy.sparse.storage.coder import Reader, Writer
from svd_numpy.sparse.storage.layout import Budget, Layout

MAGIC, VERSION = b"SVDz", 2
SUFFIX = ".svdz"
MOST_BYTES = 2**28
_HEAD = len(MAGIC) + 5


def _most_elements(length: int) -> int:
    """Array elements that a file of this length may hold: more than networks need, and decoded in bearable time.

    A trained network spends at least a bit on each; inputs that are all read, the cheapest, are covered by the first
    term.
    """
    return 2**16 + 16 * length


def pack(small: SparseModel) -> bytes:
    """Return a compact network as a short string of bytes.

    Raises
    ------
    ValueError
        For a network beyond the limits of a packed file, such as a thousand ops.
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
            f"pack: {endless - budget.left} array elements take only {len(body)} bytes, a ratio that `unpack` refuses; "
            "expected a trained network: use small.save instead"
        )
    return MAGIC + bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "big") + body


def unpack(content: bytes, backend: str = "auto") -> SparseModel:
    """Return the network that `pack` turned into bytes.

    Parameters
    ----------
    content : bytes
    backend : "auto", "numba" or "numpy"
        What the network runs on, see `SparseModel`.

    Raises
    ------
    CheckpointError
        If the bytes are not those of a complete, undamaged network.
    """
    check_type("content", content, bytes)
    backend = resolve_sparse_backend(backend)
    with reading(Path("the packed network")):
        require(content.startswith(MAGIC), f"it does not begin with {MAGIC!r}: not a packed network")
        require(len(content) >= _HEAD, "it ends within its header")
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
    """Write a compact network to a .svdz file, whole or not at all; return the size in bytes."""
    target = check_file("path", path, SUFFIX)
    content = pack(small)
    write_atomic(target, content)
    return len(content)


def load_packed(path: str | Path, backend: str = "auto") -> SparseModel:
    """Read a file written by `save_packed`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or of another kind.
    """
    source = as_path("path", path)
    with reading(source), open_regular(source.resolve()) as (file, size):
        require(size <= MOST_BYTES, f"it has {size} bytes, a packed network at most {MOST_BYTES}")
        return unpack(file.read(), backend)
