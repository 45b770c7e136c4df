"""Named arrays and JSON state in one safe file: the safetensors layout and a checksum, never pickle.

`save_model` and `load_model` write and read the file of a trained network; `svd_numpy.files.checkpoint` builds its
folders from the same pieces. The safetensors format has no checksum, so every byte that matters is covered by a
SHA-256. Sizes are checked before anything is read.
"""

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdTypeError, SvdValueError, as_path
from svd_numpy.files.atomic import check_json, loads_strict, write_atomic

MODEL_FORMAT = "svd_numpy model"
VERSION = 1
MAX_JSON_BYTES = 2 * 2**20  # of a manifest or header; parsed, it takes at most about 60 MiB of memory

_DTYPES = {"F32": "float32", "F64": "float64", "I32": "int32", "I64": "int64", "U8": "uint8", "BOOL": "bool"}


class CheckpointError(SvdValueError):
    """A checkpoint or model file is missing, damaged, inconsistent or of another format."""


def save_model(path: str | Path, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
    """Write arrays and state as one self-contained ``.safetensors`` file, atomically.

    The state (JSON) and a SHA-256 over header and data are in the file's ``__metadata__``, so any
    safetensors reader can open the file and equal content gives equal bytes.

    Parameters
    ----------
    path : str or Path
        File to write, ending in ``.safetensors``; replaced if it exists.
    arrays : mapping of str to ndarray
        float32, float64, int32, int64, uint8 or bool, of any shape.
    state : mapping
        JSON values with finite numbers only (no NumPy scalars).

    Raises
    ------
    TypeError, ValueError
        For a wrong file name, or content that cannot be stored; nothing has been written then.
    DiskError
        If the file cannot be written; `path` then still holds a whole file, the old or the new one.
    """
    path = as_path("path", path)
    if path.suffix != ".safetensors":
        raise SvdValueError(f"model file is {path.name!r}; expected a name ending in .safetensors")
    blob = serialise(arrays)
    header, data = header_of(blob), blob[8 + int.from_bytes(blob[:8], "little") :]
    state_text = canonical(checked_state(state)).decode()
    meta = {"format": MODEL_FORMAT, "version": str(VERSION), "state": state_text}
    header["__metadata__"] = {**meta, "sha256": sha256(canonical({**header, "__metadata__": meta}), data)}
    text = canonical(header)
    text += b" " * (-len(text) % 8)  # the format wants the data 8-byte aligned
    check_length(text)
    write_atomic(path, len(text).to_bytes(8, "little") + text + data)


def load_model(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read and verify a file written by `save_model`.

    Returns
    -------
    arrays : dict of str to ndarray
        The arrays, bit for bit, writable.
    state : dict
        The JSON state.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or was not written by `save_model`.
    """
    path = as_path("path", path)
    with reading(path), open_regular(path.resolve()) as (file, size):
        head = file.read(8)
        length = int.from_bytes(head, "little")
        require(len(head) == 8 and length <= min(MAX_JSON_BYTES, size - 8), "no valid safetensors header")
        text = file.read(length)
        header = loads_strict(text)
        layout = layout_of(header)
        require(size == 8 + length + total_bytes(layout), "the file size is not what its header says")
        meta = dict(header.get("__metadata__", {}))
        require(meta.get("format") == MODEL_FORMAT, "not written by save_model")
        check_version(meta.get("version"), str(VERSION))
        data = file.read()
        digest = meta.pop("sha256", None)
        require(digest == sha256(canonical({**header, "__metadata__": meta}), data), "SHA-256 differs: damaged")
        state = loads_strict(meta["state"].encode())
        require(isinstance(state, dict), "the state is not a JSON object")
        return deserialise(head + text + data, layout), state


# ---- the pieces, for a file or a folder ----


def header_of(blob: bytes) -> dict[str, Any]:
    """Return the JSON header of safetensors bytes."""
    header: dict[str, Any] = loads_strict(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    require(isinstance(header, dict), "the safetensors header is not a JSON object")
    return header


def layout_of(header: dict[str, Any]) -> dict[str, Any]:
    """Dtype and shape of each array, from a safetensors header."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in entries.items():
        require(set(entry) == {"dtype", "shape", "data_offsets"}, f"array {name!r} has a malformed header")
        require(entry["dtype"] in _DTYPES, f"array {name!r} has the unknown type {entry['dtype']!r}")
    return {name: {"dtype": _DTYPES[e["dtype"]], "shape": e["shape"]} for name, e in entries.items()}


def total_bytes(layout: dict[str, Any]) -> int:
    """Bytes of all arrays together; refuses what is not a valid shape or type."""
    total = 0
    for name, entry in layout.items():
        shape, dtype = entry["shape"], entry["dtype"]
        require(dtype in _DTYPES.values(), f"array {name!r} has the unknown type {dtype!r}")
        require(
            isinstance(shape, list) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape),
            f"array {name!r} has no valid shape",
        )
        total += math.prod(shape) * np.dtype(dtype).itemsize
    return total


def serialise(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Turn arrays into safetensors bytes; refuse names and dtypes that would not come back unchanged."""
    from safetensors.numpy import save as to_bytes

    allowed = ", ".join(_DTYPES.values())
    for name, array in arrays.items():
        if not isinstance(name, str) or not name.isprintable() or name in ("", "__metadata__"):
            raise SvdValueError(f"array name is {name!r}; expected printable text other than '__metadata__'")
        if not isinstance(array, np.ndarray) or array.dtype not in map(np.dtype, _DTYPES.values()):
            got = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise SvdTypeError(f"array {name!r} is {got}; expected an ndarray of {allowed}: use .astype()")
        if array.ndim > 32:
            raise SvdValueError(f"array {name!r} has {array.ndim} axes; expected at most 32")
    # the library copies the memory as it is and ignores strides, so the arrays must be in C order
    blob = to_bytes({name: np.asarray(array, order="C") for name, array in arrays.items()})
    if int.from_bytes(blob[:8], "little") > MAX_JSON_BYTES:
        raise SvdValueError(f"the names and shapes of {len(arrays)} arrays take more than {MAX_JSON_BYTES} bytes")
    return blob


def deserialise(blob: bytes, layout: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Turn safetensors bytes back into arrays, which must be those of `layout`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        arrays = from_bytes(blob)
    except SafetensorError as error:
        raise SvdValueError(str(error)) from error
    found = {name: {"dtype": a.dtype.name, "shape": list(a.shape)} for name, a in arrays.items()}
    require(found == layout, "the arrays differ from their header")
    return arrays


def checked_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state as a dict, or say what in it is not strict JSON."""
    check_json(dict(state), "state")
    return dict(state)


def check_length(text: bytes) -> None:
    """Refuse JSON text that is longer than readers accept."""
    if len(text) > MAX_JSON_BYTES:
        raise SvdValueError(
            f"state and array names take {len(text)} bytes as JSON; expected at most {MAX_JSON_BYTES}: "
            "store large values as arrays"
        )


def check_version(found: object, known: object) -> None:
    """Refuse a file of another format version."""
    require(
        found == known,
        f"format version {found!r}; this release reads {known!r}: use the release that wrote it",
    )


def require(condition: bool, message: str) -> None:
    """Raise a CheckpointError with this message unless the condition holds."""
    if not condition:
        raise CheckpointError(message)


def canonical(content: object) -> bytes:
    """Return the JSON text that is hashed; equal content gives equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256(*parts: bytes) -> str:
    """Return the SHA-256 of the parts put together, as hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every failure to read or understand a file into a CheckpointError that names `path`."""
    try:
        yield
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        raise CheckpointError(f"cannot load {path}: {error or type(error).__name__}") from error


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file, never a link, pipe or device; gives the file and its size in bytes."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # each exists on some systems only
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    try:
        info = os.fstat(handle)
        require(stat.S_ISREG(info.st_mode), f"{path.name} is not a regular file")
        with open(handle, "rb", closefd=False) as file:
            yield file, info.st_size
    finally:
        os.close(handle)
