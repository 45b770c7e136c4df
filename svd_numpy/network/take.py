"""`take`: the smaller network that remains without some units, channels and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_indices, check_type
from svd_numpy.kernels.backend import Array

if TYPE_CHECKING:
    from svd_numpy.network.core import Network

_Kept = tuple[Array, Array]  # indices of the inputs and of the outputs that a layer keeps


def take(model: Any, outputs: Mapping[str, Any], inputs: Any = None) -> Any:
    """Make the network that `Sequential.take` describes."""
    check_type("outputs", outputs, Mapping)
    kept = _kept(model, outputs, inputs)
    config = model.config()
    config["layers"] = [layer.resized(*map(len, kept[layer.name])) for layer in model.layers]
    config["original"] = {
        name: model.original.get(name, (alive.size, alive.shape[1])) for name, alive in model.alive().items()
    }
    first, mean = kept[model.layers[0].name][0], model.input_mean
    if inputs is not None:
        read = first if model.input_columns is None else model.input_columns[first]
        config["input_columns"], mean = read.tolist(), mean[first]
    small = type(model).from_config(config, model.backend.name)
    small.input_mean[:] = mean
    for layer in model.layers:
        for name, axes in layer.axes.items():
            sides = dict(zip(("in", "out"), kept[layer.name], strict=True))
            _copy(model, small, f"{layer.name}.{name}", [sides.get(axis or "") for axis in axes])
    return small


def _kept(model: Network, outputs: Mapping[str, Any], inputs: Any) -> dict[str, _Kept]:
    """Work out which inputs and outputs each layer keeps, from the first layer to the last."""
    weighted = model.alive()
    if unknown := sorted(set(outputs) - set(weighted)):
        raise SvdValueError(
            f"take: got outputs of {unknown}, expected some of the layers with weights, {list(weighted)}"
        )
    if inputs is not None and len(model.inner_shape) != 1:
        raise SvdValueError(f"take: got inputs, but the model reads arrays of shape {model.in_shape}; omit inputs")
    left = np.arange(model.inner_shape[-1])
    if inputs is not None:
        left = check_indices("inputs", inputs, len(left))
    found = dict[str, _Kept]()
    for layer in model.layers:
        everything: Array = np.arange(layer.out_shape[-1])
        chosen = outputs.get(layer.name)
        if chosen is not None:
            everything = check_indices(f"outputs of {layer.name!r}", chosen, len(everything))
        behind = layer.take(everything, left)
        found[layer.name] = left, behind
        left = behind
    if len(left) < model.n_outputs:
        raise SvdValueError(
            f"take: the model's {model.n_outputs} outputs must stay; remove {model.layers[-1].name!r} from outputs"
        )
    return found


def _copy(model: Any, small: Any, name: str, chosen: list[Array | None]) -> None:
    """Copy the kept part of a parameter, with its moments and mask, or of a state."""
    sources = [model.arena.views_of(name), small.arena.views_of(name)] if name in model.parameters else None
    if sources is None:
        if name not in model.state:
            return
        sources = [[model.state[name]], [small.state[name]]]
    for old, new in zip(*sources, strict=True):
        grid = np.ix_(*(np.arange(size) if at is None else at for at, size in zip(chosen, old.shape, strict=True)))
        new[...] = old[grid]
