"""Backends: the same operations (`backend.py`) in plain NumPy, in Numba, and on a GPU."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.backend import Backend
from svd_numpy.kernels.cuda import detect

NAMES = ("numpy", "numba", "cuda")
# What "auto" picks from, best first. "cuda" has been simulated and compiled, but not run on a device: it joins when
# `make gpu-check` has passed on one.
_PREFERENCE = ("numba", "numpy")


def available_backends() -> dict[str, str]:
    """Say which backends can be used here.

    Returns
    -------
    dict
        Name of each backend -> "" where it can be used, else the reason why not.
    """
    missing = "" if importlib.util.find_spec("numba") else "the package numba is not installed: pip install numba"
    return {"numpy": "", "numba": missing, "cuda": detect.why_not()}


def resolve_backend(name: str) -> str:
    """Turn "auto" into the name of the best usable backend; `SVD_NUMPY_BACKEND` in the environment overrides "auto".

    Raises
    ------
    ValueError
        For an unknown name, or a backend that cannot be used here.
    """
    if not isinstance(name, str):
        raise SvdTypeError(f"backend: got {name!r} of type {type(name).__name__}, expected one of 'auto', {NAMES}")
    if name == "auto":
        name = os.environ.get("SVD_NUMPY_BACKEND", "auto")
    usable = available_backends()
    if name == "auto":
        return next(candidate for candidate in _PREFERENCE if not usable[candidate])
    if name not in usable:
        raise SvdValueError(f"backend: got {name!r}, expected one of {('auto', *NAMES)}")
    if usable[name]:
        raise SvdValueError(
            f"backend {name!r} cannot be used: {usable[name]}; usable: {[n for n in usable if not usable[n]]}"
        )
    return name


def get_backend(name: str = "auto", dtype: Any = None) -> Backend:
    """Make a backend.

    Parameters
    ----------
    name : "auto", "numpy", "numba" or "cuda"
    dtype : optional
        float32 or float64; the default is float32. Only "numpy" computes in float64.

    Raises
    ------
    ValueError
        For an unknown or unusable backend, or a dtype that it does not compute in.
    """
    name = resolve_backend(name)
    try:
        wanted = np.dtype(np.float32 if dtype is None else dtype)
    except TypeError:
        raise SvdTypeError(f"dtype: got {dtype!r}, expected float32 or float64") from None
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise SvdValueError(f"dtype: got {wanted}, expected float32 or float64")
    if name == "numpy":
        from svd_numpy.kernels.reference import ReferenceBackend

        return ReferenceBackend(wanted)
    if wanted != np.float32:
        raise SvdValueError(
            f"dtype: got {wanted}, but backend {name!r} computes in float32; use backend='numpy' for float64"
        )
    if name == "cuda":
        from svd_numpy.kernels.cuda.backend import CudaBackend

        return CudaBackend()
    from svd_numpy.kernels.cpu.backend import NumbaBackend

    return NumbaBackend()
