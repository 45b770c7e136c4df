"""`take`: the smaller network that remains without some units, channels and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from svd_numpy.checks import SvdValueError, check_indices, check_type
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.living import listed as of_list

if TYPE_CHECKING:
    from svd_numpy.network.core import Network
    from svd_numpy.network.layers.base import Layer

_Kept = tuple[Array, Array]  # indices of the inputs and of the outputs that a layer keeps


class Taken(NamedTuple):
    """A smaller network, and where its numbers were in the large one.

    Attributes
    ----------
    model : Sequential
    places : dict of name -> int array
        For each parameter and state of the small network, the places of its numbers in the flat array of the large one.
    """

    model: Any
    places: dict[str, Array]


def take(
    model: Any, outputs: Mapping[str, Any], inputs: Any = None, listed: Callable[[Layer, Array], bool] | None = None
) -> Taken:
    """Make the network that `Sequential.take` describes.

    `listed` says of a layer, and of what is left of its mask (I, O), whether the small one shall have a list of those
    of its weights that are not held, instead of a matrix; by default no layer has one.
    """
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
    places, lists = dict[str, Array](), dict[str, Living]()
    for layer in model.layers:
        places |= _places(model, layer, kept[layer.name])
        if (of_theta := places.get(f"{layer.name}.theta")) is not None:
            mask = model.arena.views_of(f"{layer.name}.theta")[3].reshape(-1)[of_theta].astype(bool)
            mask = mask.reshape(-1, mask.shape[-1])
            if listed is not None and listed(layer, mask):
                lists[layer.name] = Living.of(layer.full_theta(mask))
                for name in (f"{layer.name}.theta", f"{layer.name}.log_sigma2"):
                    if name in places:
                        places[name] = of_list(lists[layer.name], layer.full_theta(places[name].reshape(mask.shape)))
    small = type(model).from_config(config, model.backend.name, living=lists)
    small.input_mean[:] = mean
    for name, at in places.items():
        for old, new in zip(arrays_of(model, name), arrays_of(small, name), strict=True):
            new.reshape(-1)[:] = old.reshape(-1)[at.reshape(-1)]
    return Taken(small, places)


def arrays_of(model: Network, name: str) -> list[Array]:
    """All that a network holds of one array: a parameter with its moments and mask, or a state."""
    return model.arena.views_of(name) if name in model.parameters else [model.state[name]]


def _places(model: Network, layer: Layer, kept: _Kept) -> dict[str, Array]:
    """Where the kept part of a layer's parameters and states is, in the flat arrays."""
    found = dict[str, Array]()
    for own, axes in layer.axes.items():
        name = f"{layer.name}.{own}"
        if name in model.parameters or name in model.state:
            shape = (model.parameters if name in model.parameters else model.state)[name].shape
            chosen = (layer.along(axis, *kept) for axis in axes)
            grid = (np.arange(size) if at is None else at for at, size in zip(chosen, shape, strict=True))
            found[name] = np.arange(math.prod(shape)).reshape(shape)[np.ix_(*grid)]
    return found


def _kept(model: Network, outputs: Mapping[str, Any], inputs: Any) -> dict[str, _Kept]:
    """Work out which inputs and outputs each layer keeps, from the first layer to the last."""
    weighted = model.alive()
    if unknown := sorted(set(outputs) - set(weighted)):
        raise SvdValueError(
            f"take: got outputs of {unknown}, expected some of the layers with weights, {list(weighted)}"
        )
    if inputs is not None and len(model.inner_shape) != 1:
        raise SvdValueError(f"take: got inputs, but the model reads arrays of shape {model.in_shape}; omit inputs")
    tokens = model.layers[0].takes_tokens
    if inputs is not None and tokens is not None:
        raise SvdValueError("take: got inputs, but the model reads tokens, which are numbered; omit inputs")
    left = np.arange(model.inner_shape[-1] if tokens is None else tokens)
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
