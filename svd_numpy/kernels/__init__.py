"""Backends: the same operations (`backend.py`) in plain NumPy, in Numba, and on a GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.backend import Backend
from svd_numpy.kernels.cuda import detect


class _Entry(NamedTuple):
    """Why a backend cannot be used here ("" if it can), and how to make one for a dtype."""

    why_not: Callable[[], str]
    make: Callable[[np.dtype[Any]], Backend]


def _reference(dtype: np.dtype[Any]) -> Backend:
    from svd_numpy.kernels.reference import ReferenceBackend

    return ReferenceBackend(dtype)


def _numba(dtype: np.dtype[Any]) -> Backend:
    from svd_numpy.kernels.cpu.backend import NumbaBackend

    return NumbaBackend()


def _cuda(dtype: np.dtype[Any]) -> Backend:
    from svd_numpy.kernels.cuda.backend import CudaBackend

    return CudaBackend()


def _no_numba() -> str:
    if not importlib.util.find_spec("numba"):
        return "the package numba is not installed: pip install numba"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "the environment variable NUMBA_DISABLE_JIT switches compiling off: unset it"
    try:
        threads = int(os.environ.get("NUMBA_NUM_THREADS", "1"))
    except ValueError:  # Numba warns and takes its default
        threads = 1
    return "" if threads > 0 else f"the environment variable NUMBA_NUM_THREADS is {threads}, expected 1 or more"


_BACKENDS: dict[str, _Entry] = {
    "numpy": _Entry(lambda: "", _reference),
    "numba": _Entry(_no_numba, _numba),
    "cuda": _Entry(detect.why_not, _cuda),
}
# What "auto" picks from, best first. "cuda" joins when `make gpu-check` has passed on a device
# with the products as they are now.
_PREFERENCE = ("numba", "numpy")


def add_backend(name: str, make: Callable[[np.dtype[Any]], Backend], why_not: Callable[[], str] = lambda: "") -> None:
    """Register a backend, so that models can choose it by name.

    Parameters
    ----------
    name : str
        The backend's attribute `name`. If the name is taken, the new backend replaces the old one.
    make : function (dtype) -> Backend
        Should raise a ValueError for a dtype that the backend does not support.
    why_not : function () -> str
        Returns why the backend cannot be used here; "" if it can.
    """
    _BACKENDS[name] = _Entry(why_not, make)


def available_backends() -> dict[str, str]:
    """Report which backends can be used here.

    Returns
    -------
    dict
        Name of each backend -> "" if it can be used, otherwise the reason why not.
    """
    return {name: entry.why_not() for name, entry in _BACKENDS.items()}


def resolve_backend(name: str) -> str:
    """Turn "auto" into the name of the best usable backend; `SVD_NUMPY_BACKEND` in the environment overrides "auto".

    Raises
    ------
    ValueError, TypeError
        For an unknown name, a name that is not a str, or a backend that cannot be used here.
    """
    if not isinstance(name, str):
        raise SvdTypeError(
            f"backend: got {name!r} of type {type(name).__name__}, expected one of {('auto', *_BACKENDS)}"
        )
    if name == "auto":
        name = os.environ.get("SVD_NUMPY_BACKEND", "auto")
    usable = available_backends()
    if name == "auto":
        return next(candidate for candidate in _PREFERENCE if not usable[candidate])
    if name not in usable:
        raise SvdValueError(f"backend: got {name!r}, expected one of {('auto', *_BACKENDS)}")
    if usable[name]:
        raise SvdValueError(
            f"backend {name!r} cannot be used: {usable[name]}; usable: {[n for n in usable if not usable[n]]}"
        )
    return name


def get_backend(name: str = "auto", dtype: Any = None) -> Backend:
    """Make a backend.

    Parameters
    ----------
    name : "auto", "numpy", "numba", "cuda" or a name given to `add_backend`
    dtype : optional
        float32 (default) or float64. Of the built-in backends, only "numpy" supports float64.

    Raises
    ------
    ValueError, TypeError
        For an unknown or unusable backend, or a dtype that it does not support.
    """
    name = resolve_backend(name)
    try:
        wanted = np.dtype(np.float32 if dtype is None else dtype)
    except TypeError:
        raise SvdTypeError(f"dtype: got {dtype!r}, expected float32 or float64") from None
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise SvdValueError(f"dtype: got {wanted}, expected float32 or float64")
    if wanted == np.float64 and name in ("numba", "cuda"):
        raise SvdValueError(
            f"dtype: got {wanted}, but backend {name!r} computes in float32; use backend='numpy' for float64"
        )
    return _BACKENDS[name].make(wanted)
