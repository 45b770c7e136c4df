"""Small pictures of a first layer, recorded while training and drawn later (`svd_numpy.plots.animate`).

Recording stores one byte per shown weight and epoch, so it hardly slows a run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, as_path
from svd_numpy.files.npz import read_npz, write_npz
from svd_numpy.plots.panels import Array, is_pruned

ZERO = 128  # code of the weight 0; 1…255 are live weights, 0 is a pruned one
STEPS = 127
_SCHEMA = 1
NAMES = ("schema", "image_shape", "max_units", "codes", "scales", "epochs", "test_errors", "sparsities")


class FrameRecorder:
    """Small pictures of a first layer, one per epoch of a run.

    Parameters
    ----------
    image_shape : (H, W) or (C, H, W)
        How the I inputs of the layer form an image (product I); channels are summed.
    max_units : int
        Only the first `max_units` units are recorded.

    Attributes
    ----------
    codes : list of uint8 array (U, H, W)
        Per frame: 0 for a pruned weight, otherwise 128 + 127 * weight / scale, rounded.
    scales : list of float
        Per frame: the largest recorded magnitude.
    epochs, test_errors, sparsities : list
        Per frame: epoch, test error (fraction, NaN if unknown), share of all the model's weights pruned.

    Raises
    ------
    ValueError
        If image_shape or max_units is not positive, or image_shape has another number of axes.
    """

    def __init__(self, image_shape: Sequence[int], max_units: int = 100) -> None:
        shape = tuple(int(size) for size in image_shape)
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise SvdValueError(f"image_shape is {shape}; expected (H, W) or (C, H, W), all positive")
        if max_units < 1:
            raise SvdValueError(f"max_units is {max_units}; expected at least 1")
        self.image_shape = shape
        self.max_units = int(max_units)
        self.codes: list[NDArray[np.uint8]] = []
        self.scales: list[float] = []
        self.epochs: list[int] = []
        self.test_errors: list[float] = []
        self.sparsities: list[float] = []

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.codes)

    def add(
        self,
        epoch: int,
        theta: Array,
        log_alpha: Array,
        threshold: float,
        test_error: float | None,
        sparsity_total: float,
    ) -> None:
        """Record one epoch; it must be later than the recorded ones.

        Parameters
        ----------
        epoch : int
            Epoch, from 1.
        theta, log_alpha : array (I, O)
            Means and log dropout rates of the first layer. No reference to them is kept.
        threshold : float
            A weight with ``log_alpha > threshold`` is drawn as pruned.
        test_error : float or None
            Fraction; None if it was not measured.
        sparsity_total : float
            Share of all weights of the model that are pruned, in [0, 1].

        Raises
        ------
        ValueError
            If shapes or numbers are wrong, or the epoch is not later. Nothing is recorded then.
        """
        theta, log_alpha = np.asarray(theta), np.asarray(log_alpha)
        inputs = math.prod(self.image_shape)
        if theta.ndim != 2 or theta.shape[0] != inputs or theta.shape[1] < 1:
            raise SvdValueError(
                f"theta has shape {theta.shape}; image_shape {self.image_shape} needs ({inputs}, units)"
            )
        if log_alpha.shape != theta.shape:
            raise SvdValueError(f"log_alpha has shape {log_alpha.shape}; expected that of theta, {theta.shape}")
        if not 0.0 <= sparsity_total <= 1.0:
            raise SvdValueError(f"sparsity_total is {sparsity_total}; expected a fraction in [0, 1]")
        if self.epochs and epoch <= self.epochs[-1]:
            raise SvdValueError(
                f"epoch {epoch} does not follow epoch {self.epochs[-1]}; call drop_after({epoch - 1}) first "
                "when a run resumes from an earlier checkpoint"
            )
        shown = slice(0, self.max_units)
        codes, scale = self._quantise(theta[:, shown], ~is_pruned(log_alpha[:, shown], threshold))
        if self.codes and codes.shape != self.codes[0].shape:
            raise SvdValueError(f"the layer now shows {len(codes)} units; earlier frames show {len(self.codes[0])}")
        self.codes.append(codes)
        self.scales.append(scale)
        self.epochs.append(int(epoch))
        self.test_errors.append(math.nan if test_error is None else float(test_error))
        self.sparsities.append(float(sparsity_total))

    def _quantise(self, theta: Array, alive: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], float]:
        """One byte per pixel (U, H, W) and the magnitude of code 255; a pixel is pruned if all its channels are."""
        shape = (-1, *(1,) * (3 - len(self.image_shape)), *self.image_shape)
        kept = np.where(alive, theta, 0.0).T.reshape(shape).sum(axis=1)
        if not np.isfinite(kept).all():
            raise SvdValueError("theta holds NaN or infinity among the weights kept; expected finite weights")
        scale = float(np.abs(kept).max())
        levels = np.rint(kept * (STEPS / scale)) if scale > 0 else np.zeros(kept.shape)
        codes = np.where(alive.T.reshape(shape).any(axis=1), levels + ZERO, 0)
        return codes.astype(np.uint8), scale

    def drop_after(self, epoch: int) -> None:
        """Drop the frames later than `epoch`, for a run that resumes from an earlier checkpoint.

        Parameters
        ----------
        epoch : int
            The last epoch to keep.
        """
        kept = sum(recorded <= epoch for recorded in self.epochs)
        for column in (self.codes, self.scales, self.epochs, self.test_errors, self.sparsities):
            del column[kept:]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all frames to one compressed .npz file, whole or not at all.

        Parameters
        ----------
        path : path
            An existing file is replaced.

        Raises
        ------
        ValueError
            If nothing is recorded.
        OSError
            If the file cannot be written.
        """
        self.require_frames()
        arrays = {
            "schema": np.array(_SCHEMA),
            "image_shape": np.array(self.image_shape),
            "max_units": np.array(self.max_units),
            "codes": np.stack(self.codes),
            "scales": np.array(self.scales),
            "epochs": np.array(self.epochs),
            "test_errors": np.array(self.test_errors),
            "sparsities": np.array(self.sparsities),
        }
        write_npz(as_path("path", path), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FrameRecorder:
        """Read the frames that `save` wrote; more can be added to them.

        Parameters
        ----------
        path : path
            A file written by `save`.

        Returns
        -------
        FrameRecorder
            With the recorded frames.

        Raises
        ------
        ValueError
            If the file is damaged, was not written by `save`, or has another schema.
        OSError
            If it cannot be read.
        """
        arrays = read_npz(as_path("path", path), NAMES)
        if not np.array_equal(arrays["schema"], _SCHEMA):
            raise SvdValueError(f"{path} holds no frames of schema {_SCHEMA}; expected a file of FrameRecorder.save")
        if fault := _fault(arrays):
            raise SvdValueError(f"{path}: {fault}; restore it from a copy, or delete it and do without it")
        recorder = cls(arrays["image_shape"].tolist(), int(arrays["max_units"]))
        recorder.codes = list(arrays["codes"])
        recorder.scales = arrays["scales"].tolist()
        recorder.epochs = arrays["epochs"].tolist()
        recorder.test_errors = arrays["test_errors"].tolist()
        recorder.sparsities = arrays["sparsities"].tolist()
        return recorder

    def require_frames(self) -> None:
        """Raise a ValueError if nothing is recorded."""
        if not self.codes:
            raise SvdValueError("no frame is recorded; call FrameRecorder.add at least once")


def _fault(arrays: dict[str, NDArray[Any]]) -> str:
    """What `FrameRecorder.save` cannot have written in these arrays; "" if nothing."""
    shape, most, codes, epochs = (arrays[name] for name in ("image_shape", "max_units", "codes", "epochs"))
    scales, errors, sparsities = (arrays[name] for name in ("scales", "test_errors", "sparsities"))
    if shape.dtype.kind != "i" or shape.ndim != 1 or shape.size not in (2, 3) or shape.min() < 1:
        return "image_shape is not (H, W) or (C, H, W)"
    if most.dtype.kind != "i" or most.shape != () or most < 1:
        return "max_units is not a whole number of at least 1"
    if codes.dtype != np.uint8 or codes.ndim != 4 or codes.shape[2:] != tuple(shape[-2:]):
        return f"codes are {codes.dtype} of shape {codes.shape}, expected uint8 (frames, units, H, W)"
    if not (len(codes) >= 1 and 1 <= codes.shape[1] <= most):
        return "there is no frame or no unit, or there are more units than max_units"
    for name, column in (("epochs", epochs), ("scales", scales), ("test_errors", errors), ("sparsities", sparsities)):
        if column.dtype.kind != ("i" if name == "epochs" else "f") or column.shape != (len(codes),):
            return f"{name} is not one number for each of {len(codes)} frames"
    if epochs[0] < 0 or (np.diff(epochs) <= 0).any():
        return "epochs do not grow"
    if not (np.isfinite(scales) & (scales >= 0)).all() or not ((sparsities >= 0) & (sparsities <= 1)).all():
        return "a scale is not finite, or a sparsity is not in [0, 1]"
    return "a test error is infinite or negative" if (np.isinf(errors) | (errors < 0)).any() else ""
