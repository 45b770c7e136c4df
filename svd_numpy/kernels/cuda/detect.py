"""Whether the CUDA backend can be used here, found out without importing numba.cuda: who has no GPU pays nothing."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from functools import cache


def simulated() -> bool:
    """Whether Numba's CUDA simulator was asked for (NUMBA_ENABLE_CUDASIM=1): kernels then run as Python, on no GPU."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


@cache
def _driver() -> str:
    """Return "" where the NVIDIA driver finds a device, else what is wrong."""
    names = {"win32": ("nvcuda.dll",)}.get(sys.platform, ("libcuda.so.1", "libcuda.so"))
    library = None
    for name in names:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        return "no NVIDIA driver was found (libcuda); a CUDA device needs one"
    if status := library.cuInit(0):
        return f"the NVIDIA driver finds no usable device (cuInit gave {status}); see what `nvidia-smi` says"
    count = ctypes.c_int(0)
    if library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver is there, but no device; see what `nvidia-smi` says"
    return ""


def why_not() -> str:
    """Return "" where backend "cuda" can be used, else the reason why not and what to do."""
    if not importlib.util.find_spec("numba"):
        return "the package numba is not installed: pip install numba"
    if simulated():
        return ""
    if reason := _driver():
        return reason
    if not importlib.util.find_spec("numba_cuda"):
        return "the package numba-cuda is not installed: pip install 'svd-numpy[cuda]'"
    return ""
