"""NumPy's .npz files, written whole or not at all, and read without trusting a byte of them."""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError
from svd_numpy.files.atomic import write_atomic

MOST_BYTES = 2**30  # of all arrays together

# What zipfile and NumPy raise for damaged files.
_DAMAGE = (
    ValueError, KeyError, EOFError, OSError, MemoryError, OverflowError, RuntimeError, SyntaxError, TypeError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_END, _END_COUNT = 22, slice(-12, -10)  # bytes of the end record of a zip file, and where it counts the entries


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a compressed .npz file, atomically.

    Raises
    ------
    DiskError
        If the file cannot be written; `path` then still holds a whole file, the old or the new one.
    """
    write_atomic(path, npz_bytes(arrays))


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of a compressed .npz file with these arrays of numbers.

    NumPy 2.0 does not know `allow_pickle` here, and would write an array of that name.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_npz(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz file, among which must be those in `names`.

    `numpy.load` checks an array's CRC only if the array's own header makes it read to the end. Here every entry is read
    whole, but only after all sizes have been compared: those in the zip directory with those in the arrays' headers,
    and their sum with `MOST_BYTES`.

    Raises
    ------
    SvdValueError
        If the file is damaged, is not an .npz file, or lacks a name.
    OSError
        If it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = _sound_entries(archive, content)
            arrays = {name: _array(archive.read(entry)) for name, entry in entries.items()}
    except _DAMAGE as error:
        raise SvdValueError(
            f"{path} is damaged or not an .npz file ({error}); restore it from a copy, or delete it and do without it"
        ) from error
    if missing := [name for name in names if name not in arrays]:
        raise SvdValueError(f"{path} lacks {', '.join(missing)}; is it another file? Restore it, or delete it")
    return arrays


def _sound_entries(archive: zipfile.ZipFile, content: bytes) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by array name if they are all there and have the sizes that their headers give."""
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    end = content[-_END:]
    # zipfile does not count the entries that it finds: a wrong length in one of them hides those after it.
    if not end.startswith(b"PK\5\6") or int.from_bytes(end[_END_COUNT], "little") != len(entries):
        raise SvdValueError("its directory is not whole")
    if sum(entry.file_size for entry in entries.values()) > MOST_BYTES:
        raise SvdValueError(f"its arrays take more than {MOST_BYTES} bytes")
    for name, entry in entries.items():
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SvdValueError(f"{name} is packed in a way that NumPy does not use")
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if file.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
                raise SvdValueError(f"{name} has the shape {shape} of {dtype}, but {entry.file_size} bytes")
    return entries


def _array(file: bytes) -> NDArray[Any]:
    return np.asarray(np.lib.format.read_array(io.BytesIO(file), allow_pickle=False))
