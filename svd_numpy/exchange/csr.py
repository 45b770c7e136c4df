"""A compact network's matrices for SciPy: one compressed sparse row file per layer."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_path, check_type
from svd_numpy.files.atomic import disk_error, remove, sync_folder, write_new
from svd_numpy.files.npz import npz_bytes
from svd_numpy.sparse import ConvOp, DenseOp, SparseModel


def export_csr(small: SparseModel, folder: str | Path) -> list[Path]:
    """Write `<layer>.npz` for every layer with weights; return the paths.

    `scipy.sparse.load_npz` reads the matrix (O, I), one row per output: y = matrix @ inputs + bias. `numpy.load` reads
    the other arrays of the file: `bias` (O,) and, for a dense layer, `inputs` (I,), the indices of its inputs among the
    (flattened, channels last) activations before it. The columns of a convolution are its taps, ordered by kernel row,
    kernel column, channel.

    Parameters
    ----------
    small : SparseModel
    folder : path
        A folder of their own: new, empty, or with an earlier export, which is replaced as a whole. The files are
        written to a folder beside it, which is then renamed into place, so that layers of two networks never mix.

    Raises
    ------
    ValueError
        If the name of a layer cannot be a file name or belongs to two layers, or if the folder holds anything else;
        nothing is written then.
    DiskError
        If the folder cannot be written; it then holds the old export or the new one, whole.
    """
    check_type("small", small, SparseModel)
    target = check_path("folder", folder)
    if target is None:
        raise SvdTypeError("folder: got None, expected a path")
    target = target.resolve()
    ops = [op for op in small.ops if isinstance(op, DenseOp | ConvOp)]
    names = [f"{op.name}.npz" for op in ops]
    for op, name in zip(ops, names, strict=True):
        if (target / name).parent != target:  # a network from an untrusted file may name a layer ../../anything
            raise SvdValueError(f"export_csr: layer {op.name!r} cannot be the name of a file; rename it")
    if len(set(names)) < len(names):
        raise SvdValueError(f"export_csr: got layers called {[op.name for op in ops]}, expected all different")
    _require_free(target)
    temporary, aside = (target.with_name(f".{mark}-{target.name}") for mark in ("tmp", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        temporary.mkdir()
        for op, name in zip(ops, names, strict=True):
            write_new(temporary / name, _csr_file(op))
        sync_folder(temporary)
        _swap(temporary, target, aside)
        sync_folder(target.parent)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        remove(temporary)
    remove(aside)
    return [target / name for name in names]


def _require_free(target: Path) -> None:
    """Refuse a folder with files that `export_csr` did not write, since it is replaced as a whole."""
    if not target.exists():
        return
    if not target.is_dir():
        raise SvdValueError(f"folder: {target} is a file, expected a folder")
    for path in target.iterdir():
        if not (path.is_file() and _is_export(path)):
            raise SvdValueError(
                f"folder: {target} holds {path.name}, which export_csr did not write; expected a new or empty folder, "
                "or an earlier export, since the whole folder is replaced"
            )


def _is_export(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"indptr.npy", "bias.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _swap(new: Path, target: Path, aside: Path) -> None:
    """Put a folder in the place of another, which is kept aside until that is done."""
    remove(aside)
    if target.exists():
        os.replace(target, aside)
    try:
        os.replace(new, target)
    except OSError:
        if aside.exists():
            os.replace(aside, target)
        raise


def _csr_file(op: DenseOp | ConvOp) -> bytes:
    """Return what `scipy.sparse.save_npz` writes for the matrix of an op, with the op's other arrays added."""
    from scipy.sparse import csr_matrix, save_npz

    written = io.BytesIO()
    save_npz(written, csr_matrix(op.weights.matrix().T), compressed=False)
    written.seek(0)
    with np.load(written, allow_pickle=False) as arrays:
        own = {"bias": op.bias, "inputs": op.inputs} if isinstance(op, DenseOp) else {"bias": op.bias}
        return npz_bytes({**arrays, **own})
