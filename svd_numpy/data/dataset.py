"""The `Dataset` every loader returns, and the errors every loader raises."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import (
    LARGEST_INPUT,
    SvdTypeError,
    SvdValueError,
    as_array,
    check_count,
    check_rows,
    check_type,
)
from svd_numpy.data.csr import as_csr, is_sparse


class DataError(SvdValueError):
    """A data file is unusable; the message names the file and the remedy."""


class MissingDataError(DataError):
    """A data set was found nowhere; the message says where it was looked for and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, split into training, test and perhaps validation rows.

    Attributes
    ----------
    name : str
        What the rows are: ``"mnist"`` or another name that `load` takes, or any name for data of one's own.
    x_train, x_test : array (N, D)
        uint8 pixels 0..255 for images, float32 raw columns for tables (standardising is the caller's).
    y_train, y_test : array
        (N,) int64 labels 0..n_classes-1, or (N, 1) float32 targets when `n_classes` is 0. Sequences have labels (N, T),
        in which -1 is none: a step that is only padding.
    image_shape : tuple of int or None
        ``(C, H, W)`` with ``C * H * W == D`` for images, None for tables.
    n_classes : int
        Number of classes; 0 for regression.
    source : str
        Where the rows were read from, in words.
    warning : str
        Empty, or a note that must be shown to whoever reads the results.
    x_valid, y_valid : array or None
        Validation rows, of the same kind: neither trained on nor reported. Choices, such as that of a threshold, are
        made on these. `split` takes them from the training rows; without it there are none.
    weights : array (N,) or None
        How much each training row counts; None: all the same. Only the ratios matter, because training scales them to a
        mean of 1: weight 2 counts as much as the row twice, weight 0 leaves it out. Errors and NLLs in records and
        results are not weighted.
    lanes : int
        0: rows are independent. Else the rows of each part are pieces of so many long sequences, side by side: row i
        goes on in row i + lanes. Training then takes `lanes` rows a step, in their order, and recurrent layers carry
        their states from step to step.
    vocabulary : tuple of str
        What the tokens of a text stand for; empty for other data.
    padding : int or None
        The token that only fills up short sequences; None if there is none.

    Raises
    ------
    SvdValueError, SvdTypeError
        If the arrays do not fit each other, they hold NaN, infinity or missing entries, labels lie outside
        0..n_classes-1, or weights are negative or all 0.

    Notes
    -----
    Lists, tables of pandas and tensors are turned into arrays. A memory-mapped array stays one, and is read piece by
    piece. Inputs may be sparse matrices of SciPy: they stay sparse (CSR), and become dense batch by batch.
    """

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]
    image_shape: tuple[int, ...] | None
    n_classes: int
    source: str
    warning: str = ""
    x_valid: NDArray[Any] | None = None
    y_valid: NDArray[Any] | None = None
    weights: NDArray[Any] | None = None
    lanes: int = 0
    vocabulary: tuple[str, ...] = ()
    padding: int | None = None

    def __post_init__(self) -> None:
        """Turn what was given into arrays and check that they fit each other."""
        for name in ("name", "source", "warning"):
            check_type(name, getattr(self, name), str)
        check_count("n_classes", self.n_classes, low=0)
        if (self.x_valid is None) != (self.y_valid is None):
            raise SvdValueError("got one of x_valid and y_valid, expected both or neither")
        parts = ["train", "test"] if self.x_valid is None else ["train", "test", "valid"]
        for name in (f"{letter}_{part}" for part in parts for letter in "xy"):
            given = getattr(self, name)
            object.__setattr__(self, name, as_csr(name, given) if is_sparse(given) else as_array(name, given))
        for part in parts:
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if x.ndim != 2 or not y.ndim or x.shape[0] != len(y):
                raise SvdValueError(
                    f"x_{part} has shape {x.shape} and y_{part} has shape {y.shape}; expected x of shape "
                    f"(N, D) and y with the same N: flatten each image into a row"
                )
            if x.shape[1] != (width := self.x_train.shape[1]):
                raise SvdValueError(
                    f"x_train has {width} columns but x_{part} has {x.shape[1]}; expected the same number"
                )
            if x.dtype.kind not in "iuf":
                raise SvdTypeError(
                    f"x_{part}: got dtype {x.dtype}, expected uint8 pixels (0..255), floats, or whole numbers (tokens)"
                )
            if not is_sparse(x):
                check_rows(f"x_{part}", x)
            self._check_targets(part, y)
            if self.lanes and x.shape[0] % check_count("lanes", self.lanes, low=0):
                raise SvdValueError(f"x_{part} has {x.shape[0]} rows, expected a multiple of its {self.lanes} lanes")
        self._check_image_shape()
        self._check_weights()

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        weights, shape = as_array("weights", self.weights), self.x_train.shape[:1]
        if weights.dtype.kind not in "biuf":
            raise SvdTypeError(f"weights: got dtype {weights.dtype}, expected a number for each training row")
        if weights.shape != shape:
            raise SvdValueError(f"weights: got shape {weights.shape}, expected {shape}, one for each training row")
        weights = weights.astype(np.float64)
        wrong = np.flatnonzero(~((weights >= 0) & (weights <= LARGEST_INPUT)))  # also NaN
        if wrong.size:
            raise SvdValueError(
                f"weights: got {weights[wrong[0]]} for row {wrong[0]}, expected 0 to {LARGEST_INPUT:g}; "
                "0 leaves a row out"
            )
        if weights.size and not weights.any():
            raise SvdValueError("weights: got only zeros, expected at least one row that counts")
        object.__setattr__(self, "weights", weights)

    def _check_image_shape(self) -> None:
        if self.image_shape is None:
            return
        if not isinstance(self.image_shape, tuple | list):
            raise SvdTypeError(f"image_shape: got {self.image_shape!r}, expected (C, H, W) or None")
        shape = tuple(check_count("image_shape", side) for side in self.image_shape)
        object.__setattr__(self, "image_shape", shape)
        if math.prod(shape) != (width := self.x_train.shape[1]):
            raise SvdValueError(
                f"image_shape {shape} holds {math.prod(shape)} values but a row of "
                f"x_train holds {width}; expected (C, H, W) with C*H*W = {width}"
            )

    def _check_targets(self, part: str, y: NDArray[Any]) -> None:
        if (
            y.dtype.kind == "f"
            and (missing := np.flatnonzero(~np.isfinite(y).reshape(len(y), math.prod(y.shape[1:])).all(axis=1))).size
        ):
            raise SvdValueError(
                f"y_{part}: the target of example {missing[0]} is missing, NaN or infinite; repair or remove it"
            )
        if self.n_classes == 0:
            if y.dtype.kind not in "iuf":
                raise SvdTypeError(f"y_{part}: got dtype {y.dtype}, expected numbers, because n_classes is 0")
            return
        if y.ndim not in (1, 2) or not np.issubdtype(y.dtype, np.integer):
            raise SvdValueError(
                f"y_{part} has shape {y.shape} and dtype {y.dtype}; expected (N,) integer labels, or (N, T) "
                f"of sequences, because n_classes is {self.n_classes} (use n_classes=0 for regression)"
            )
        least = 1 - y.ndim  # -1 in sequences
        if y.size and (int(y.min()) < least or int(y.max()) >= self.n_classes):
            raise SvdValueError(
                f"y_{part} holds labels {int(y.min())}..{int(y.max())}; expected {least}..{self.n_classes - 1}"
            )
        if y.size and int(y.max()) < 0:
            raise SvdValueError(f"y_{part} holds no label but -1, which is none; expected some steps with labels")

    def split(self, n_valid: int, seed: int = 0) -> Dataset:
        """Take validation rows out of the training rows; the test rows stay as they are.

        Parameters
        ----------
        n_valid : int
            How many rows to take, 1 to N-1. They are drawn by a seeded permutation of all training rows, whatever
            their class, and become ``x_valid, y_valid``.
        seed : int
            Seed of the permutation; the same seed takes the same rows.

        Returns
        -------
        Dataset
            With N - n_valid training rows in their old order; `source` ends in "validation split ...".

        Raises
        ------
        SvdTypeError
            If `n_valid` or `seed` is not an integer.
        SvdValueError
            If `n_valid` is outside 1..N-1, `seed` is negative, or there are validation rows already.
        """
        if self.lanes:
            raise SvdValueError(f"split: the rows of {self.name!r} are in {self.lanes} lanes; split the text instead")
        if self.x_valid is not None:
            raise SvdValueError(
                f"split: data {self.name!r} has {self.x_valid.shape[0]} validation rows already; "
                "split the data set that they were taken from"
            )
        n = self.x_train.shape[0]
        n_valid, seed = check_count("n_valid", n_valid, high=n - 1), check_count("seed", seed, low=0)
        order = np.random.default_rng(seed).permutation(n)
        valid, train = order[:n_valid], np.sort(order[n_valid:])
        return replace(
            self,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_valid=self.x_train[valid],
            y_valid=self.y_train[valid],
            weights=None if self.weights is None else self.weights[train],
            source=f"{self.source}; validation split: {n_valid} of {n} training rows held out (seed {seed})",
        )
