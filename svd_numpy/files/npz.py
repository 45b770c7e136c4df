"""NumPy's .npz files, written whole or not at all, and read without trusting a byte of them."""

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError
from svd_numpy.files.atomic import write_atomic

# What zipfile and NumPy raise for damaged files.
_DAMAGE = (ValueError, KeyError, EOFError, OSError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a compressed .npz file, atomically.

    Raises
    ------
    DiskError
        If the file cannot be written; `path` then still holds a whole file, the old or the new one.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def read_npz(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz file, among which must be those in `names`.

    `numpy.load` checks an array's CRC only if the array's own header makes it read to the end. Here the CRC is
    checked before the header is parsed.

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
            files = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
        arrays = {name: np.lib.format.read_array(io.BytesIO(file), allow_pickle=False) for name, file in files.items()}
    except _DAMAGE as error:
        raise SvdValueError(
            f"{path} is damaged or not an .npz file; restore it from a copy, or delete it and do without it"
        ) from error
    if missing := [name for name in names if name not in arrays]:
        raise SvdValueError(f"{path} lacks {', '.join(missing)}; is it another file? Restore it, or delete it")
    return arrays
