"""Do imported weights give the outputs that PyTorch computed? A state dict does not tell everything about a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, as_array, check_finite, check_some
from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers import AvgPool2d, BatchNorm, Conv2d, Flatten
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.model import Sequential

_TOLERANCE = 1e-3  # of the largest output: products in half precision (TF32) pass, other formulas do not


def check_outputs(model: Sequential, arrays: Mapping[str, Array], check: Any) -> None:
    """Compare the outputs of a model with these arrays, unpruned and without noise, with given ones.

    Parameters
    ----------
    model : Sequential
        It is not changed.
    arrays : mapping of name to array
        For `model.init_from`.
    check : (x, outputs)
        Inputs as `model.predict` takes them, and what PyTorch computed for them in `eval()` mode.

    Raises
    ------
    ValueError, TypeError
        If the outputs differ by more than a thousandth of the largest; the message says by how much and guesses why.
    """
    if not isinstance(check, tuple | list) or len(check) != 2:
        raise SvdTypeError(f"check: got a {type(check).__name__}, expected a pair (x, outputs)")
    copy = model.copy("numpy", "float64").init_from(arrays)
    x = copy.prepare(check[0], "check: x")
    check_some("check: x", x)
    given = as_array("check: outputs", check[1])
    if given.dtype == np.float16 or "bfloat16" in str(getattr(check[1], "dtype", "")):
        raise SvdTypeError("check: outputs are in half precision, expected float32: compute them with module.float()")
    wanted = check_finite("check: outputs", given, (len(x), *model.out_shape)).astype(np.float64)
    found = _outputs(copy, x)
    if _agree(found, wanted):
        return
    at = np.unravel_index(int(np.abs(found - wanted).argmax()), wanted.shape)
    raise SvdValueError(
        f"check: with these weights, output {tuple(map(int, at))} is {found[at]:.6g}, but PyTorch's is "
        f"{wanted[at]:.6g}, the largest difference of all, expected at most {_TOLERANCE:g} of the largest output; "
        f"{_reason(copy, check[0], found, wanted)}"
    )


def _outputs(model: Sequential, x: Array) -> Array:
    """The outputs for prepared inputs, from the means of all weights."""
    return np.array(model.forward(x.copy(), Pass(model.backend, "mean")))


def _agree(found: Array, wanted: Array) -> bool:
    return bool(np.abs(found - wanted).max() <= _TOLERANCE * np.abs(wanted).max())


def _reason(model: Sequential, raw: Any, found: Array, wanted: Array) -> str:
    """Say what makes the outputs agree, or else what may differ between two networks with the same arrays."""
    shifted = np.exp(found - found.max(axis=-1, keepdims=True))
    softmax = shifted / shifted.sum(axis=-1, keepdims=True)
    trials: dict[str, Callable[[], Array]] = {
        "PyTorch's are probabilities; give the logits": lambda: softmax,
        "PyTorch's are log-probabilities; give the logits": lambda: np.log(np.maximum(softmax, 1e-300)),
        "PyTorch's network ends with a ReLU, add one": lambda: np.maximum(found, 0),
    }
    if as_array("x", raw).dtype == np.uint8:
        trials["they agree if uint8 pixels are not divided by 255, as is done here; give floats"] = lambda: _outputs(
            model, 255 * model.prepare(raw)
        )
    if model.input_mean.any():
        centred = model.copy()
        centred.input_mean[:] = 0
        trials["they agree without the model's input_mean, which is subtracted here"] = lambda: _outputs(
            centred, centred.prepare(raw)
        )
    for reason, outputs in trials.items():
        if _agree(outputs(), wanted):
            return reason
    layers = model.layers
    padded = {
        kind: any(isinstance(layer, kind) and any(layer.padding) for layer in layers) for kind in (Conv2d, AvgPool2d)
    }
    reasons = {
        "another padding of images (padding_mode='circular', 'reflect', 'replicate')": padded[Conv2d],
        "an average that leaves out the padding (count_include_pad=False)": padded[AvgPool2d],
        "another activation, or one more": True,
        "other strides, dilations, sizes or roundings (ceil_mode) of convolutions and poolings": len(model.in_shape)
        == 3,
        "another order of the flattened numbers than channel, row, column": any(isinstance(k, Flatten) for k in layers),
        "batch statistics instead of running averages (call the module's eval()), or another eps": any(
            isinstance(layer, BatchNorm) for layer in layers
        ),
        "inputs of another scale or mean": True,
        "another order of modules with the same shapes (names={layer: module})": True,
    }
    return "PyTorch's network may have " + "; ".join(reason for reason, likely in reasons.items() if likely)
