"""What a page holds: the weights that a threshold can keep, in few bytes, and test digits to try them on.

A weight is three numbers: how far it lies behind the one before in its layer's matrix, theta in steps of 1/127 of the
largest, and log_alpha, rounded up to an eighth, so that a threshold in eighths keeps the same weights as in Python.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.priors import LOG_SIGMA2_MIN
from svd_numpy.network.layers import AvgPool2d, BatchNorm, Conv2d, Dropout, Flatten, GaussianDropout, MaxPool2d, ReLU
from svd_numpy.network.layers.base import Layer
from svd_numpy.network.layers.weighted import Variational, Weighted
from svd_numpy.network.model import Sequential

ALPHA_STEPS = 8  # of log_alpha, per unit
_LEAST, _MOST = -128, 127  # of an int8
_PIXELS = 28 * 28


@dataclass(frozen=True, eq=False)
class Weights:
    """One layer's weights in whole numbers, all arrays flat.

    Attributes
    ----------
    theta : array of int
        In units of `scale`.
    scale : float
    log_alpha : array of int
        In eighths; -128 where a weight has none or is the same at every threshold.
    alive : array of bool
        Whether the weight is left at some threshold.
    noise : bool
        Whether the layer still has its noise.
    """

    theta: Array
    scale: float
    log_alpha: Array
    alive: Array
    noise: bool


def weights_of(model: Sequential, log_alphas: Mapping[str, Any] | None) -> dict[str, Weights]:
    """Round the weights of every layer that has any; `log_alphas` are used instead of the model's own, if given."""
    found = dict[str, Weights]()
    for layer in model.layers:
        if isinstance(layer, Weighted):
            theta = layer.theta.astype(np.float64).ravel()
            scale = float(np.abs(theta).max(initial=0)) / 127 or 1.0
            alpha, noise = np.full(theta.size, float(_LEAST)), False
            if isinstance(layer, Variational):
                noise = bool((layer.log_sigma2 > LOG_SIGMA2_MIN).any())
                given = None if log_alphas is None else log_alphas.get(layer.name)
                alpha = ALPHA_STEPS * _log_alpha(layer, given).ravel()
            # log_alphas are those before fine-tuning, of which the network itself knows what it has left.
            alive = theta != 0 if log_alphas is None else layer.alive(model.threshold).ravel()
            eighths = np.clip(np.ceil(alpha), _LEAST, _MOST).astype(np.int64)
            found[layer.name] = Weights(np.rint(theta / scale).astype(np.int64), scale, eighths, alive, noise)
    return found


def _log_alpha(layer: Variational, given: Any) -> Array:
    """log_alpha in float64: the layer's own, or what is given for it."""
    if given is None:
        with np.errstate(divide="ignore"):
            return np.asarray(layer.log_sigma2.astype(np.float64) - 2 * np.log(np.abs(layer.theta.astype(np.float64))))
    array = np.asarray(given, np.float64)
    if array.size != layer.theta.size or np.isnan(array).any():
        raise SvdValueError(
            f"log_alphas: got shape {array.shape} or NaN for layer {layer.name!r}, expected {layer.theta_shape}"
        )
    return array


def sizes_in_order(weights: Mapping[str, Weights]) -> tuple[Array, Array]:
    """Layer and number of every weight, the largest first; equal ones by their place."""
    layer = np.concatenate([np.full(w.theta.size, n) for n, w in enumerate(weights.values())])
    number = np.concatenate([np.arange(w.theta.size) for w in weights.values()])
    size = np.concatenate([np.abs(w.theta * w.scale) for w in weights.values()])
    order = np.lexsort((number, layer, -size))
    return layer[order], number[order]


def network_bytes(model: Sequential, weights: Mapping[str, Weights], most: int) -> tuple[dict[str, Any], bytes]:
    """Describe the network for JSON, and write its numbers.

    Kept are the weights that a threshold of at most `most` eighths keeps, and as many of the largest ones.
    """
    kept = {name: w.alive & (w.log_alpha <= most) for name, w in weights.items()}
    layer, number = sizes_in_order(weights)
    count = sum(int(alive.sum()) for alive in kept.values())
    for n, name in enumerate(weights):
        largest = number[:count][layer[:count] == n]
        kept[name][largest[weights[name].alive[largest]]] = True
    layers, content = list[dict[str, Any]](), bytearray()
    for own in model.layers:
        entry = _described(own)
        if isinstance(own, Weighted):
            numbers, w = np.flatnonzero(kept[own.name]), weights[own.name]
            entry |= {"count": len(numbers), "scale": w.scale, "noise": w.noise, "size": int(w.theta.size)}
            content += distances(np.diff(numbers, prepend=-1))
            content += w.theta[numbers].astype(np.int8).tobytes() + w.log_alpha[numbers].astype(np.int8).tobytes()
            content += own.bias.astype("<f4").tobytes()
        elif isinstance(own, BatchNorm):
            factor = own.gamma / np.sqrt(own.running_var + own.eps)
            content += np.stack([factor, own.beta - factor * own.running_mean]).astype("<f4").tobytes()
        if entry:
            layers.append(entry)
    mean = np.rint(255 * model.input_mean.astype(np.float64).ravel())
    if mean.any():
        content += mean.astype(np.uint8).tobytes()
    described = {
        "layers": layers,
        "alpha_steps": ALPHA_STEPS,
        "has_mean": bool(mean.any()),
        "total": sum(w.theta.size for w in weights.values()),
        "most": most,
    }
    return described, bytes(content)


def distances(steps: Array) -> bytes:
    """Write numbers in seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    for step in steps.tolist():
        while step >= 128:
            out.append(step & 127 | 128)
            step >>= 7
        out.append(step)
    return bytes(out)


def _described(layer: Layer) -> dict[str, Any]:
    """Describe a layer; {} for one that does nothing here."""
    if isinstance(layer, Flatten | Dropout | GaussianDropout):
        return {}
    entry: dict[str, Any] = {"name": layer.name, "in_shape": layer.in_shape, "out_shape": layer.out_shape}
    if isinstance(layer, ReLU):
        return entry | {"kind": "relu"}
    if isinstance(layer, AvgPool2d) and not layer.count_include_pad and layer.window.padding != (0, 0):
        raise SvdValueError(
            f"export_html: layer {layer.name!r} takes means without the padding, expected count_include_pad=True"
        )
    if isinstance(layer, BatchNorm):
        return entry | {"kind": "scale", "features": layer.num_features}
    if isinstance(layer, MaxPool2d | AvgPool2d):
        return entry | {"kind": "max" if isinstance(layer, MaxPool2d) else "avg"} | _geometry(layer.window)
    if isinstance(layer, Weighted):
        entry |= {"outputs": layer.theta_shape[-1], "kind": "dense" if layer.window is None else "conv"}
        groups = {"groups": layer.groups} if isinstance(layer, Conv2d) else {}
        return entry | groups | ({} if layer.window is None else _geometry(layer.window))
    raise SvdTypeError(
        f"export_html: layer {layer.name!r} is a {type(layer).__name__}, which a page does not have; expected dense "
        "and convolutional layers, BatchNorm, ReLU, poolings, dropout and Flatten; fold_gates(model) makes weights of "
        "gates"
    )


def _geometry(window: Any) -> dict[str, Any]:
    return {name: getattr(window, name) for name in ("kernel", "stride", "padding", "dilation")}


def check_drawable(model: Sequential) -> None:
    """Refuse a network that does not read digits of 28 x 28 pixels."""
    if math.prod(model.in_shape) != _PIXELS or len(model.in_shape) not in (1, 3) or model.n_outputs < 2:
        raise SvdValueError(
            f"export_html: the network maps {model.in_shape} to {model.n_outputs} outputs, expected a classifier of "
            "images of 28 x 28 pixels with one channel, on which the page draws"
        )
