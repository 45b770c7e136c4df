"""SparseModel: a compact network that predicts; and compress, which makes one out of a trained network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import LARGEST_INPUT, SvdError, SvdValueError, check_inputs, check_threshold, check_type
from svd_numpy.kernels import resolve_backend
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Likelihood
from svd_numpy.network.sparsity import sparsify
from svd_numpy.sparse.compaction import compact
from svd_numpy.sparse.files import export_numpy, load_ops, save_ops
from svd_numpy.sparse.op_checks import check_ops
from svd_numpy.sparse.ops import Op, TakeOp, apply_ops
from svd_numpy.sparse.stages import stages_of

if TYPE_CHECKING:
    from svd_numpy.sparse.runtime import Runtime

Array = NDArray[Any]
_TOLERANCE = 1e-5  # of the compact network's outputs, relative to the largest output
_FLOAT = np.dtype(np.float32)
_PROBES = 16
_ROWS = 256  # examples per pass in NumPy


def _rows(x: Any, in_shape: tuple[int, ...]) -> Array:
    """Return x as a C-contiguous matrix (B, I) of uint8 or float32; the numbers themselves are not looked at."""
    if type(x) is np.ndarray and x.dtype is _FLOAT and x.shape[1:] == in_shape and x.flags.c_contiguous and x.size:
        return x if x.ndim == 2 else x.reshape(len(x), -1)  # the usual case, in no time
    x = np.asarray(x)
    size = math.prod(in_shape)
    fits = x.shape[1:] in (in_shape, (size,)) and x.size > 0
    if not fits or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        check_inputs("x", x, in_shape)  # says what is wrong
    with np.errstate(over="ignore"):  # infinity is refused, where it is read
        return np.ascontiguousarray(x, np.uint8 if x.dtype == np.uint8 else np.float32).reshape(len(x), size)


class CompressionError(SvdError, RuntimeError):
    """A compact network does not do what the network it was made of does."""


class SparseModel:
    """A compact network: a list of ops (`svd_numpy.sparse.ops`), run by one compiled kernel, or by NumPy.

    Made by `compress` or `SparseModel.load`.

    Parameters
    ----------
    ops : sequence of Op
        The first is a `TakeOp`.
    likelihood : Likelihood
    backend : "auto", "numba" or "numpy"

    Attributes
    ----------
    ops : tuple of Op
        Not to be written to.

    Raises
    ------
    TypeError, ValueError
        For ops that are no network.
    """

    def __init__(self, ops: Sequence[Op], likelihood: Likelihood, backend: str = "auto") -> None:
        self.backend = resolve_backend(backend)
        check_ops(ops)
        self.ops = tuple(ops)
        take = self.ops[0]
        assert isinstance(take, TakeOp)
        self.in_shape = take.in_shape
        self.n_outputs = math.prod(self.ops[-1].out_shape)
        self.likelihood = likelihood
        self._runtime: Runtime | None = None
        if self.backend == "numba":
            from svd_numpy.sparse.plan import plan  # late: these import Numba
            from svd_numpy.sparse.runtime import Runtime

            self._runtime = Runtime(plan(self.ops))

    def predict(self, x: Any) -> Array:
        """Outputs (B, O) in float32: those of the pruned network, up to rounding. Same bits on any number of threads.

        Parameters
        ----------
        x : array (B, *in_shape) or (B, prod(in_shape))
            uint8 pixels, which are divided by 255, or floats.

        Raises
        ------
        TypeError, ValueError
            As in `Sequential.predict`; but inputs that the network does not read may hold anything.
        """
        rows = _rows(x, self.in_shape)
        out = np.empty((len(rows), self.n_outputs), np.float32)
        finite = self._run_numpy(rows, out) if self._runtime is None else self._runtime.run(rows, out)
        if not finite:
            check_inputs("x", x, self.in_shape)
            raise SvdValueError("the outputs overflowed, expected finite numbers; scale the inputs to about 1")
        return out

    def _run_numpy(self, rows: Array, out: Array) -> bool:
        """Write the outputs of rows (B, I); return whether inputs and outputs are fit numbers."""
        scale = np.float32(1 / 255 if rows.dtype == np.uint8 else 1)
        read = self.ops[0].index if isinstance(self.ops[0], TakeOp) else slice(None)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
            for at in range(0, len(rows), _ROWS):
                piece = rows[at : at + _ROWS]
                if not (np.abs(piece[:, read]) <= LARGEST_INPUT).all():
                    return False
                out[at : at + _ROWS] = apply_ops(self.ops, piece.astype(np.float32) * scale)
        return bool(np.isfinite(out).all())

    def predict_proba(self, x: Any) -> Array:
        """Class probabilities (B, C) (for regression: the predicted means)."""
        return self.likelihood.mean(self.predict(x))

    def save(self, path: str | Path) -> None:
        """Write the network to one self-contained, checksummed `.safetensors` file, atomically."""
        save_ops(path, self.ops, self.likelihood)

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto") -> SparseModel:
        """Read a network written by `save`; a damaged file, or another kind, raises `CheckpointError`."""
        backend = resolve_backend(backend)
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
    """Make the small network out of a trained one.

    Weights above the threshold are gone; so is every unit, filter and input that then does nothing: constants have gone
    into biases, batch normalisation into weights.

    Parameters
    ----------
    model : Sequential
        Variational, plain or fine-tuned; it is not changed.
    threshold : float, optional
        On log_alpha; default: the model's.
    backend : "auto", "numba" or "numpy"
        That the small network runs on.

    Returns
    -------
    SparseModel

    Raises
    ------
    TypeError
        For a layer whose work at inference is unknown.
    CompressionError
        When the outputs on 16 random inputs are not those of `model.predict` with this threshold to 1e-5 of
        the largest output.
    """
    check_type("model", model, Sequential)
    threshold = model.threshold if threshold is None else check_threshold("threshold", threshold)
    stages = stages_of(model, math.exp(-threshold))
    ops = compact(stages, model.in_shape, model.inner_shape, model.input_mean)
    small = SparseModel(ops, model.likelihood, backend)
    _check_outputs(model, threshold, small)
    return small


def _check_outputs(model: Sequential, threshold: float, small: SparseModel) -> None:
    """Compare a compact network with the pruned one, on random inputs around the mean."""
    noise = np.random.default_rng(0).standard_normal((_PROBES, model.input_mean.size))
    probes = (noise + model.input_mean).astype(np.float32)
    wanted = sparsify(model, threshold).predict(probes)
    error, largest = np.abs(small.predict(probes) - wanted).max(), np.abs(wanted).max()
    if not error <= _TOLERANCE * largest:
        raise CompressionError(
            f"the compact network is wrong by {error:.3g}, with outputs up to {largest:.3g}; expected at most "
            f"{_TOLERANCE:g} of that. Weights of very different sizes cancel each other, or this is a fault: "
            "use the network itself, and please report it"
        )
