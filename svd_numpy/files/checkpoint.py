"""Checkpoints of a training run: named arrays and JSON state, atomic, checksummed, without pickle.

A checkpoint is a folder ``ckpt-<step>`` with ``arrays.safetensors`` and ``manifest.json``.  Rules:

* a new checkpoint is written and synced under another name and then renamed: it is there whole or not at all;
* every byte that matters is covered by a SHA-256 (`svd_numpy.files.safe_arrays`);
* sizes are checked before anything is read, and nothing in a file can name another file.

The hashes detect damage. They are not signatures: they do not show who made a file.
One process at a time may write to a run folder (`svd_numpy.files.lock`); any number may read.
"""

import contextlib
import json
import operator
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, as_path
from svd_numpy.files.atomic import disk_error, loads_strict, move, remove, sync_folder, write_new
from svd_numpy.files.safe_arrays import (
    MAX_JSON_BYTES,
    VERSION,
    CheckpointError,
    canonical,
    check_length,
    check_version,
    checked_state,
    deserialise,
    header_of,
    layout_of,
    open_regular,
    reading,
    require,
    serialise,
    sha256,
    total_bytes,
)

FORMAT = "svd_numpy checkpoint"
ARRAYS_FILE = "arrays.safetensors"
MANIFEST_FILE = "manifest.json"
MAX_STEP = 99_999_999

_NAME = re.compile(r"(\.old-)?ckpt-([0-9]{8})")  # `.old-`: set aside while its own step is being saved again
_LEFTOVER = re.compile(r"\.tmp-ckpt-[0-9]{8}")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes
    ----------
    path : Path
        Folder it was read from.
    step : int
        Number of training steps done.
    arrays : dict of str to ndarray
        The arrays, bit for bit, writable.
    state : dict
        The JSON state; tuples come back as lists.
    skipped : list of str
        One message for each newer checkpoint that was damaged and therefore skipped.
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
        Run folder; created if it is missing.
    step : int
        0 to 99 999 999.  A checkpoint of the same step is replaced.
    arrays : mapping of str to ndarray
        float32, float64, int32, int64, uint8 or bool, of any shape.
    state : mapping
        JSON values with finite numbers only (no NumPy scalars).
    keep : int
        How many checkpoints to keep, this one included. Those of later steps are neither counted nor removed.

    Returns
    -------
    Path
        The checkpoint folder.

    Raises
    ------
    TypeError, ValueError
        For arrays or state that cannot be stored; nothing has been written then.
    DiskError
        If the checkpoint cannot be written. Earlier ones still load.
    """
    step, folder = operator.index(step), as_path("folder", folder)
    if not 0 <= step <= MAX_STEP:
        raise SvdValueError(f"step is {step}; expected 0 to {MAX_STEP}")
    if keep < 1:
        raise SvdValueError(f"keep is {keep}; expected at least 1, to keep the checkpoint being saved")
    blob = serialise(arrays)
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
        raise disk_error(target, error) from error
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
        A checkpoint folder, or a run folder, of which the newest undamaged checkpoint is read.

    Returns
    -------
    Checkpoint
        Its ``skipped`` names the damaged checkpoints that were skipped.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or none passes every check.
    """
    path = as_path("path", path)
    with reading(path):
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
    raise CheckpointError(f"{path} has no checkpoint; expected a run folder that holds a folder ckpt-<step>")


def latest(folder: str | Path) -> Path | None:
    """Return the newest checkpoint folder in a run folder, unverified, or None if there is none."""
    return next(iter(_candidates(as_path("folder", folder))), None)


def clear_up(folder: str | Path) -> None:
    """Remove what an interrupted save left in a run folder, as the next `save` does; only its owner may."""
    with contextlib.suppress(OSError):  # it is missing or cannot be written to
        _recover(as_path("folder", folder))


# ---- folders ----


def _candidates(folder: Path) -> list[Path]:
    """Checkpoint folders in a run folder, newest first; a copy set aside comes after its replacement."""
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
    """Clear up after an interrupted save: drop half-written folders, put back the checkpoint it had set aside."""
    for name in os.listdir(folder):
        path, target = folder / name, folder / name.removeprefix(".old-")
        if _LEFTOVER.fullmatch(name):
            remove(path)
        elif name.startswith(".old-") and _NAME.fullmatch(name):
            if os.path.lexists(target):
                remove(path)
            else:
                move(path, target)


def _swap(temporary: Path, target: Path, aside: Path) -> None:
    """Rename into place. A folder cannot be overwritten, so an old one is first set aside, where `load` finds it."""
    replacing = os.path.lexists(target)
    if replacing:
        move(target, aside)
    try:
        move(temporary, target)
    except OSError:
        if replacing:
            with contextlib.suppress(OSError):  # `load` and the next `save` also look at `aside`
                move(aside, target)
        raise


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove all but the newest `keep`; each is renamed first, so that nobody sees it half removed."""
    with contextlib.suppress(OSError):  # the new checkpoint is saved; the next save tries again
        old = [path for path in _candidates(folder) if path.name[0] != "." and _step_of(path) <= step]
        for path in old[keep:]:
            doomed = folder / f".tmp-{path.name}"
            move(path, doomed)
            remove(doomed)


def _load_folder(path: Path, skipped: list[str]) -> Checkpoint:
    with reading(path):
        manifest = _read_manifest(path)
        size, digest = manifest["files"][ARRAYS_FILE]["bytes"], manifest["files"][ARRAYS_FILE]["sha256"]
        with open_regular(path / ARRAYS_FILE) as (file, found):
            require(found == size, f"{ARRAYS_FILE} has {found} bytes, {MANIFEST_FILE} says {size}")
            blob = file.read()
        require(sha256(blob) == digest, f"{ARRAYS_FILE} is damaged: its SHA-256 differs")
        layout = layout_of(header_of(blob))
        require(layout == manifest["arrays"], f"{ARRAYS_FILE} and {MANIFEST_FILE} list different arrays")
        return Checkpoint(path, manifest["step"], deserialise(blob, layout), manifest["state"], skipped)


# ---- manifest and header ----


def _manifest(step: int, blob: bytes, state: Mapping[str, Any]) -> bytes:
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "files": {ARRAYS_FILE: {"bytes": len(blob), "sha256": sha256(blob)}},
        "arrays": layout_of(header_of(blob)),
        "state": checked_state(state),
    }
    content["sha256"] = sha256(canonical(content))
    text = json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"
    check_length(text)
    return text


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest, and check everything that can be checked before the arrays are read."""
    with open_regular(path / MANIFEST_FILE) as (file, size):
        require(size <= MAX_JSON_BYTES, f"{MANIFEST_FILE} has {size} bytes, more than {MAX_JSON_BYTES}")
        content: dict[str, Any] = loads_strict(file.read(size))
    require(isinstance(content, dict) and content.get("format") == FORMAT, f"{MANIFEST_FILE} belongs to no {FORMAT}")
    check_version(content.get("version"), VERSION)
    digest = content.pop("sha256", None)
    require(digest == sha256(canonical(content)), f"{MANIFEST_FILE} is damaged: its SHA-256 differs")
    require(
        set(content) == {"format", "version", "step", "files", "arrays", "state"},
        f"{MANIFEST_FILE} has missing or unknown entries",
    )
    step, files = content["step"], content["files"]
    require(type(step) is int and 0 <= step <= MAX_STEP, f"step {step!r} is not a whole number in 0..{MAX_STEP}")
    require(
        not _NAME.fullmatch(path.name) or step == _step_of(path),
        f"step {step} differs from the step in the folder's name",
    )
    require(list(files) == [ARRAYS_FILE], f"{MANIFEST_FILE} must list {ARRAYS_FILE} and nothing else")
    require(set(files[ARRAYS_FILE]) == {"bytes", "sha256"}, f"{ARRAYS_FILE} needs bytes and sha256")
    header_bytes = files[ARRAYS_FILE]["bytes"] - total_bytes(content["arrays"])
    require(8 < header_bytes <= 8 + MAX_JSON_BYTES, "the file size does not fit the array shapes")
    require(isinstance(content["state"], dict), "the state is not a JSON object")
    return content
