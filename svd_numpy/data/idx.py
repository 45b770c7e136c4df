"""Reading IDX files (the format of MNIST), packed or not, without trusting a byte of them.

An IDX file is: two zero bytes, a type byte (0x08 for unsigned bytes, 0x0C for int32), the number of dimensions, one
big-endian uint32 a dimension, then the values in C order (LeCun, Cortes, Burges, "The MNIST database", 1998).
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import as_path
from svd_numpy.data.dataset import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\x00"
_UBYTE, _INT = 0x08, 0x0C
_MAX_DIMS = 4
_CHUNK = 1 << 20
REMEDY = "Fetch or copy the file again, or delete it so that it can be downloaded afresh."


def read_idx(path: str | Path, max_bytes: int = 1 << 30) -> NDArray[Any]:
    """Read an IDX file of unsigned bytes, or of 32-bit integers, with 1 to 4 dimensions.

    A file packed by gzip or xz is recognised by its first bytes, whatever its name. The header is checked before
    anything is allocated, and a packed file is unpacked to one byte beyond what the header announces at most. So
    memory stays below `max_bytes`, and in proportion to what the file really holds.

    Parameters
    ----------
    path : str or Path
        The file.
    max_bytes : int
        The most bytes of values that the header may announce (default 1 GiB).

    Returns
    -------
    array of uint8 or int32
        Writable, C order, with the shape the header announces.

    Raises
    ------
    DataError
        If the file cannot be opened, is not IDX of one of these types, is cut short, has bytes left over, is damaged in
        its packing, or announces more than `max_bytes`.
    """
    path = as_path("path", path)
    with open_unpacked(path) as stream:
        shape, dtype = _read_header(stream, path)
        size = math.prod(shape) * dtype.itemsize
        if math.prod(side or 1 for side in shape) * dtype.itemsize > max_bytes:
            raise DataError(  # also if a side is 0, because NumPy cannot hold huge ones beside it
                f"{path}: the header announces shape {shape}; expected at most {max_bytes} bytes. "
                f"The header is damaged or this is another file. {REMEDY}"
            )
        body = read_at_most(stream, size + 1)
    if len(body) != size:
        held = f"only {len(body)} bytes follow" if len(body) < size else "more bytes follow"
        raise DataError(f"{path}: the header announces shape {shape}, {size} bytes, but {held}. {REMEDY}")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def idx_header(shape: tuple[int, ...]) -> bytes:
    """Return the IDX header of an array of unsigned bytes with this shape."""
    return bytes([0, 0, _UBYTE, len(shape)]) + np.asarray(shape, dtype=">u4").tobytes()


@contextmanager
def open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacking it if it starts like gzip or xz; every read error becomes a DataError."""
    packing = "gzip"
    try:
        with open(path, "rb") as raw:
            start = raw.read(len(_XZ_MAGIC))
            raw.seek(0)
            if start == _XZ_MAGIC:
                packing = "xz"
                with _open_xz(raw, path) as unpacked_xz:
                    yield unpacked_xz
            elif start.startswith(_GZIP_MAGIC):
                with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                    yield cast("IO[bytes]", unpacked)
            else:
                yield raw
    except EOFError as error:
        raise DataError(f"{path}: the {packing} stream is cut short. {REMEDY}") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the {packing} stream is damaged ({error}). {REMEDY}") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}). Check that it is a file you may read."
        ) from error


@contextmanager
def _open_xz(raw: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    try:
        import lzma
    except ImportError:  # as in some browsers' Python
        raise DataError(f"{path}: is packed by xz, which this Python cannot unpack. Unpack it elsewhere.") from None
    try:
        with lzma.LZMAFile(raw, mode="rb") as unpacked:
            yield cast("IO[bytes]", unpacked)
    except lzma.LZMAError as error:
        raise DataError(f"{path}: the xz stream is damaged ({error}). {REMEDY}") from error


def read_at_most(stream: IO[bytes], limit: int) -> bytearray:
    """Read up to `limit` bytes piece by piece, so that memory grows with what is there, not with what is asked for."""
    content = bytearray()
    while len(content) < limit:
        piece = stream.read(min(_CHUNK, limit - len(content)))
        if not piece:
            break
        content += piece
    return content


def _read_header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    magic = read_at_most(stream, 4)
    if len(magic) < 4 or magic[0] or magic[1] or magic[2] not in (_UBYTE, _INT) or not 1 <= magic[3] <= _MAX_DIMS:
        raise DataError(
            f"{path}: starts with the bytes {bytes(magic)!r}; expected an IDX file of unsigned bytes "
            f"(00 00 08) or 32-bit integers (00 00 0C), then the number of dimensions, 1 to {_MAX_DIMS}. {REMEDY}"
        )
    n_dims = magic[3]
    dims = read_at_most(stream, 4 * n_dims)
    if len(dims) < 4 * n_dims:
        raise DataError(f"{path}: ends inside its header of {4 + 4 * n_dims} bytes. {REMEDY}")
    dtype = np.dtype(np.uint8 if magic[2] == _UBYTE else ">i4")
    return tuple(int(d) for d in np.frombuffer(dims, dtype=">u4")), dtype
