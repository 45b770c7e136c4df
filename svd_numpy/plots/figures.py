"""The figures that can be drawn of a trained network, given the network itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from svd_numpy import plots
from svd_numpy.network.layers import BatchNorm, Conv2d, ReLU
from svd_numpy.network.model import Sequential
from svd_numpy.network.sparsity import measure_sparsity
from svd_numpy.plots.panels import Array

_CONVOLUTIONS = 2  # feature maps are drawn of the first ones only: deeper ones mean nothing to the eye


def at_start(model: Sequential, pretrained: Sequential | None = None) -> Sequential:
    """Rebuild the network as it was before training: its initial weights are a function of its seed.

    Parameters
    ----------
    model : Sequential
        After training.
    pretrained : Sequential, optional
        The network whose weights it was then given.
    """
    start = Sequential.from_config(model.config(), model.backend.name)
    start.input_mean[...] = model.input_mean
    return start if pretrained is None else start.init_from(pretrained)


def network_figures(
    model: Sequential,
    start: Sequential | None,
    log_alphas: Mapping[str, Array],
    threshold: float,
    image_shape: tuple[int, ...],
    image: Array | None,
) -> dict[str, Callable[[], Any]]:
    """Functions that draw the figures for which all data are available.

    Parameters
    ----------
    model : Sequential
        With at least one variational layer.
    start : Sequential or None
        The same network before training, if it is known.
    log_alphas : mapping {layer name: array}
        The log dropout rates that decided what was pruned; empty if unknown.
    threshold : float
        The threshold on them.
    image_shape : (C, H, W)
        Shape of the network's input images.
    image : array (D,) or None
        One input image, as the network takes it, for the feature maps.

    Returns
    -------
    dict of str to function () -> Figure
        "live_units"; with `start` also "filters", "weight_matrix" (if there is a dense layer) and "feature_maps" (if
        there are convolutions).
    """
    figures: dict[str, Callable[[], Any]] = {"live_units": partial(plots.live_units, measure_sparsity(model).live)}
    if start is None:
        return figures
    first = model.variational_layers[0]
    if first.name in log_alphas:
        draw = partial(_filters, model, start, log_alphas[first.name], threshold, image_shape)
        figures["filters"] = draw
    dense = [layer for layer in model.variational_layers if layer.window is None]
    if dense:
        largest = max(dense, key=lambda layer: layer.theta.size)
        before = start.parameters[f"{largest.name}.theta"]
        figures["weight_matrix"] = partial(
            plots.weight_matrix, before, largest.pruned_theta(model.threshold), name=largest.name
        )
    if image is not None and any(layer.window is not None for layer in model.variational_layers):
        figures["feature_maps"] = partial(_feature_maps, model, start, image, image_shape)
    return figures


def _filters(
    model: Sequential, start: Sequential, log_alpha: Array, threshold: float, image_shape: tuple[int, ...]
) -> Any:
    first = model.variational_layers[0]
    before = start.variational_layers[0].theta
    arrays = before, first.pruned_theta(model.threshold), np.asarray(log_alpha, dtype=np.float32)
    before, after, log_alpha = (first.fields(array, image_shape)[0] for array in arrays)
    shape = first.fields(first.theta, image_shape)[1]
    # Of hidden units fewer are drawn, as each fills a whole image.
    n, units = (16, "hidden units") if first.window is None else (64, "filters")
    return plots.filters(before, after, log_alpha, threshold, shape, n, units)


def _feature_maps(model: Sequential, start: Sequential, image: Array, image_shape: tuple[int, ...]) -> Any:
    before, after = (_answers(network, image) for network in (start, model))
    live: dict[str, Array] = {
        layer.name: np.any(layer.pruned_theta(model.threshold), axis=0)
        for layer in model.variational_layers
        if layer.name in after
    }
    return plots.feature_maps(np.reshape(image, image_shape), before, after, live)


def _answers(model: Sequential, image: Array) -> dict[str, Array]:
    """Feature maps (O, h, w) of the first convolutions, after the normalisation and ReLU that follow each."""
    outputs, answers, name = model.activations(image[None]), dict[str, Array](), ""
    for layer in model.layers:
        if isinstance(layer, Conv2d):
            name = layer.name
            if len(answers) == _CONVOLUTIONS:
                break
        elif not (name and isinstance(layer, BatchNorm | ReLU)):
            name = ""
        if name:
            answers[name] = outputs[layer.name][0]
    return answers
