"""Weights from and for PyTorch: names, layouts, and the order of flattened images.

    ours                          PyTorch
    dense1.theta (I, O)           <module>.weight (O, I)
    conv1.theta (KH, KW, C, O)    <module>.weight (O, C, KH, KW)
    dense1.bias                   <module>.bias
    batch_norm1.gamma, .beta      <module>.weight, <module>.bias
    batch_norm1.running_mean      <module>.running_mean; likewise running_var
    batch_norm1.batches           <module>.num_batches_tracked, if momentum is None

Recurrent layers and embeddings: `svd_numpy.exchange.torch_recurrent`.

The inputs of a dense layer after a flattening are ordered by row, column, channel here, but by channel, row, column in
PyTorch. PyTorch itself is not needed: a state dict is a mapping of arrays, best stored as safetensors
(`svd_numpy.exchange.torch_arrays`).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_file, check_finite, check_type
from svd_numpy.exchange.torch_arrays import TRACKED, Modules, read_modules
from svd_numpy.exchange.torch_modules import check_module
from svd_numpy.exchange.torch_outputs import check_outputs
from svd_numpy.exchange.torch_recurrent import joined, parted
from svd_numpy.files.atomic import write_atomic
from svd_numpy.files.safe_arrays import serialise
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.window import channels_last
from svd_numpy.network.layers import GRU, LSTM, BatchNorm, Embedding, Gate
from svd_numpy.network.layers.base import Layer
from svd_numpy.network.layers.sampled import SampledWeights
from svd_numpy.network.layers.weighted import Weighted
from svd_numpy.network.model import Sequential
from svd_numpy.network.sparsity import sparsify

# PyTorch's name of an array -> our name.
_WEIGHTED = {"weight": "theta", "bias": "bias"}
_BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def from_torch_state_dict(
    model: Sequential, source: Any, names: Mapping[str, str] | None = None, check: tuple[Any, Any] | None = None
) -> dict[str, Array]:
    """Read a PyTorch state dict as arrays for `model.init_from`.

    Parameters
    ----------
    model : Sequential
        Defines the layers; it is not changed.
    source : path of a .safetensors file, module, or mapping of name to array or tensor
        A module stands for its `state_dict()`; a checkpoint that holds a state dict as "state_dict",
        "model_state_dict" or "model" stands for that. Pruning by `torch.nn.utils.prune` is understood. Half-precision
        numbers are widened to float32.
    names : mapping of layer name to module name, optional
        {"dense1": "encoder.fc1", ...}. By default, each layer takes the module of its name if all do, else the module
        with its shapes, or, if several have them, the one with the lowest number in its name. The order of the source
        does not count, since modules may be declared in another order than they run.
    check : (x, outputs), optional
        Some inputs, as `model.predict` takes them, and the outputs that PyTorch computed for them, in float32 and
        `eval()` mode. The weights are refused if they do not give these outputs here. A state dict does not tell
        how images are padded, which activations there are, or in which order numbers were flattened; a module tells
        most of that, and is compared with the model even without `check`.

    Returns
    -------
    dict of str to array
        With our names and layout, for `model.init_from` or for `init_from=` of the experiments.

    Raises
    ------
    ValueError, TypeError
        If layers and modules do not match, or the names of modules leave open which is which; the message lists them.
        If a module has other options than its layer, or the outputs differ from those of `check`.
    CheckpointError
        For a damaged file.
    """
    check_type("model", model, Sequential)
    wanted = {layer.name: _wanted(model, layer) for layer in model.layers if _names_in(layer)}
    with _naming(source):
        modules = joined(read_modules(source))
        pairs = _paired(wanted, modules) if names is None else _named(wanted, modules, names)
        found = dict[str, Array]()
        for layer in model.layers:
            if layer.name in pairs:
                module = pairs[layer.name]
                found |= _translated(model, layer, wanted[layer.name], module, modules[module])
        check_module(model, source, pairs, whole=names is None)
        if check is not None:
            check_outputs(model, found, check)
        return found


@contextlib.contextmanager
def _naming(source: Any) -> Iterator[None]:
    """Name the file in every error about what it holds."""
    try:
        yield
    except (SvdValueError, SvdTypeError) as error:
        if not isinstance(source, str | os.PathLike) or str(source) in str(error):
            raise
        kind = SvdTypeError if isinstance(error, SvdTypeError) else SvdValueError
        raise kind(f"{source}: {error}") from error


def torch_state_dict(model: Sequential, threshold: float | None = None) -> dict[str, Array]:
    """Return the pruned network as the state dict of a `torch.nn.Sequential` with the same layers.

    Parameters
    ----------
    model : Sequential
    threshold : float, optional
        On log_alpha; default: the model's.

    Returns
    -------
    dict of str to array
        "0.weight", "0.bias", ..., in float32, where the number is the position of the layer. Pruned weights are 0.
        A batch normalisation with momentum None adds "<position>.num_batches_tracked".
        `input_mean` is not included: subtract it from the inputs.

    Raises
    ------
    SvdValueError
        For a network with gates; `fold_gates` makes an ordinary one of it.
    """
    check_type("model", model, Sequential)
    grouped = [layer for layer in model.layers if isinstance(layer, SampledWeights) and layer.weight_groups]
    if gates := [layer.name for layer in model.layers if isinstance(layer, Gate) or layer in grouped]:
        raise SvdValueError(
            f"torch_state_dict: {gates} are gates, or have factors of groups, which PyTorch does not have; pass "
            "fold_gates(model), an ordinary network with the same outputs"
        )
    pruned = sparsify(model, model.threshold if threshold is None else threshold)
    arrays, found = pruned.arrays(), dict[str, Array]()
    for place, layer in enumerate(pruned.layers):
        if isinstance(layer, LSTM | GRU):
            arrays_of_layer = parted(layer, layer.theta, layer.bias)
            found |= {f"{place}.{name}": np.array(a, np.float32, order="C") for name, a in arrays_of_layer.items()}
            continue
        for theirs, ours in _names_in(layer).items():
            array = arrays.get(f"{layer.name}.{ours}")
            if array is None:  # no bias
                continue
            if not isinstance(layer, Embedding):
                array = _to_torch(ours, array, _order_after_flatten(pruned, layer))
            found[f"{place}.{theirs}"] = np.array(array, np.float32, order="C")
        if isinstance(layer, BatchNorm) and layer.momentum is None:
            found[f"{place}.{TRACKED}"] = np.array(layer.batches[0], np.int64)
    return found


def save_torch_state_dict(path: str | Path, model: Sequential, threshold: float | None = None) -> None:
    """Write `torch_state_dict` to a .safetensors file, which `safetensors.torch.load_file` reads."""
    target = check_file("path", path, ".safetensors")
    write_atomic(target, serialise(torch_state_dict(model, threshold)))


# ---- pairing ----


def _names_in(layer: Layer) -> dict[str, str]:
    if isinstance(layer, Weighted):
        return _WEIGHTED
    return _BATCH_NORM if isinstance(layer, BatchNorm) else {}


def _wanted(model: Sequential, layer: Layer) -> dict[str, tuple[int, ...]]:
    """PyTorch's shapes of a layer's arrays, by PyTorch's names."""
    known = {**model.parameters, **model.state}
    shapes = {theirs: np.shape(known.get(f"{layer.name}.{ours}", 0)) for theirs, ours in _names_in(layer).items()}
    if isinstance(layer, Embedding):
        return {"weight": shapes["weight"]}
    return {theirs: _torch_shape(shape) for theirs, shape in shapes.items() if shape}


def _named(wanted: Mapping[str, Any], modules: Mapping[str, Any], names: Any) -> dict[str, str]:
    """Pair layers with modules as the user specifies."""
    check_type("names", names, Mapping)
    for layer, module in names.items():
        if layer not in wanted or module not in modules:
            raise SvdValueError(
                f"names: got {layer!r}: {module!r}, expected layers of {list(wanted)} and modules of {list(modules)}"
            )
    return dict(names)


def _paired(wanted: Mapping[str, Any], modules: Modules) -> dict[str, str]:
    """Pair every layer with a module: the one of its name, or else of its shapes.

    If several modules have these shapes, numbers in their names must give the order. The order of the source does not
    count: modules are listed as they were declared, which need not be how they run.
    """
    shapes = {
        module: {kind: np.shape(array) for kind, array in own.items() if kind != TRACKED}
        for module, own in modules.items()
    }
    if all(shapes.get(layer) == wanted[layer] for layer in wanted) and len(wanted) == len(modules):
        return {layer: layer for layer in wanted}
    left = sorted(modules, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    pairs = dict[str, str]()
    for layer, own in wanted.items():
        fitting = [module for module in left if shapes[module] == own]
        if not fitting:
            raise SvdValueError(
                f"source: no module has the shapes {own} of layer {layer!r}, of those left: "
                f"{ {module: shapes[module] for module in left} }"
            )
        if len({re.sub(r"\d+", "", module) for module in fitting}) > 1:
            layers = [name for name, others in wanted.items() if others == own and name not in pairs]
            guess = dict(zip(layers, (module for module in modules if module in fitting), strict=False))
            raise SvdValueError(
                f"source: modules {fitting} all have the shapes {own} of layer {layer!r}, and their names do not tell "
                f"in which order they run; if it is this one, pass names={guess | pairs}, along with any other layers"
            )
        pairs[layer] = fitting[0]
        left.remove(fitting[0])
    if left:
        raise SvdValueError(
            f"source: modules {left} belong to no layer of {list(wanted)}; say which is which: names={{layer: module}}"
        )
    return pairs


def _translated(
    model: Sequential, layer: Layer, wanted: Mapping[str, tuple[int, ...]], module: str, arrays: Mapping[str, Any]
) -> dict[str, Array]:
    """Arrays of one module, with our names and layout."""
    if set(arrays) - {TRACKED} != set(wanted):
        raise SvdValueError(
            f"source: module {module!r} has {sorted(arrays)}, expected {sorted(wanted)} for layer {layer.name!r}, "
            f"a {type(layer).__name__}"
        )
    order, found = _order_after_flatten(model, layer), dict[str, Array]()
    if isinstance(layer, BatchNorm) and layer.momentum is None and TRACKED in arrays:
        batches = check_finite(f"source: {module}.{TRACKED}", arrays[TRACKED], ())
        found[f"{layer.name}.batches"] = np.full(layer.num_features, float(batches))
    for theirs, ours in _names_in(layer).items():
        if theirs in wanted:
            array = check_finite(f"source: {module}.{theirs}", arrays[theirs], wanted[theirs])
            if not np.issubdtype(array.dtype, np.floating):
                raise SvdTypeError(
                    f"source: {module}.{theirs} is of {array.dtype}, expected floats; turn quantised weights back into "
                    "floats first"
                )
            if not isinstance(layer, Embedding):
                array = _from_torch(ours, array, order)
            found[f"{layer.name}.{ours}"] = np.array(array, order="C")
    return found


# ---- layouts ----


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _from_torch(name: str, array: Array, order: Array | None) -> Array:
    """(O, I) -> (I, O), (O, C, KH, KW) -> (KH, KW, C, O); inputs are reordered by `order`."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    inputs_first = array.T  # an array of one axis stays as it is
    return inputs_first if order is None or name == "bias" else inputs_first[order]


def _to_torch(name: str, array: Array, order: Array | None) -> Array:
    """Undo `_from_torch`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return (array if order is None or name == "bias" else array[np.argsort(order)]).T


def _order_after_flatten(model: Sequential, wanted: Layer) -> Array | None:
    """PyTorch's index of each input of a layer; None unless the inputs are flattened images."""
    order = None
    for layer in model.layers[: wanted.index]:
        if len(layer.in_shape) == 3 > len(layer.out_shape):  # a flattening
            height, width, channels = layer.in_shape
            numbers = np.arange(math.prod(layer.in_shape))
            order = channels_last(numbers, (channels, height, width)).ravel()
        elif isinstance(layer, Weighted):
            order = None
    return order
