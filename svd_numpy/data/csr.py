"""Inputs with few entries that are not 0: SciPy's sparse matrices, which become dense batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import LARGEST_INPUT, SvdTypeError, SvdValueError


def is_sparse(x: Any) -> bool:
    """Whether this is a sparse matrix or array of SciPy."""
    return hasattr(x, "tocsr") and hasattr(x, "toarray")


def as_csr(name: str, x: Any) -> Any:
    """Return sparse rows (B, I) of finite floats as CSR, which can be indexed by rows; 32-bit floats stay so."""
    if len(x.shape) != 2:
        raise SvdValueError(f"{name}: got a sparse {type(x).__name__} of shape {x.shape}, expected rows (B, I)")
    rows = x.tocsr()
    if rows.dtype.kind not in "biuf":
        raise SvdTypeError(f"{name}: got a sparse {type(x).__name__} of {rows.dtype}, expected numbers")
    rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
    wrong = np.flatnonzero(~(np.abs(rows.data) <= LARGEST_INPUT))  # also NaN
    if wrong.size:
        row = int(np.searchsorted(rows.indptr, wrong[0], side="right")) - 1
        raise SvdValueError(
            f"{name}: example {row} holds NaN, infinity or a value beyond {LARGEST_INPUT:g}, expected finite inputs; "
            "remove or repair it, or scale the data"
        )
    return rows


def dense(rows: Any) -> NDArray[Any]:
    """Return rows as an array, sparse or not."""
    return rows.toarray() if is_sparse(rows) else rows


def parts(rows: Any) -> tuple[NDArray[Any], ...]:
    """The arrays that sparse or dense rows consist of."""
    return (rows.data, rows.indices, rows.indptr) if is_sparse(rows) else (rows,)
