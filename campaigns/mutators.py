"""Changes of good files: damaged bytes, and hostile content under valid checksums."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from svd_numpy.data.idx import idx_header
from svd_numpy.files import checkpoint
from svd_numpy.files.npz import write_npz
from svd_numpy.files.safe_arrays import load_model, save_model, sha256

JUNK = (None, True, "", "x" * 300, -1, 0, 1, 2**31, 2**63, 2**200, 0.5, -1e300, [], {}, [[]], [1, 2, 3], "nan", "\0")
NUMBERS = (np.nan, np.inf, -np.inf, -1, 0, 1, 255, 1e9, -1e9, 1e300)
DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")

Rng = random.Random


def damage(content: bytes, rng: Rng) -> bytes:
    """Flip, overwrite, cut, repeat or insert bytes."""
    data, at = bytearray(content), rng.randrange(len(content))
    size = 1 << rng.randrange(8)
    kind = rng.randrange(6)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + size] = rng.randbytes(min(size, len(data) - at))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + size]
    elif kind == 4:
        data[at:at] = data[at : at + size]
    else:
        data[at:at] = rng.randbytes(size)
    return bytes(data)


def spoil_json(value: Any, rng: Rng) -> Any:
    """Replace, drop or repeat one part of a JSON value."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, action = rng.choice(keys), rng.random()
        if action < 0.1:
            del value[key]
        elif action < 0.2:
            other = copy.deepcopy(value[rng.choice(keys)])
            value[key] = other
        else:
            value[key] = spoil_json(value[key], rng)
        return value
    if type(value) in (int, float) and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, -value, value * 2, float(value), value * 2**20))
    return copy.deepcopy(rng.choice(JUNK))


def spoil_arrays(arrays: dict[str, Any], rng: Rng) -> None:
    """Change a number, the dtype or the shape of one array, or which arrays there are."""
    name = rng.choice(sorted(arrays))
    array, kind = np.array(arrays[name]), rng.randrange(6)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == 0 and array.size and array.dtype.kind in "fiub":
            array.flat[rng.randrange(array.size)] = np.float64(rng.choice(NUMBERS)).astype(array.dtype)
        elif kind == 1 and array.dtype.kind in "fiub":
            array = array.astype(rng.choice(DTYPES))
        elif kind == 2:
            array = array.ravel()[: rng.randrange(array.size + 1)]
        elif kind == 3:
            array = array[None]
        elif kind == 4:
            array = np.array(arrays[rng.choice(sorted(arrays))])
        else:
            del arrays[name]
            return
    arrays[name] = array


def resign(path: Path, rng: Rng) -> None:
    """Change arrays or state of a model file, and sign it anew."""
    arrays, state = load_model(path)
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.5 and arrays:
            spoil_arrays(arrays, rng)
        else:
            state = spoil_json(state, rng)
            state = state if isinstance(state, dict) else {"layers": state}
    save_model(path, arrays, state)


def repack(path: Path, rng: Rng) -> None:
    """Damage the body of a packed network, and correct the checksum."""
    content = path.read_bytes()
    body = damage(content[9:], rng) if rng.random() < 0.7 else rng.randbytes(rng.randrange(200))
    path.write_bytes(content[:5] + zlib.crc32(body).to_bytes(4, "big") + body)


def arrays_of(path: Path) -> dict[str, Any]:
    """All arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def change_npz(path: Path, rng: Rng) -> None:
    """Change the arrays of an .npz file."""
    arrays = arrays_of(path)
    spoil_arrays(arrays, rng)
    write_npz(path, arrays)


def change_export(path: Path, rng: Rng) -> None:
    """Change the arrays of an exported network, and correct the checksum."""
    arrays, packed = arrays_of(path), io.BytesIO()
    spoil_arrays(arrays, rng)
    np.savez_compressed(packed, **arrays)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = bytes(64)
    content = packed.getvalue()[:-64]
    path.write_bytes(content + sha256(content).encode())


def change_log(path: Path, rng: Rng) -> None:
    """Change, drop, repeat or swap lines of a log."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    at, kind = rng.randrange(len(records)), rng.randrange(6)
    if kind == 0:
        del records[at]
    elif kind == 1:
        records.insert(at, records[rng.randrange(len(records))])
    elif kind == 2:
        rng.shuffle(records)
    else:
        records[at] = spoil_json(records[at], rng)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def change_result(path: Path, rng: Rng) -> None:
    """Change an entry of a result."""
    path.write_text(json.dumps(spoil_json(json.loads(path.read_text()), rng)))


def change_torch(path: Path, rng: Rng) -> None:
    """Change the arrays of a PyTorch state dict."""
    arrays = load(path.read_bytes())
    spoil_arrays(arrays, rng)
    path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def change_idx(path: Path, rng: Rng) -> None:
    """Let the header announce another shape, or another number of dimensions."""
    sides = [rng.choice((0, 1, 2, 3, 4, 5, 10, 255, 2**16, 2**31, 2**32 - 1)) for _ in range(rng.randrange(6))]
    path.write_bytes(idx_header(tuple(sides)) + path.read_bytes()[rng.choice((8, 12, 16)) :])


# A checkpoint is a folder of two files; here it is one file: the length of the manifest, the manifest, the arrays.


def as_file(folder: Path) -> bytes:
    """Return a checkpoint folder as the bytes of one file."""
    manifest, arrays = ((folder / name).read_bytes() for name in (checkpoint.MANIFEST_FILE, checkpoint.ARRAYS_FILE))
    return len(manifest).to_bytes(4, "big") + manifest + arrays


def as_run(path: Path, step: int) -> Path:
    """Turn such a file into the folder of a run, beside it."""
    run, content = path.with_name(f"{path.name}.run"), path.read_bytes()
    shutil.rmtree(run, ignore_errors=True)
    folder = run / "checkpoints" / f"ckpt-{step:08d}"
    folder.mkdir(parents=True)
    end = 4 + int.from_bytes(content[:4], "big")
    (folder / checkpoint.MANIFEST_FILE).write_bytes(content[4:end])
    (folder / checkpoint.ARRAYS_FILE).write_bytes(content[end:])
    return run


def change_checkpoint(path: Path, rng: Rng) -> None:
    """Change arrays or state of a checkpoint, and sign it anew."""
    found = checkpoint.load(as_run(path, 8) / "checkpoints")
    arrays, state = dict(found.arrays), found.state
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.5 and arrays:
            spoil_arrays(arrays, rng)
        else:
            state = spoil_json(state, rng)
            state = state if isinstance(state, dict) else {"progress": state}
    again = path.with_name(f"{path.name}.signed")
    path.write_bytes(as_file(checkpoint.save(again, 8, arrays, state)))
