"""`Living`: which weights of a layer are left, for the operations that touch no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Living:
    """The places of n weights in a matrix (I, O), column by column; operations then take theta as an array (n,).

    Attributes
    ----------
    shape : (int, int)
        I and O.
    rows, columns : int32 array (n,)
        Place of each weight: columns ascending, and rows within a column.
    """

    shape: tuple[int, int]
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]

    @classmethod
    def of(cls, alive: NDArray[np.bool_]) -> Living:
        """List the places (I, O) that are true."""
        columns, rows = np.nonzero(alive.T)
        return cls((alive.shape[0], alive.shape[1]), rows.astype(np.int32), columns.astype(np.int32))


def listed(living: Living | None, matrix: Array) -> Array:
    """Take the living weights (n,) out of a matrix (I, O); without `living`, return the matrix."""
    return matrix if living is None else matrix[living.rows, living.columns]


def spread(living: Living | None, weights: Array) -> Array:
    """Put living weights (n,) into a matrix (I, O) of zeros; without `living`, return the matrix that was given."""
    if living is None:
        return weights
    matrix = np.zeros(living.shape, weights.dtype)
    matrix[living.rows, living.columns] = weights
    return matrix
