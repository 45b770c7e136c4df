"""Atomic, checksummed, pickle-free checkpoints of named arrays and JSON state.

A checkpoint is a folder ``ckpt-<step>`` with ``arrays.safetensors`` and ``manifest.json``.  Rules:

* a new checkpoint is written and synced under another name and then renamed: it is there whole or not at all;
* every byte that matters is under a SHA-256, because the safetensors format itself has no checksum;
* sizes are checked before anything is read, and nothing in a file can name another file.

The hashes find damage; they are no signature, so they do not show who made a file.
One process at a time may write to a run folder; any number may read.
"""

import contextlib
import hashlib
import json
import math
import operator
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from svd_numpy.runlog import (
    check_json,
    disk_fault,
    loads_strict,
    remove,
    sync_folder,
    write_atomic,
    write_new,
)

FORMAT = "svd_numpy checkpoint"
MODEL_FORMAT = "svd_numpy model"
VERSION = 1
ARRAYS_FILE = "arrays.safetensors"
MANIFEST_FILE = "manifest.json"
MAX_JSON_BYTES = 2 * 2**20  # of a manifest or header: parsed, at most about 60 MiB of memory
MAX_STEP = 99_999_999

_DTYPES = {"F32": "float32", "F64": "float64", "I64": "int64", "U8": "uint8", "BOOL": "bool"}
_NAME = re.compile(r"(\.old-)?ckpt-([0-9]{8})")  # `.old-`: set aside while its own step is being saved again
_LEFTOVER = re.compile(r"\.tmp-ckpt-[0-9]{8}")


class CheckpointError(ValueError):
    """A checkpoint or model file is missing, damaged, inconsistent or of another format."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes
    ----------
    path : Path
        Folder it was read from.
    step : int
        Number of training steps it stands for.
    arrays : dict of str to ndarray
        The arrays, bit for bit, writable.
    state : dict
        The JSON state; tuples come back as lists.
    skipped : list of str
        One message for each newer checkpoint that was damaged and passed over.
    """

    path: Path
    step: int
    arrays: dict[str, NDArray[Any]]
    state: dict[str, Any]
    skipped: list[str] = field(default_factory=list)


def save(
    folder: str | Path, step: int, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write the checkpoint ``folder/ckpt-<step>`` atomically, then remove old ones.

    Parameters
    ----------
    folder : str or Path
        Run folder; made if it is missing.
    step : int
        0 to 99 999 999.  A checkpoint of the same step is replaced.
    arrays : mapping of str to ndarray
        float32, float64, int64, uint8 or bool, of any shape.
    state : mapping
        JSON values with finite numbers only (no NumPy scalars).
    keep : int
        Checkpoints to keep, this one included; those of later steps are neither counted nor removed.

    Returns
    -------
    Path
        The checkpoint folder.

    Raises
    ------
    TypeError, ValueError
        For arrays or state that cannot be stored; nothing has been written then.
    OSError
        For a disk fault.  Earlier checkpoints still load; the message names the path and the free space.
    """
    step, folder = operator.index(step), Path(folder)
    if not 0 <= step <= MAX_STEP:
        raise ValueError(f"step is {step}; expected 0 to {MAX_STEP}")
    if keep < 1:
        raise ValueError(f"keep is {keep}; expected at least 1, to keep the checkpoint being saved")
    blob = _serialise(arrays)
    manifest = _manifest(step, blob, state)
    target = folder / f"ckpt-{step:08d}"
    temporary, aside = folder / f".tmp-{target.name}", folder / f".old-{target.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _recover(folder)
        temporary.mkdir()
        write_new(temporary / ARRAYS_FILE, blob)
        write_new(temporary / MANIFEST_FILE, manifest)
        sync_folder(temporary)
        _swap(temporary, target, aside)
        sync_folder(folder)
    except OSError as error:
        raise disk_fault(target, error) from error
    finally:
        remove(temporary)
    remove(aside)
    _prune(folder, step, keep)
    return target


def load(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Parameters
    ----------
    path : str or Path
        A checkpoint folder, or a run folder: then its newest checkpoint that is undamaged.

    Returns
    -------
    Checkpoint
        With ``skipped`` naming the damaged checkpoints that were passed over.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or none that passes every check.
    """
    path = Path(path)
    with _reading(path):
        candidates = _candidates(path)
    if _NAME.fullmatch(path.name) or (not candidates and os.path.lexists(path / MANIFEST_FILE)):
        return _load_folder(path, [])
    skipped: list[str] = []
    for candidate in candidates:
        try:
            return _load_folder(candidate, skipped)
        except CheckpointError as error:
            skipped.append(str(error))
    if skipped:
        raise CheckpointError(f"{path} has no undamaged checkpoint; start a new run. " + "; ".join(skipped))
    raise CheckpointError(
        f"{path} has no checkpoint; expected a run folder with ckpt-<step>, or one of those"
    )


def latest(folder: str | Path) -> Path | None:
    """Return the newest checkpoint folder in a run folder, unverified, or None if there is none."""
    return next(iter(_candidates(Path(folder))), None)


def save_model(path: str | Path, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
    """Write arrays and state as one self-contained ``.safetensors`` file, atomically.

    The state (JSON) and a SHA-256 over header and data are in the file's ``__metadata__``, so any
    safetensors reader can open the file and equal content gives equal bytes.

    Parameters
    ----------
    path : str or Path
        File to write, ending in ``.safetensors``; replaced if it exists.
    arrays, state : mapping
        As for `save`.

    Raises
    ------
    TypeError, ValueError
        For a wrong file name, or content that cannot be stored; nothing has been written then.
    OSError
        For a disk fault.  The file is then whole, old or new; the message names path and free space.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"model file is {path.name!r}; expected a name ending in .safetensors")
    blob = _serialise(arrays)
    header, data = _header(blob), blob[8 + int.from_bytes(blob[:8], "little") :]
    state_text = _canonical(_checked_state(state)).decode()
    meta = {"format": MODEL_FORMAT, "version": str(VERSION), "state": state_text}
    header["__metadata__"] = {**meta, "sha256": _sha256(_canonical({**header, "__metadata__": meta}), data)}
    text = _canonical(header)
    text += b" " * (-len(text) % 8)  # the format wants the data 8-byte aligned
    _check_length(text)
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
        If the file is missing, damaged, or not such a model file.
    """
    path = Path(path)
    with _reading(path), _open_regular(path.resolve()) as (file, size):
        head = file.read(8)
        length = int.from_bytes(head, "little")
        _require(len(head) == 8 and length <= min(MAX_JSON_BYTES, size - 8), "no valid safetensors header")
        text = file.read(length)
        header = loads_strict(text)
        layout = _layout(header)
        _require(size == 8 + length + _total_bytes(layout), "the file size is not what its header says")
        meta = dict(header.get("__metadata__", {}))
        _require(meta.get("format") == MODEL_FORMAT, "not written by save_model")
        _check_version(meta.get("version"), str(VERSION))
        data = file.read()
        digest = meta.pop("sha256", None)
        _require(
            digest == _sha256(_canonical({**header, "__metadata__": meta}), data), "SHA-256 differs: damaged"
        )
        state = loads_strict(meta["state"].encode())
        _require(isinstance(state, dict), "the state is no JSON object")
        return _deserialise(head + text + data, layout), state


# ---- folders ----


def _candidates(folder: Path) -> list[Path]:
    """Checkpoint folders in a run folder, newest first, a set-aside copy after its replacement."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = [folder / name for name in names if _NAME.fullmatch(name)]
    real = [path for path in paths if path.is_dir() and not path.is_symlink()]
    return sorted(real, key=lambda path: (_step_of(path), not path.name.startswith(".")), reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name[-8:])


def _recover(folder: Path) -> None:
    """Clear up after an interrupted save: drop half-written folders, put a set-aside checkpoint back."""
    for name in os.listdir(folder):
        path, target = folder / name, folder / name.removeprefix(".old-")
        if _LEFTOVER.fullmatch(name):
            remove(path)
        elif name.startswith(".old-") and _NAME.fullmatch(name):
            if os.path.lexists(target):
                remove(path)
            else:
                os.rename(path, target)


def _swap(temporary: Path, target: Path, aside: Path) -> None:
    """Rename into place; a folder of the same name cannot be overwritten, so it steps aside, loadable."""
    replacing = os.path.lexists(target)
    if replacing:
        os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except OSError:
        if replacing:
            with contextlib.suppress(OSError):  # `load` and the next `save` look at `aside`, too
                os.rename(aside, target)
        raise


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove what is older than the newest `keep`; a rename first, so that no half-removed one is seen."""
    with contextlib.suppress(OSError):  # the save itself is done; the next one tries again
        old = [path for path in _candidates(folder) if path.name[0] != "." and _step_of(path) <= step]
        for path in old[keep:]:
            doomed = folder / f".tmp-{path.name}"
            os.rename(path, doomed)
            remove(doomed)


def _load_folder(path: Path, skipped: list[str]) -> Checkpoint:
    with _reading(path):
        manifest = _read_manifest(path)
        size, digest = manifest["files"][ARRAYS_FILE]["bytes"], manifest["files"][ARRAYS_FILE]["sha256"]
        with _open_regular(path / ARRAYS_FILE) as (file, found):
            _require(found == size, f"{ARRAYS_FILE} has {found} bytes, {MANIFEST_FILE} says {size}")
            blob = file.read()
        _require(_sha256(blob) == digest, f"{ARRAYS_FILE} is damaged: its SHA-256 differs")
        layout = _layout(_header(blob))
        _require(layout == manifest["arrays"], f"{ARRAYS_FILE} and {MANIFEST_FILE} list different arrays")
        return Checkpoint(path, manifest["step"], _deserialise(blob, layout), manifest["state"], skipped)


# ---- manifest and header ----


def _manifest(step: int, blob: bytes, state: Mapping[str, Any]) -> bytes:
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "files": {ARRAYS_FILE: {"bytes": len(blob), "sha256": _sha256(blob)}},
        "arrays": _layout(_header(blob)),
        "state": _checked_state(state),
    }
    content["sha256"] = _sha256(_canonical(content))
    text = json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"
    _check_length(text)
    return text


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest and check all that can be checked before the arrays are read."""
    with _open_regular(path / MANIFEST_FILE) as (file, size):
        _require(size <= MAX_JSON_BYTES, f"{MANIFEST_FILE} has {size} bytes, more than {MAX_JSON_BYTES}")
        content: dict[str, Any] = loads_strict(file.read(size))
    _require(isinstance(content, dict) and content.get("format") == FORMAT, f"{MANIFEST_FILE} is no {FORMAT}")
    _check_version(content.get("version"), VERSION)
    digest = content.pop("sha256", None)
    _require(digest == _sha256(_canonical(content)), f"{MANIFEST_FILE} is damaged: its SHA-256 differs")
    _require(
        set(content) == {"format", "version", "step", "files", "arrays", "state"},
        f"{MANIFEST_FILE} has missing or unknown entries",
    )
    step, files = content["step"], content["files"]
    _require(type(step) is int and 0 <= step <= MAX_STEP, f"step {step!r} is no whole number in range")
    _require(
        not _NAME.fullmatch(path.name) or step == _step_of(path),
        f"step {step} is not that of the folder name",
    )
    _require(list(files) == [ARRAYS_FILE], f"{MANIFEST_FILE} may list {ARRAYS_FILE} only")
    _require(set(files[ARRAYS_FILE]) == {"bytes", "sha256"}, f"{ARRAYS_FILE} needs bytes and sha256")
    header_bytes = files[ARRAYS_FILE]["bytes"] - _total_bytes(content["arrays"])
    _require(8 < header_bytes <= 8 + MAX_JSON_BYTES, "file size and array shapes do not fit together")
    _require(isinstance(content["state"], dict), "the state is no JSON object")
    return content


def _header(blob: bytes) -> dict[str, Any]:
    header: dict[str, Any] = loads_strict(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    _require(isinstance(header, dict), "the safetensors header is no JSON object")
    return header


def _layout(header: dict[str, Any]) -> dict[str, Any]:
    """Dtype and shape of each array, from a safetensors header."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in entries.items():
        _require(set(entry) == {"dtype", "shape", "data_offsets"}, f"array {name!r} has a malformed header")
        _require(entry["dtype"] in _DTYPES, f"array {name!r} has the unknown type {entry['dtype']!r}")
    return {name: {"dtype": _DTYPES[e["dtype"]], "shape": e["shape"]} for name, e in entries.items()}


def _total_bytes(layout: dict[str, Any]) -> int:
    """Bytes of all arrays together; refuses shapes that are none."""
    total = 0
    for name, entry in layout.items():
        shape, dtype = entry["shape"], entry["dtype"]
        _require(dtype in _DTYPES.values(), f"array {name!r} has the unknown type {dtype!r}")
        _require(
            isinstance(shape, list) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape),
            f"array {name!r} has no valid shape",
        )
        total += math.prod(shape) * np.dtype(dtype).itemsize
    return total


def _serialise(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    from safetensors.numpy import save as to_bytes

    allowed = ", ".join(_DTYPES.values())
    for name, array in arrays.items():
        if not isinstance(name, str) or not name.isprintable() or name in ("", "__metadata__"):
            raise ValueError(f"array name is {name!r}; expected printable text other than '__metadata__'")
        if not isinstance(array, np.ndarray) or array.dtype not in map(np.dtype, _DTYPES.values()):
            got = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise TypeError(f"array {name!r} is {got}; expected an ndarray of {allowed}: use .astype()")
        if array.ndim > 32:
            raise ValueError(f"array {name!r} has {array.ndim} axes; expected at most 32")
    # the library copies memory as it lies, whatever the strides: C order must be made here
    blob = to_bytes({name: np.asarray(array, order="C") for name, array in arrays.items()})
    if int.from_bytes(blob[:8], "little") > MAX_JSON_BYTES:
        raise ValueError(
            f"the names and shapes of {len(arrays)} arrays take more than {MAX_JSON_BYTES} bytes"
        )
    return blob


def _deserialise(blob: bytes, layout: dict[str, Any]) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        arrays = from_bytes(blob)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    found = {name: {"dtype": a.dtype.name, "shape": list(a.shape)} for name, a in arrays.items()}
    _require(found == layout, "the arrays differ from their header")
    return arrays


def _checked_state(state: Mapping[str, Any]) -> dict[str, Any]:
    check_json(dict(state), "state")
    return dict(state)


def _check_length(text: bytes) -> None:
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(
            f"state and array names take {len(text)} bytes as JSON; expected at most {MAX_JSON_BYTES}: "
            "store large values as arrays"
        )


def _check_version(found: object, known: object) -> None:
    _require(
        found == known,
        f"format version {found!r}; this release reads {known!r}: use the release that wrote it",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CheckpointError(message)


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn every failure to read or understand a file into a CheckpointError that names `path`."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, OSError, MemoryError, RuntimeError) as error:
        raise CheckpointError(f"cannot load {path}: {error or type(error).__name__}") from error


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file, never a link, pipe or device; gives the file and its size in bytes."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # each exists on some systems only
        flags |= getattr(os, name, 0)
    with open(os.open(path, flags), "rb") as file:
        info = os.fstat(file.fileno())
        _require(stat.S_ISREG(info.st_mode), f"{path.name} is not a regular file")
        yield file, info.st_size
