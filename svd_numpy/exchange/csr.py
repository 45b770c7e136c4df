"""A compact network's matrices for SciPy: one compressed sparse row file per layer."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_path, check_type
from svd_numpy.files.atomic import write_atomic
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
        Created if it does not exist; files of these names are replaced.

    Raises
    ------
    ValueError
        If the name of a layer cannot be a file name; nothing is written then.
    """
    check_type("small", small, SparseModel)
    target = check_path("folder", folder)
    if target is None:
        raise SvdTypeError("folder: got None, expected a path")
    ops = {target / f"{op.name}.npz": op for op in small.ops if isinstance(op, DenseOp | ConvOp)}
    for path, op in ops.items():
        if path.parent != target:  # a network from an untrusted file may name a layer ../../anything
            raise SvdValueError(f"export_csr: layer {op.name!r} cannot be the name of a file; rename it")
    for path, op in ops.items():
        write_atomic(path, _csr_file(op))
    return list(ops)


def _csr_file(op: DenseOp | ConvOp) -> bytes:
    """Return what `scipy.sparse.save_npz` writes for the matrix of an op, with the op's other arrays added."""
    from scipy.sparse import csr_matrix, save_npz

    written, file = io.BytesIO(), io.BytesIO()
    save_npz(written, csr_matrix(op.weights.matrix().T), compressed=False)
    written.seek(0)
    with np.load(written, allow_pickle=False) as arrays:
        own = {"bias": op.bias, "inputs": op.inputs} if isinstance(op, DenseOp) else {"bias": op.bias}
        np.savez_compressed(file, allow_pickle=False, **arrays, **own)
    return file.getvalue()
