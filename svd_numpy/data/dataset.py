"""The `Dataset` every loader returns, and the errors every loader raises."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdTypeError, SvdValueError


class DataError(SvdValueError):
    """A data file is unusable; the message names the file and the remedy."""


class MissingDataError(DataError):
    """A data set was found nowhere; the message says where it was looked for and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, split into training and test rows.

    Attributes
    ----------
    name : str
        What the rows are: ``"mnist"``, ``"fashion-mnist"``, ``"cifar10"``, ``"cifar100"``, ``"digits"``,
        ``"boston"``, ``"diabetes"``, or any name for data of one's own.
    x_train, x_test : array (N, D)
        uint8 pixels 0..255 for images, float32 raw columns for tables (standardising is the caller's).
    y_train, y_test : array
        (N,) int64 labels 0..n_classes-1, or (N, 1) float32 targets when `n_classes` is 0.
    image_shape : tuple of int or None
        ``(C, H, W)`` with ``C * H * W == D`` for images, None for tables.
    n_classes : int
        Number of classes; 0 for regression.
    source : str
        Where the rows were read from, in words.
    warning : str
        Empty, or a note that must be shown to whoever reads the results.
    validation : bool
        Whether the test rows are held-out training rows (`split`): thresholds and recipes are chosen on such rows only.

    Raises
    ------
    ValueError
        If the arrays do not fit each other, or labels lie outside 0..n_classes-1.
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
    validation: bool = False

    def __post_init__(self) -> None:
        """Check that the arrays fit each other."""
        for part, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if x.ndim != 2 or len(x) != len(y):
                raise SvdValueError(
                    f"x_{part} has shape {x.shape} and y_{part} has shape {y.shape}; expected x of shape "
                    f"(N, D) and y with the same N: flatten each image into a row"
                )
            self._check_targets(part, y)
        width = self.x_train.shape[1]
        if self.x_test.shape[1] != width:
            raise SvdValueError(
                f"x_train has {width} columns but x_test has {self.x_test.shape[1]}; expected the same number"
            )
        if self.image_shape is not None and math.prod(self.image_shape) != width:
            raise SvdValueError(
                f"image_shape {self.image_shape} holds {math.prod(self.image_shape)} values but a row of "
                f"x_train holds {width}; expected (C, H, W) with C*H*W = {width}"
            )

    def _check_targets(self, part: str, y: NDArray[Any]) -> None:
        if self.n_classes == 0:
            return
        if y.ndim not in (1, 2) or not np.issubdtype(y.dtype, np.integer):
            raise SvdValueError(
                f"y_{part} has shape {y.shape} and dtype {y.dtype}; expected (N,) integer labels, or (N, T) "
                f"of sequences, because n_classes is {self.n_classes} (use n_classes=0 for regression)"
            )
        if y.size and (int(y.min()) < 0 or int(y.max()) >= self.n_classes):
            raise SvdValueError(
                f"y_{part} holds labels {int(y.min())}..{int(y.max())}; expected 0..{self.n_classes - 1}"
            )

    def split(self, n_valid: int, seed: int = 0) -> Dataset:
        """Hold training rows out for validation; the test rows are left behind.

        Parameters
        ----------
        n_valid : int
            How many training rows to hold out, 1 to N-1. They are drawn by a seeded permutation over all
            classes and become ``x_test, y_test``.
        seed : int
            Seed of the permutation; the same seed holds the same rows out.

        Returns
        -------
        Dataset
            With N - n_valid training rows in their old order; `source` ends in "validation split ...".

        Raises
        ------
        TypeError
            If `n_valid` or `seed` is not an integer.
        ValueError
            If `n_valid` is outside 1..N-1 or `seed` is negative.
        """
        for label, value in (("n_valid", n_valid), ("seed", seed)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise SvdTypeError(f"{label} must be an integer, got {value!r}")
        n = len(self.x_train)
        if not 1 <= n_valid <= n - 1:
            raise SvdValueError(f"n_valid is {n_valid}; expected 1 to {n - 1}, as there are {n} training rows")
        if seed < 0:
            raise SvdValueError(f"seed is {seed}; expected 0 or more")
        order = np.random.default_rng(seed).permutation(n)
        valid, train = order[:n_valid], np.sort(order[n_valid:])
        return replace(
            self,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_test=self.x_train[valid],
            y_test=self.y_train[valid],
            source=f"{self.source}; validation split: {n_valid} of {n} training rows held out (seed {seed})",
            validation=True,
        )
