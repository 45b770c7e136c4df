"""Running a compact network: in NumPy here, or by one compiled kernel (`svd_numpy.sparse.numba_runtime`)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from svd_numpy.checks import LARGEST_INPUT, SvdValueError
from svd_numpy.kernels import available_backends, resolve_backend
from svd_numpy.kernels.backend import Array
from svd_numpy.sparse.ops import Op, TakeOp, apply_ops

_ROWS = 256  # examples per pass


class Runtime(Protocol):
    """Runs one compact network.

    Attributes
    ----------
    name : "numpy" or "numba"
    """

    name: str

    def run(self, x: Array, out: Array) -> bool:
        """Write the outputs (B, O) of rows x (B, I) of uint8 or float32; return whether all numbers are usable.

        They are not where an input that the network reads is not finite or beyond `LARGEST_INPUT`, or where an output
        is not finite. What `out` then holds does not matter.
        """


class NumpyRuntime:
    """Runs the ops one after the other in NumPy."""

    name = "numpy"

    def __init__(self, ops: tuple[Op, ...]) -> None:
        self._ops = ops
        assert isinstance(ops[0], TakeOp)
        self._read = ops[0].index

    def run(self, x: Array, out: Array) -> bool:
        """See `Runtime.run`."""
        scale = np.float32(1 / 255 if x.dtype == np.uint8 else 1)
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is reported by the return value
            for start in range(0, len(x), _ROWS):
                piece = x[start : start + _ROWS]
                if not (np.abs(piece[:, self._read]) <= LARGEST_INPUT).all():
                    return False
                out[start : start + _ROWS] = apply_ops(self._ops, piece.astype(np.float32) * scale)
        return bool(np.isfinite(out).all())


def resolve_sparse_backend(name: str) -> str:
    """Turn the backend that a user asks for into "numba" or "numpy".

    Compact networks run on the CPU only. "auto" follows `SVD_NUMPY_BACKEND` as everywhere else, except that "cuda"
    there, which is meant for training, gives the fastest backend of the CPU.

    Raises
    ------
    ValueError
        For "cuda" asked for by name, an unknown name, or a backend that cannot be used here.
    """
    if name == "cuda":
        raise SvdValueError(
            "backend: got 'cuda', but compact networks run on the CPU; expected 'auto', 'numba' or 'numpy'"
        )
    found = resolve_backend(name)
    if found == "cuda":
        return "numpy" if available_backends()["numba"] else "numba"
    return found


def make_runtime(name: str, ops: tuple[Op, ...]) -> Runtime:
    """Prepare checked ops to run on a backend, named as in `resolve_sparse_backend`."""
    if resolve_sparse_backend(name) == "numpy":
        return NumpyRuntime(ops)
    from svd_numpy.sparse.numba_runtime import NumbaRuntime  # late: these import Numba
    from svd_numpy.sparse.plan import plan

    return NumbaRuntime(plan(ops))
