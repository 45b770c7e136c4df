"""`SparseModel`, a compact network that predicts, and `compress`, which makes one from a trained network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdError, SvdValueError, as_array, check_inputs, check_threshold, check_type
from svd_numpy.kernels.backend import Array
from svd_numpy.network.fold import fold_gates
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Likelihood
from svd_numpy.network.sparsity import sparsify
from svd_numpy.sparse.compaction import compact
from svd_numpy.sparse.files import export_numpy, load_ops, save_ops
from svd_numpy.sparse.op_checks import check_ops
from svd_numpy.sparse.ops import Op, TakeOp
from svd_numpy.sparse.runtime import make_runtime, resolve_sparse_backend
from svd_numpy.sparse.stages import stages_of

_TOLERANCE = 1e-5  # of the compact network's outputs, relative to the largest output
_FLOAT = np.dtype(np.float32)
_READY = (_FLOAT, np.dtype(np.uint8))  # what the runtimes read
_PROBES = 16
_ROWS = 4096  # that are converted at once


def _rows(x: Any, in_shape: tuple[int, ...]) -> Array:
    """Return x as a matrix (B, I) of uint8 or floats, without checking its numbers."""
    if type(x) is np.ndarray and x.dtype in _READY and x.shape[1:] == in_shape and x.size:
        return x if x.ndim == 2 else x.reshape(len(x), -1)  # the usual case; one example takes microseconds
    x = as_array("x", x)
    size = math.prod(in_shape)
    fits = x.ndim and x.shape[1:] in (in_shape, (size,))
    if not fits or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        check_inputs("x", x, in_shape)  # raises the error that says what is wrong
    return x.reshape(len(x), size)


def _pieces(rows: Array) -> Iterator[tuple[Array, slice]]:
    """Yield rows as C-contiguous arrays of uint8 or float32, and where they lie.

    They are converted piece by piece, because a memory-mapped array may be larger than memory.
    """
    dtype = rows.dtype if rows.dtype == np.uint8 else _FLOAT
    for start in range(0, len(rows), _ROWS):
        at = slice(start, start + _ROWS)
        with np.errstate(over="ignore"):  # an infinite input is refused later, if the network reads it
            piece = np.ascontiguousarray(rows[at], dtype)
        yield piece, at


class CompressionError(SvdError, RuntimeError):
    """A compact network does not give the outputs of the network it was made from."""


class SparseModel:
    """A compact network: a list of ops (`svd_numpy.sparse.ops`), run by one compiled kernel or by NumPy.

    `compress` and `SparseModel.load` make them.

    Parameters
    ----------
    ops : sequence of Op
        The first is a `TakeOp`.
    likelihood : Likelihood
    backend : "auto", "numba" or "numpy"
        Compact networks run on the CPU only. "auto" takes `SVD_NUMPY_BACKEND` from the environment if it is set, else
        the fastest backend; "cuda" in the environment, which is meant for training, also means the fastest one here.

    Attributes
    ----------
    ops : tuple of Op
        Read-only.
    backend : Runtime
        What the network runs on; `backend.name` is "numba" or "numpy".

    Raises
    ------
    TypeError, ValueError
        For ops that do not form a network, or a backend that cannot be used here.
    """

    def __init__(self, ops: Sequence[Op], likelihood: Likelihood, backend: str = "auto") -> None:
        check_ops(ops)
        self.ops = tuple(ops)
        take = self.ops[0]
        assert isinstance(take, TakeOp)
        self.in_shape = take.in_shape
        self.n_outputs = math.prod(self.ops[-1].out_shape)
        self.likelihood = likelihood
        self.backend = make_runtime(backend, self.ops)

    def __getstate__(self) -> dict[str, Any]:
        """Arguments that make the network again, for `copy` and `pickle`."""
        return {"ops": self.ops, "likelihood": self.likelihood, "backend": self.backend.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        SparseModel.__init__(self, **state)

    def predict(self, x: Any) -> Array:
        """Outputs (B, O) of the pruned network in float32, up to rounding; the same bits on any number of threads.

        Parameters
        ----------
        x : array (B, *in_shape) or (B, prod(in_shape))
            uint8 pixels, which are divided by 255, or floats.

        Raises
        ------
        TypeError, ValueError
            As in `Sequential.predict`, except that inputs which the network does not read may hold any number.
        """
        rows = _rows(x, self.in_shape)
        out = np.empty((len(rows), self.n_outputs), np.float32)
        if rows.dtype in _READY and rows.flags.c_contiguous and len(rows):
            finite = self.backend.run(rows, out)
        else:
            finite = all(self.backend.run(piece, out[at]) for piece, at in _pieces(rows))
        if not finite:
            check_inputs("x", x, self.in_shape)
            raise SvdValueError("the outputs overflowed, expected finite numbers; scale the inputs to about 1")
        return out

    def predict_proba(self, x: Any) -> Array:
        """Class probabilities (B, C), or the predicted means (B, O) of a regression."""
        return self.likelihood.mean(self.predict(x))

    def save(self, path: str | Path) -> None:
        """Write the network to one self-contained, checksummed `.safetensors` file, atomically."""
        save_ops(path, self.ops, self.likelihood)

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto") -> SparseModel:
        """Read a network written by `save`; a damaged file, or another kind, raises `CheckpointError`."""
        backend = resolve_sparse_backend(backend)  # before a large file is read
        return cls(*load_ops(path), backend)

    def export_numpy(self, path: str | Path) -> Path:
        """Write the network to `path` (.npz), and beside it `net_reader.py`, which runs it with nothing but NumPy.

        Returns
        -------
        Path
            The reader: `python net_reader.py net.npz images.npy` prints the class of each image.
        """
        return export_numpy(path, self.ops)

    def __str__(self) -> str:
        from svd_numpy.sparse.report import table

        return table(self.ops)


def compress(model: Sequential, threshold: float | None = None, backend: str = "auto") -> SparseModel:
    """Make a compact network from a trained one.

    Weights above the threshold are removed, and with them every unit, filter and input that then has no effect.
    Constant units are folded into biases, batch normalisation and gates into weights.

    Parameters
    ----------
    model : Sequential
        Variational, plain or fine-tuned; it is not changed.
    threshold : float, optional
        On log_alpha; default: the model's.
    backend : "auto", "numba" or "numpy"
        What the compact network runs on, see `SparseModel`.

    Returns
    -------
    SparseModel

    Raises
    ------
    TypeError
        For a layer that compact networks do not have.
    ValueError
        For a backend that cannot be used.
    CompressionError
        If, on 16 random inputs, outputs differ from those of `model.predict` with this threshold by more than 1e-5 of
        the largest output.
    """
    check_type("model", model, Sequential)
    backend = resolve_sparse_backend(backend)
    threshold = model.threshold if threshold is None else check_threshold("threshold", threshold)
    stages = stages_of(fold_gates(model), threshold)
    ops = compact(stages, model.in_shape, model.inner_shape, model.input_mean)
    small = SparseModel(ops, model.likelihood, backend)
    _check_outputs(model, threshold, small)
    return small


def _check_outputs(model: Sequential, threshold: float, small: SparseModel) -> None:
    """Compare a compact network with the pruned one on random inputs around the mean."""
    noise = np.random.default_rng(0).standard_normal((_PROBES, model.input_mean.size))
    probes = (noise + model.input_mean).astype(np.float32)
    wanted = sparsify(model, threshold).predict(probes)
    error, largest = np.abs(small.predict(probes) - wanted).max(), np.abs(wanted).max()
    if not error <= _TOLERANCE * largest:
        raise CompressionError(
            f"outputs of the compact network are wrong by {error:.3g}, where the largest is {largest:.3g}; expected at "
            f"most {_TOLERANCE:g} of that. Either weights of very different sizes cancel each other, or this is a bug: "
            "use the network itself, and please report it"
        )
