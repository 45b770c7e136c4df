"""The package's own errors, and checks of arguments: each says what was got, what was expected and what to do."""

from __future__ import annotations

import math
import numbers
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BITS = 24  # of a rounded number: a float32 holds whole numbers of so many exactly


class SvdError(Exception):
    """Base class of the errors that this package raises on purpose; the message says what to do.

    Any other exception that comes out of the package is a fault in it.
    """


class SvdValueError(SvdError, ValueError):
    """A value, a shape or a file that cannot be used."""


class SvdTypeError(SvdError, TypeError):
    """A value of the wrong type."""


class SvdImportError(SvdError, ImportError):
    """An optional package that is not installed."""


LARGEST_INPUT = 1e15  # the squares of inputs, summed over a layer, must stay finite in float32
_PIECE = 2**20  # numbers that are checked at once: a memory-mapped array may be larger than memory
_LEAST_IMAGE = 64  # pixels; with fewer columns, whole numbers up to 255 may well be a table


def check_count(name: str, value: Any, low: int = 1, high: int = 2**62) -> int:
    """Return `value` as an int in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        kind = type(value).__name__
        raise SvdTypeError(f"{name}: got {value!r} of type {kind}, expected a whole number >= {low}")
    number = int(value)
    if not low <= number <= high:
        bound = f">= {low}" if number < low else f"<= {high}"
        raise SvdValueError(f"{name}: got {number}, expected a whole number {bound}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Return `value` as a bool if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise SvdTypeError(f"{name}: got {value!r} of type {type(value).__name__}, expected True or False")
    return bool(value)


def check_type(name: str, value: Any, kind: type) -> None:
    """Raise an error unless `value` is of this type."""
    if not isinstance(value, kind):
        raise SvdTypeError(f"{name}: got {value!r} of type {type(value).__name__}, expected a {kind.__name__}")


def as_path(name: str, value: Any) -> Path:
    """Return `value`, a str or a path, as an absolute Path; `~` is the home folder.

    A path is made absolute once, where it enters: what runs for hours must not depend on the current folder.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise SvdTypeError(f"{name}: got {value!r} of type {type(value).__name__}, expected a path")
    if "\0" in os.fspath(value):
        raise SvdValueError(f"{name}: got {value!r}, expected a path without a null character")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise SvdValueError(f"{name}: got {value!r}, but nobody of this name has a home folder here") from error
    except OSError as error:
        raise SvdValueError(f"{name}: got {value!r}, but the current folder is gone; give a whole path") from error


def check_path(name: str, value: Any) -> Path | None:
    """Return `value` as `as_path` does; None stays None."""
    return None if value is None else as_path(name, value)


def check_file(name: str, value: Any, suffix: str) -> Path:
    """Return `value` as a Path whose name ends in `suffix`."""
    path = check_path(name, value)
    if path is None or path.suffix != suffix:
        raise SvdValueError(f"{name}: got {value!r}, expected a name ending in {suffix}")
    return path


def check_callbacks(value: Any) -> list[Any]:
    """Return `value` as a list of functions."""
    if not isinstance(value, Iterable) or not all(map(callable, functions := list(value))):
        raise SvdTypeError(f"callbacks: got {value!r}, expected a list of functions (trainer, record)")
    return functions


def check_threshold(name: str, value: Any) -> float:
    """Return a threshold on log_alpha in [-60, 60]; outside, sigma^2 exp(-threshold) leaves the range of float32."""
    return check_number(name, value, low=-60, high=60)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite float in [low, high]."""
    bounded = math.isfinite(low) or math.isfinite(high)
    expected = f"expected a finite number{f' in [{low}, {high}]' if bounded else ''}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise SvdTypeError(f"{name}: got {value!r} of type {type(value).__name__}, {expected}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond the range of float
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        raise SvdValueError(f"{name}: got {value}, {expected}")
    return number


def check_choice(name: str, value: Any, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`."""
    known = tuple(known)
    if not isinstance(value, str):
        raise SvdTypeError(f"{name}: got {value!r} of type {type(value).__name__}, expected one of {known}")
    if value not in known:
        raise SvdValueError(f"{name}: got {value!r}, expected one of {known}")
    return value


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return an array, nested lists, a table or column of pandas, or a PyTorch tensor as a plain NumPy array.

    Nothing is copied where that can be avoided. Missing entries (None, pandas.NA) among numbers become NaN, which is
    for the caller to refuse.

    Raises
    ------
    SvdValueError, SvdTypeError
        For rows of different lengths, masked entries and sparse matrices.
    """
    if isinstance(value, np.ma.MaskedArray):
        masked = np.argwhere(np.ma.getmaskarray(value))
        if len(masked):
            row = int(masked[0][0]) if value.ndim else 0
            raise SvdValueError(f"{name}: row {row} holds a masked value, expected numbers; fill it or remove the row")
        value = value.data
    if hasattr(value, "toarray"):
        raise SvdTypeError(f"{name}: got a sparse {type(value).__name__}, expected a dense array: its .toarray()")
    try:
        if hasattr(value, "detach"):  # a tensor, perhaps on a GPU, perhaps with a gradient
            value = value.detach().cpu()
            value = value.float() if "bfloat16" in str(value.dtype) else value
        array = np.asarray(value)
        return _of_objects(array) if array.dtype == object else array
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise SvdValueError(f"{name}: got a {type(value).__name__} that is not an array: {error}") from error


def _of_objects(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of Python objects as one of numbers or text; if they are something else, it stays as it is."""
    missing = np.array([entry is None or type(entry).__name__ == "NAType" for entry in array.flat], bool)
    if missing.all():
        return array
    filled = array.copy()
    filled[missing.reshape(array.shape)] = math.nan
    return np.array(filled.tolist())


def as_native(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as kernels read it: C-contiguous, in native byte order, its floats float32 or float64."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f":
        dtype = np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    return np.ascontiguousarray(array, dtype)


def check_finite(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return `value` as an array of this shape, all of whose numbers are finite and at most LARGEST_INPUT."""
    array = as_array(name, value)
    if not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
        raise SvdTypeError(f"{name}: got dtype {array.dtype}, expected numbers of shape {shape}")
    if array.shape != shape:
        raise SvdValueError(f"{name}: got shape {array.shape}, expected {shape}")
    if not (np.abs(array) <= LARGEST_INPUT).all():  # also for NaN
        raise SvdValueError(f"{name}: got NaN, infinity or a value beyond {LARGEST_INPUT:g}, expected finite numbers")
    return array


def check_inputs(name: str, x: Any, in_shape: tuple[int, ...]) -> NDArray[Any]:
    """Return x as an array (B, *in_shape) of uint8 or finite floats, B >= 0; (B, prod(in_shape)) is accepted too."""
    x = as_array(name, x)
    shape = "(B, " + ", ".join(map(str, in_shape)) + ")"
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise SvdTypeError(f"{name}: got dtype {x.dtype}, expected uint8 pixels (0..255) or floats of shape {shape}")
    size = math.prod(in_shape)
    if x.shape[1:] not in (in_shape, (size,)) or not x.ndim:
        raise SvdValueError(f"{name}: got shape {x.shape}, expected {shape}; a single example needs x[None]")
    rows = x.reshape(len(x), size)
    check_rows(name, rows)
    return rows


def check_some(name: str, rows: NDArray[Any]) -> None:
    """Refuse an array without examples."""
    if not len(rows):
        raise SvdValueError(f"{name}: got no example (shape {rows.shape}), expected at least one")


def check_rows(name: str, rows: NDArray[Any]) -> None:
    """Refuse rows (B, I) of floats that are not finite or too large; warn about floats that look like pixels 0..255.

    The rows are read piece by piece, so a memory-mapped array need not fit into memory.
    """
    if rows.dtype.kind != "f" or not rows.size:
        return
    step = max(1, _PIECE // rows.shape[1])
    low, high = math.inf, -math.inf
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        least, most = float(piece.min()), float(piece.max())
        if not (least >= -LARGEST_INPUT and most <= LARGEST_INPUT):  # also for NaN
            row = start + int(np.argmax(~(np.abs(piece.astype(np.float64)) <= LARGEST_INPUT).all(axis=1)))
            raise SvdValueError(
                f"{name}: example {row} holds NaN, infinity or a value beyond {LARGEST_INPUT:g}, "
                "expected finite inputs; remove or repair it, or scale the data"
            )
        low, high = min(low, least), max(high, most)
    if low == 0 and 200 < high <= 255 and rows.shape[1] >= _LEAST_IMAGE and (rows[:step] == np.rint(rows[:step])).all():
        warnings.warn(
            f"the inputs look like pixels 0..255, but their dtype is {rows.dtype}, and floats are taken as they are; "
            "divide by 255, or give uint8, which is divided by 255 for you",
            stacklevel=3,
        )


def check_tokens(name: str, x: Any, in_shape: tuple[int, ...], count: int) -> NDArray[np.int64]:
    """Return x as int64 tokens (B, *in_shape) in [0, count)."""
    x = as_array(name, x)
    if not np.issubdtype(x.dtype, np.integer):
        raise SvdTypeError(f"{name}: got dtype {x.dtype}, expected whole numbers (tokens) in [0, {count})")
    if x.shape[1:] != in_shape or not x.ndim:
        raise SvdValueError(f"{name}: got shape {x.shape}, expected (B, {', '.join(map(str, in_shape))})")
    if x.size and (x.min() < 0 or x.max() >= count):
        raise SvdValueError(f"{name}: got tokens {x.min()}..{x.max()}, expected 0..{count - 1}")
    return x.astype(np.int64)


def check_indices(name: str, value: Any, size: int) -> NDArray[np.int64]:
    """Return which of `size` things are chosen, by a bool for each or by their numbers, as increasing numbers."""
    chosen = as_array(name, value)
    if chosen.dtype == bool and chosen.shape == (size,):
        chosen = np.flatnonzero(chosen)
    if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
        raise SvdTypeError(
            f"{name}: got shape {chosen.shape} of {chosen.dtype}, expected {size} bools, or whole numbers below {size}"
        )
    if not chosen.size or chosen.min() < 0 or chosen.max() >= size or (np.diff(chosen) <= 0).any():
        raise SvdValueError(f"{name}: got {value!r}, expected increasing numbers in [0, {size}), at least one")
    return chosen.astype(np.int64)


def check_labels(name: str, y: Any, rows: int, n_classes: int) -> NDArray[np.int64]:
    """Return y as int64 labels (B,) in [0, n_classes)."""
    y = as_array(name, y)
    if y.dtype.kind == "f" and np.isnan(y).any():
        at = int(np.argwhere(np.isnan(y))[0][0]) if y.ndim else 0
        raise SvdValueError(f"{name}: label {at} is missing or NaN, expected 0..{n_classes - 1}; remove that example")
    if not np.issubdtype(y.dtype, np.integer):
        raise SvdTypeError(f"{name}: got dtype {y.dtype}, expected whole-number class labels")
    if y.shape != (rows,):
        raise SvdValueError(f"{name}: got shape {y.shape}, expected ({rows},), one label per example")
    wrong = np.flatnonzero((y < 0) | (y >= n_classes))
    if wrong.size:
        at = int(wrong[0])
        raise SvdValueError(
            f"{name}: label {int(y[at])} at index {at}, expected 0..{n_classes - 1} for {n_classes} outputs"
        )
    return y.astype(np.int64)


def check_targets(name: str, y: Any, rows: int, n_outputs: int) -> NDArray[np.float64]:
    """Return y as finite regression targets (B, n_outputs)."""
    y = as_array(name, y)
    if not np.issubdtype(y.dtype, np.number) or np.iscomplexobj(y):
        raise SvdTypeError(f"{name}: got dtype {y.dtype}, expected numbers")
    if n_outputs == 1 and y.shape == (rows,):
        y = y.reshape(rows, 1)
    if y.shape != (rows, n_outputs):
        raise SvdValueError(f"{name}: got shape {y.shape}, expected ({rows}, {n_outputs})")
    y = y.astype(np.float64)
    if not (np.abs(y) <= LARGEST_INPUT).all():
        at = int(np.argmax(~(np.abs(y) <= LARGEST_INPUT).all(axis=1)))
        raise SvdValueError(
            f"{name}: target {at} is NaN, infinite or beyond {LARGEST_INPUT:g}, expected finite targets"
        )
    return y


def check_moves(shift: int, mirror: bool, in_shape: tuple[int, ...]) -> None:
    """Refuse to shift or mirror inputs that are not images, or to shift images by their whole side or more."""
    if (shift or mirror) and len(in_shape) != 3:
        raise SvdValueError(
            f"shift={shift}, mirror={mirror} move images, but the model's inputs have shape {in_shape}; "
            "give Sequential input_shape=(C, H, W), or data with image_shape=(1, H, W), or leave out shift and mirror"
        )
    if shift and shift >= min(in_shape[1:]):
        raise SvdValueError(f"shift: got {shift}, expected less than height and width of the images, {in_shape[1:]}")


def check_bits(bits: Any, names: list[str]) -> dict[str, int]:
    """Return the bits of rounded numbers by array name, given one number for all arrays or a mapping."""
    wanted = dict(bits) if isinstance(bits, Mapping) else dict.fromkeys(names, bits)
    if unknown := sorted(set(wanted) - set(names), key=str):
        raise SvdValueError(f"bits: got {unknown}, expected names of {names}")
    for name, value in wanted.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise SvdTypeError(f"bits: got {value!r} for {name}, expected a whole number")
        if not 2 <= value <= MOST_BITS:
            raise SvdValueError(f"bits: got {value} for {name}, expected 2 to {MOST_BITS}: sign and at least one more")
    return {name: int(value) for name, value in wanted.items()}


def check_all_bits(name: str, value: Any) -> dict[str, int] | int | None:
    """Check bits whose arrays are not known yet: one number, or a mapping of array name to number."""
    if value is None or isinstance(value, Mapping):
        return None if value is None else check_bits(value, list(value))
    return check_bits(value, [name])[name]
