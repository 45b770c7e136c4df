"""The small data sets: scikit-learn's embedded digits and diabetes, and the Boston housing table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svd_numpy.data.dataset import Dataset
from svd_numpy.data.pinned import FILE_SETS
from svd_numpy.data.sources import read_verified

_SPLIT_SEED = 0
_DIGITS_TEST = 360
_BOSTON_COLUMNS = 14
_BOSTON_NOTE = (
    "Boston housing: column B (index 11) is 1000(Bk - 0.63)^2, with Bk the share of Black residents of a "
    "town. It encodes the assumption that racial segregation raises house prices. Use these data only to "
    "compare with published figures, never for a model of the world."
)


def digits() -> Dataset:
    """Return the 1,797 handwritten digits of scikit-learn in MNIST's format.

    The 8x8 images with values 0..16 are scaled to 20x20 by bilinear interpolation and centred in 28x28, as
    MNIST centres its digits. 1,437 rows are for training and 360 for testing; the classes have the same shares in both.

    Returns
    -------
    Dataset
        x (N, 784) uint8, y (N,) int64, image_shape (1, 28, 28).

    Notes
    -----
    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998 (its
    test part). Licence: CC BY 4.0.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    pixels = _upscale(np.asarray(bunch.images, dtype=np.float64) * (255.0 / 16.0))
    test = _stratified_test_rows(labels, _DIGITS_TEST, _SPLIT_SEED)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Dataset(
        name="digits",
        x_train=pixels[train],
        y_train=labels[train],
        x_test=pixels[test],
        y_test=labels[test],
        image_shape=(1, 28, 28),
        n_classes=10,
        source="scikit-learn (embedded load_digits, 8x8 scaled to 28x28)",
    )


def diabetes() -> Dataset:
    """Return scikit-learn's diabetes table: 442 patients, 10 raw columns, disease progression after a year.

    Returns
    -------
    Dataset
        x (N, 10) float32 unscaled, y (N, 1) float32, 353 training and 89 test rows.

    Notes
    -----
    Source: Efron, Hastie, Johnstone, Tibshirani, "Least Angle Regression", Annals of Statistics 32, 2004.
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    table = np.column_stack([bunch.data, bunch.target])
    return _regression("diabetes", table, "scikit-learn (embedded load_diabetes, unscaled)")


def boston(path: Path) -> Dataset:
    """Read the Boston housing table; **its column B is racist by construction**, see `Dataset.warning`.

    It is here only because published regression results use it, and it is never downloaded.

    Parameters
    ----------
    path : Path
        ``housing.data`` of the UCI repository.

    Returns
    -------
    Dataset
        x (N, 13) float32 unscaled, y (N, 1) float32 median value in 1,000 dollars (censored at 50), 404
        training and 102 test rows.

    Raises
    ------
    DataError
        If the file is not the pinned one.

    Notes
    -----
    Source: Harrison, Rubinfeld, "Hedonic prices and the demand for clean air", J. Environ. Economics &
    Management 5, 81-102, 1978.
    """
    file_set = FILE_SETS["boston"]
    text = read_verified(file_set, file_set.files[0], path).tobytes().decode("ascii")
    table = np.array(text.split(), dtype=np.float64).reshape(-1, _BOSTON_COLUMNS)
    return _regression("boston", table, f"{path} (SHA-256 verified)", _BOSTON_NOTE)


def _regression(name: str, table: NDArray[np.float64], source: str, warning: str = "") -> Dataset:
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(table))
    n_test = -(-len(table) // 5)  # a fifth, rounded up
    test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
    x, y = table[:, :-1].astype(np.float32), table[:, -1:].astype(np.float32)
    source = f"{source}; seeded split {len(train)}/{len(test)}"
    return Dataset(name, x[train], y[train], x[test], y[test], None, 0, source, warning)


def _stratified_test_rows(labels: NDArray[np.int64], n_test: int, seed: int) -> NDArray[np.int64]:
    """Draw `n_test` rows so that each class keeps its share; places left over go to the largest remainders.

    Written out, because the rows must never change: results on the digits are compared across releases.
    """
    counts = np.bincount(labels)
    quota = counts * n_test / len(labels)
    take = np.floor(quota).astype(int)
    take[np.argsort(take - quota, kind="stable")[: n_test - take.sum()]] += 1
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in enumerate(take)]
    return np.sort(np.concatenate(drawn))


def _upscale(images: NDArray[np.float64], size: int = 20, canvas: int = 28) -> NDArray[np.uint8]:
    """Scale (N, h, h) images to (N, size, size) bilinearly and centre them; returns (N, canvas**2) uint8."""
    h = images.shape[1]
    position = np.linspace(0, h - 1, size)
    # row i of `weights` interpolates between the two source pixels next to position[i]  # (size, h)
    weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(h)[None, :]))
    scaled = weights @ images @ weights.T  # (N, size, size)
    margin = (canvas - size) // 2
    framed = np.zeros((len(images), canvas, canvas), dtype=np.uint8)
    framed[:, margin : margin + size, margin : margin + size] = np.rint(scaled)
    return framed.reshape(len(images), -1)
